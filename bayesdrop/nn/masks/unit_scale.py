"""What dropout layers share whose masks are scales of the units, with a prior that wants none."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, get_args

from pyro.distributions import Delta, TorchDistribution
from torch import Tensor
from torch.distributions import kl_divergence as torch_kl_divergence
from typing_extensions import override

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
    def prior(self) -> dict[str, TorchDistribution]:
        units = self.unit_priors() if self.shared_by == "batch" else {}
        return {**self.layer_priors(), **units}

    @override
    def posterior(self) -> dict[str, TorchDistribution]:
        units = self.unit_posteriors() if self.shared_by == "batch" else {}
        return {**self.layer_posteriors(), **units}

    @override
    def penalty(self) -> Tensor | None:
        if self.shared_by == "batch":
            return None
        priors = self.unit_priors()
        terms = [
            torch_kl_divergence(q, priors[name]) for name, q in self.unit_posteriors().items()
        ]
        return sum(terms[1:], start=terms[0])

    @override
    def mask_distribution(self, latents: Latents, x: Tensor | None = None) -> TorchDistribution:
        if self.shared_by == "example":
            return self.scale_given(latents)
        return Delta(self.scale(latents), event_dim=1, validate_args=False)
