"""What dropout layers share whose masks are scales of the units, with a prior that wants none."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, get_args

from pyro.distributions import Delta, TorchDistribution
from torch import Tensor
from torch.distributions import kl_divergence as torch_kl_divergence
from typing_extensions import override

from bayesdrop.distributions.elements import elements
from bayesdrop.errors import unknown_name
from bayesdrop.nn.mask import BayesianDropout, MaskKind
from bayesdrop.typing import Latents, SharedBy


class UnitScaleDropout(BayesianDropout):
    r"""Abstract layer whose mask is a random scale :math:`z_k` of each unit's weights.

    The scale is never zero. A unit is pruned where its noise drowns it: ``keep_prob`` is

    .. math:: \frac{E[z_k]^2}{E[z_k^2]}

    A subclass says what the units have (``unit_priors``, ``unit_posteriors``), what they share, if
    anything (``layer_priors``, ``layer_posteriors``), and how a scale follows from both
    (``scale``, and its distribution given what is shared, ``scale_given``).

    Args:
        num_units: Number of units :math:`K`.
        unit_dim: The masked dimension: -1 for features, -3 for convolution maps.
        batch_dim: The dimension of the examples, counted from the first.
        threshold: Units whose ``keep_prob`` is below this are pruned.
        kl_scale: Factor on this layer's KL divergence.
        shared_by: ``"batch"``: one draw of the scales for all examples. ``"example"``: one for
            each, with the same objective and a less noisy gradient; what the units have is then
            no global site, and its divergence the layer's ``penalty``.
    """

    mask_kind: ClassVar[MaskKind] = "noise"

    def __init__(
        self,
        num_units: int,
        *,
        unit_dim: int = -1,
        batch_dim: int = 0,
        threshold: float = 0.5,
        kl_scale: float = 1.0,
        shared_by: SharedBy = "batch",
    ) -> None:
        super().__init__(
            num_units,
            unit_dim=unit_dim,
            batch_dim=batch_dim,
            threshold=threshold,
            kl_scale=kl_scale,
        )
        if shared_by not in get_args(SharedBy):
            raise unknown_name("shared_by", shared_by, get_args(SharedBy))
        self.shared_by = shared_by

    @abstractmethod
    def unit_priors(self) -> dict[str, TorchDistribution]:
        """Return the prior of what each unit has, event shape ``(K,)``."""

    @abstractmethod
    def unit_posteriors(self) -> dict[str, TorchDistribution]:
        """Return the posterior of what each unit has, event shape ``(K,)``."""

    def layer_priors(self) -> dict[str, TorchDistribution]:
        """Return the prior of what all units share, event shape ``(1,)``."""
        return {}

    def layer_posteriors(self) -> dict[str, TorchDistribution]:
        """Return the posterior of what all units share, event shape ``(1,)``."""
        return {}

    @abstractmethod
    def scale(self, latents: Latents) -> Tensor:
        """Return the scales, given what the units and the layer have."""

    @abstractmethod
    def scale_given(self, latents: Latents) -> TorchDistribution:
        """Return the distribution of the scales given what the units share, event ``(K,)``."""

    @override
    def carried(self) -> dict[str, Tensor]:
        # Normal or log-normal, all of them.
        found = {**self.layer_posteriors(), **self.unit_posteriors()}
        of_elements = [(name, elements(fn)) for name, fn in found.items()]
        locs = {f"{name}_loc": fn.loc for name, fn in of_elements}
        return locs | {f"{name}_scale": fn.scale for name, fn in of_elements}

    def _updated(
        self, priors: dict[str, TorchDistribution], posteriors: dict[str, TorchDistribution]
    ) -> dict[str, TorchDistribution]:
        """Return the priors, or the earlier posteriors that ``bd.update_prior`` has made them."""
        found = dict(priors)
        for name, q in posteriors.items():
            loc, scale = self.previous(f"{name}_loc"), self.previous(f"{name}_scale")
            if loc is not None and scale is not None:
                found[name] = type(elements(q))(loc, scale, validate_args=False).to_event(1)
        return found

    @override
    def prior(self) -> dict[str, TorchDistribution]:
        shared = self._updated(self.layer_priors(), self.layer_posteriors())
        if self.shared_by == "example":
            return shared
        return {**shared, **self._updated(self.unit_priors(), self.unit_posteriors())}

    @override
    def posterior(self) -> dict[str, TorchDistribution]:
        units = self.unit_posteriors() if self.shared_by == "batch" else {}
        return {**self.layer_posteriors(), **units}

    @override
    def penalty(self) -> Tensor | None:
        if self.shared_by == "batch":
            return None
        posteriors = self.unit_posteriors()
        priors = self._updated(self.unit_priors(), posteriors)
        terms = [torch_kl_divergence(q, priors[name]) for name, q in posteriors.items()]
        return sum(terms[1:], start=terms[0])

    @override
    def mask_distribution(self, latents: Latents, x: Tensor | None = None) -> TorchDistribution:
        if self.shared_by == "example":
            return self.scale_given(latents)
        return Delta(self.scale(latents), event_dim=1, validate_args=False)
