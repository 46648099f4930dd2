"""Concrete dropout: Bernoulli dropout whose rate is learned by gradient."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, TransformedDistribution
from torch import Tensor, nn
from torch.distributions.transforms import AffineTransform
from torch.nn.functional import softplus
from typing_extensions import override

from bayesdrop.distributions.scaled_bernoulli import ScaledBernoulli
from bayesdrop.errors import ConfigError
from bayesdrop.nn.catalogue import register
from bayesdrop.nn.masks.relaxation import Relaxation, bernoulli_mask, check_relaxation
from bayesdrop.nn.masks.unit_noise import UnitNoiseDropout
from bayesdrop.nn.two_valued import TwoValuedMask
from bayesdrop.typing import Latents

_BOUND = 15.0  # beyond it, 1 / keep_prob is more than three million


@register
class ConcreteDropout(TwoValuedMask, UnitNoiseDropout):
    r"""Concrete dropout: one learned drop rate for each layer, or for each unit.

    .. math::
        q(z_{nk} = \tfrac{1}{1 - p}) = 1 - p, \quad q(z_{nk} = 0) = p, \qquad
        \mathrm{KL} = \frac{l^2}{2} \frac{\lVert V \rVert^2}{1 - p} - K\, H(p)

        H(p) = -p \log p - (1 - p) \log(1 - p), \qquad
        \tilde z = \frac{1}{1 - p} \Bigl(1 - \sigma\bigl(\tfrac1\lambda
        (\mathrm{logit}\,p + \log u - \log(1 - u))\bigr)\Bigr), \quad u \sim U(0, 1)

    The masks belong to the weights :math:`W = V \operatorname{diag}(z)` of the layer behind them,
    whose prior is :math:`N(0, l^{-2} I)`; with :math:`M = V / (1 - p)` the first term is the
    paper's :math:`\frac{l^2}{2} (1 - p) \lVert M \rVert^2`. The KL is the layer's ``penalty()``,
    in nats for the whole data set, so that the mean loss has it divided by :math:`N`.

    **The factor 2.** Divided by :math:`N`, its coefficients are :math:`l^2 / (2 N)` and
    :math:`1 / N`. The released code for regression has twice those, because the loss next to them,
    :math:`e^{-s} (y - \mu)^2 + s`, is twice the negative log-likelihood. Beside an ordinary
    likelihood, such as cross-entropy, they must not be doubled.

    In training mode masks are relaxed (binary concrete), in evaluation mode exact. Relaxed noise
    is weaker: at temperature 2/3 and :math:`p = 0.1` it has 0.61 of the exact variance and a mean
    of 0.95 instead of 1; ``relaxation="straight-through"`` has neither fault. The entropy pulls
    :math:`p` towards 1/2 with weight :math:`K / N`: for few data and wide layers it dominates.

    Args:
        num_units: Number of units :math:`K`.
        unit_dim: The masked dimension: -1 for features, -3 for convolution maps.
        batch_dim: The dimension of the examples, counted from the first.
        threshold: Units with a keep probability below this are pruned.
        kl_scale: Factor on the KL.
        init_drop_prob: Initial :math:`p` in (0, 1).
        per_unit: Whether each unit has its own :math:`p_k`; the KL is then the sum over units.
        length_scale: :math:`l > 0`; None leaves the weights to the optimiser's weight decay. A
            number needs the layer that ``convert``, or ``bind_weights``, names.
        temperature: :math:`\lambda > 0`; None is 0.1 for features and 2/3 for maps.
        relaxation: ``"concrete"``, or ``"straight-through"`` for masks that are exact forward.

    Shape:  input and output ``(N, ..., K)``, or ``(N, ..., K, H, W)`` with ``unit_dim=-3``.
    Sites:  ``{module path}.z``, plate ``data``, event ``(K,)``.

    References:
        Gal, Hron, Kendall (2017), "Concrete Dropout", https://arxiv.org/abs/1705.07832.
        Deviations: no offset of 1e-7 inside the logarithms, since the mask is computed in logit
        space; ``convert`` puts the mask of a convolution on its output channels, the paper on its
        input channels; evaluation mode multiplies by the mean mask instead of always sampling.

    Example:
        >>> layer = ConcreteDropout(4)
        >>> layer.drop_logits.shape, layer(torch.ones(2, 4)).shape
        (torch.Size([]), torch.Size([2, 4]))
        >>> ConcreteDropout(4, per_unit=True).drop_logits.shape
        torch.Size([4])
    """

    key: ClassVar[str] = "concrete"
    reference: ClassVar[str] = "Gal et al. (2017), https://arxiv.org/abs/1705.07832"
    schedulable: ClassVar[tuple[str, ...]] = ("temperature",)

    temperature: Tensor

    def __init__(
        self,
        num_units: int,
        *,
        unit_dim: int = -1,
        batch_dim: int = 0,
        threshold: float = 1e-3,
        kl_scale: float = 1.0,
        init_drop_prob: float = 0.1,
        per_unit: bool = False,
        length_scale: float | None = None,
        temperature: float | None = None,
        relaxation: Relaxation = "concrete",
    ) -> None:
        super().__init__(
            num_units,
            unit_dim=unit_dim,
            batch_dim=batch_dim,
            threshold=threshold,
            kl_scale=kl_scale,
            length_scale=length_scale,
        )
        if temperature is None:
            temperature = 0.1 if unit_dim == -1 else 2 / 3
        if not 0.0 < init_drop_prob < 1.0 or not 0.0 < temperature < math.inf:
            raise ConfigError(
                type(self).__name__,
                expected="0 < init_drop_prob < 1 and a finite temperature > 0",
                got=f"init_drop_prob={init_drop_prob}, temperature={temperature}",
                hint="The defaults are 0.1, and 0.1 (features) or 2/3 (maps).",
            )
        check_relaxation(relaxation)
        self.relaxation = relaxation
        logit = math.log(init_drop_prob / (1 - init_drop_prob))
        self.drop_logits = nn.Parameter(torch.full((num_units,) if per_unit else (), logit))
        self.register_buffer("temperature", torch.full((), temperature))

    @classmethod
    @override
    def options_from_dropout(cls, dropout: nn.Module) -> dict[str, Any]:
        rate = getattr(dropout, "p", 0.0)
        return {"init_drop_prob": rate} if 0.0 < rate < 1.0 else {}

    @classmethod
    @override
    def options_for_trained(cls, num_units: int, keep_prob: float) -> dict[str, Any]:
        return {"init_drop_prob": 1 - keep_prob}

    @override
    def mask_distribution(self, latents: Latents, x: Tensor | None = None) -> TorchDistribution:
        if not self.training:
            return ScaledBernoulli(self.keep_prob(), validate_args=False).to_event(1)
        logits = self.keep_logits(latents)
        fn = bernoulli_mask(logits, self.temperature, self.relaxation, relaxed=True)
        scale = AffineTransform(0.0, 1 / self.keep_prob(), event_dim=1)
        return TransformedDistribution(fn, scale, validate_args=False)

    @override
    def keep_logits(self, latents: Latents, x: Tensor | None = None) -> Tensor:
        return -self._bounded().expand(self.num_units)

    @override
    def mask_where(self, kept: Tensor) -> Tensor:
        return kept / self.keep_prob()

    @override
    def keep_prob(self) -> Tensor:
        return torch.sigmoid(-self._bounded()).expand(self.num_units)

    @override
    def carried(self) -> dict[str, Tensor]:
        if self.length_scale is not None:
            raise self.cannot_carry(
                f"one of masks and weights together (length_scale={self.length_scale:g})"
            )
        return {"drop_logits": self._bounded()}

    @override
    def penalty(self) -> Tensor:
        logits = self._bounded()
        keep = torch.sigmoid(-logits)
        entropy = (1 - keep) * softplus(-logits) + keep * softplus(logits)
        previous = self.previous("drop_logits")
        if previous is not None:  # up to a constant, the prior was a rate of one half
            entropy = entropy - (1 - keep) * softplus(-previous) - keep * softplus(previous)
        kl = -entropy.expand(self.num_units).sum()
        energy = self._expected_energy(1 / keep, bias=False)
        return kl if energy is None else kl + energy

    def _bounded(self) -> Tensor:
        return self.drop_logits.clamp(-_BOUND, _BOUND)
