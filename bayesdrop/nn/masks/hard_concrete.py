"""L0 regularisation: gates that are exactly zero, and a price on what each one switches on."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import kl_divergence as torch_kl_divergence
from typing_extensions import override

from bayesdrop.distributions.hard_concrete import HardConcrete
from bayesdrop.errors import ConfigError
from bayesdrop.nn.catalogue import register
from bayesdrop.nn.masks.priced_units import PricedUnits
from bayesdrop.ops.stable import clamp_inward
from bayesdrop.typing import Latents

_MAX_LOGIT = math.log(100.0)


@register
class HardConcreteDropout(PricedUnits):
    r"""Hard-concrete gates with an L0 penalty.

    .. math::
        q(z_{nk}) = \mathrm{HardConcrete}(\ell_k, \beta, \gamma, \zeta), \qquad
        \mathrm{loss} = E_q[-\log p(y \mid x, z)]
        + \sum_k P_q(z_k \ne 0)\,\bigl(\lambda |g_k| + \tfrac{\tau}{2} \lVert w_k \rVert^2\bigr)

    where :math:`w_k` are the :math:`|g_k|` parameters that gate :math:`k` governs: the weights
    that a unit is multiplied by, or those that compute it, with its bias, where the gate is on a
    layer's outputs. It is the ELBO of a spike-and-slab prior under which switching a parameter on
    costs :math:`\lambda` nats. The gate is its own relaxation: masks are the same in training and
    evaluation mode, in [0, 1] with atoms at both ends.

    In evaluation mode the layer multiplies by the gate without noise,
    :math:`\hat z = \min(1, \max(0, \gamma + (\zeta - \gamma)\,\sigma(\ell)))`, and a unit with
    :math:`\hat z = 0` is pruned.

    Args:
        num_units: Number of gates :math:`K`.
        unit_dim: The masked dimension: -1 for features, -3 for convolution maps.
        batch_dim: The dimension of the examples, counted from the first.
        threshold: Units with :math:`P(z \ne 0)` below this are pruned, as are those with
            :math:`\hat z = 0`. None is the probability at which the second happens, 0.31.
        kl_scale: Factor on the penalty.
        cost_per_parameter: :math:`\lambda \ge 0` in nats of the whole data set, the paper's
            :math:`\lambda` times the number of examples.
        prior_precision: :math:`\tau \ge 0` of a slab :math:`N(0, 1 / \tau)` on the weights. Then
            turn off ``fit``'s ``weight_decay``, which is :math:`\tau / N` on all weights alike.
        prior_logits: Adds :math:`\mathrm{KL}(q(z_k) \,\|\, \mathrm{HardConcrete}(\text{prior}))`
            for each gate, in closed form. Pass ``cost_per_parameter=0`` for that alone.
        init_logits: Initial :math:`\ell`, at most :math:`\log 100` in size. The default starts
            with gates nearly 1, for pretrained weights. The paper's, from scratch, are 0, and
            1.386 on the input layer.
        temperature: :math:`\beta > 0`.
        lower: :math:`\gamma < 0`.
        upper: :math:`\zeta > 1`.

    Shape:  input and output ``(N, ..., K)``, or ``(N, ..., K, H, W)`` with ``unit_dim=-3``.
    Sites:  ``{module path}.z``, plate ``data``, event ``(K,)``; the penalty is the factor
        ``{module path}.penalty``.

    ``convert`` says which layer the gates belong to (``bind_weights``). Without it
    :math:`|g_k| = 1`, the price is one of units, and ``prior_precision`` raises an error. The
    number is part of the state, so that loading restores it.

    References:
        Louizos, Welling, Kingma (2018), "Learning Sparse Neural Networks through L0
        Regularization", eqs. 10-12 and 15, https://arxiv.org/abs/1712.01312.
        Deviations: gates are drawn for each example, which the authors' code does as
        ``local_rep``; all start alike; logits are clamped where they are used; gates of
        convolutions come after the activation.

    Example:
        >>> HardConcreteDropout(4).keep_prob().shape
        torch.Size([4])
        >>> gates = HardConcreteDropout(4)
        >>> gates.bind_weights(nn.Linear(4, 10), dim=1)
        >>> gates
        HardConcreteDropout(4, cost_per_parameter=0.1, parameters_per_unit=10)
    """

    key: ClassVar[str] = "hard-concrete"
    reference: ClassVar[str] = "Louizos et al. (2018), https://arxiv.org/abs/1712.01312"

    schedulable: ClassVar[tuple[str, ...]] = ("temperature",)
    per_unit: ClassVar[tuple[str, ...]] = ("logits", "previous_logits")

    temperature: Tensor

    def __init__(
        self,
        num_units: int,
        *,
        unit_dim: int = -1,
        batch_dim: int = 0,
        threshold: float | None = None,
        kl_scale: float = 1.0,
        cost_per_parameter: float = 0.1,
        prior_precision: float = 0.0,
        prior_logits: float | None = None,
        init_logits: float = 2.0,
        temperature: float = 2 / 3,
        lower: float = -0.1,
        upper: float = 1.1,
    ) -> None:
        _check(
            -math.inf < lower < 0.0 and 1.0 < upper < math.inf and 0.0 < temperature < math.inf,
            expected="lower < 0, upper > 1 and temperature > 0, all finite",
            got=f"{lower=}, {upper=} and {temperature=}",
            hint="The paper's are -0.1, 1.1 and 2/3.",
        )
        _check(
            all(abs(value) <= _MAX_LOGIT for value in (init_logits, prior_logits or 0.0)),
            expected=f"init_logits and prior_logits of at most {_MAX_LOGIT:.3f} in size",
            got=f"{init_logits=} and {prior_logits=}",
            hint="Beyond it a gate is 1, or 0, for good.",
        )
        if threshold is None:
            odds = (1.0 - temperature) * math.log(-lower / upper)
            threshold = 1.0 / (1.0 + math.exp(-odds))
        super().__init__(
            num_units,
            unit_dim=unit_dim,
            batch_dim=batch_dim,
            threshold=threshold,
            kl_scale=kl_scale,
        )
        self._set_prices(cost_per_parameter, prior_precision)
        self.prior_logits = prior_logits
        self.lower, self.upper = lower, upper
        self.logits = nn.Parameter(torch.full((num_units,), float(init_logits)))
        self.register_buffer("temperature", torch.full((), float(temperature)))

    @classmethod
    @override
    def options_for_trained(cls, num_units: int, keep_prob: float) -> dict[str, Any]:
        # P(z = 1) for the default stretch and temperature, as far as logits go.
        logits = math.log(keep_prob / (1 - keep_prob)) + 2 / 3 * math.log(11.0)
        return {"init_logits": min(logits, _MAX_LOGIT)}

    def _gates(self) -> HardConcrete:
        # The constructor has checked the arguments, and this runs at every step.
        logits = clamp_inward(self.logits, -_MAX_LOGIT, _MAX_LOGIT)
        return HardConcrete(logits, self.temperature, self.lower, self.upper, validate_args=False)

    @override
    def prior(self) -> dict[str, TorchDistribution]:
        return {}

    @override
    def posterior(self) -> dict[str, TorchDistribution]:
        return {}

    @override
    def mask_distribution(self, latents: Latents, x: Tensor | None = None) -> TorchDistribution:
        return self._gates().to_event(1)

    @override
    def carried(self) -> dict[str, Tensor]:
        return {"logits": self._gates().logits}

    @override
    def penalty(self) -> Tensor:
        gates = self._gates()
        previous = self.previous("logits")
        if previous is not None:  # a prior of the gates, and no price a parameter
            return torch_kl_divergence(gates, self._prior(previous)).sum()
        total = (gates.prob_nonzero * self._price()).sum()
        if self.prior_logits is None:
            return total
        prior = self._prior(torch.full_like(gates.logits, self.prior_logits))
        return total + torch_kl_divergence(gates, prior).sum()

    def _prior(self, logits: Tensor) -> HardConcrete:
        return HardConcrete(logits, self.temperature, self.lower, self.upper, validate_args=False)

    @override
    def keep_prob(self) -> Tensor:
        return self._gates().prob_nonzero

    @override
    def mean_mask(self, x: Tensor | None = None) -> Tensor:
        gates = self._gates()
        return gates.test_value.masked_fill(gates.prob_nonzero < self.threshold, 0.0)

    @override
    @torch.no_grad()
    def kept(self) -> Tensor:
        return self.mean_mask() != 0


def _check(good: bool, *, expected: str, got: str, hint: str) -> None:
    if not good:
        who = HardConcreteDropout.__name__
        raise ConfigError(who, expected=expected, got=got, hint=hint)
