"""The hard concrete distribution: a gate in [0, 1] that is often exactly 0 or 1, and its KL."""

from __future__ import annotations

import numpy as np
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints, register_kl
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid, softplus
from typing_extensions import override

from bayesdrop.ops import noise
from bayesdrop.ops.stable import wide
from bayesdrop.typing import Shape

_NODES = 64


class HardConcrete(TorchDistribution):
    r"""Hard concrete distribution: a stretched binary concrete, clamped to the unit interval.

    .. math::
        z = \min(1, \max(0, \gamma + (\zeta - \gamma)\, s)), \qquad
        s = \sigma\bigl((\ell + \log u - \log(1 - u)) / \beta\bigr), \quad u \sim U(0, 1)

        P(z \ne 0) = \sigma\bigl(\ell - \beta \log(-\gamma / \zeta)\bigr), \qquad
        P(z = 1) = \sigma\bigl(\ell - \beta \log\tfrac{1 - \gamma}{\zeta - 1}\bigr)

    Args:
        logits: :math:`\ell`, the paper's :math:`\log\alpha`.
        temperature: :math:`\beta > 0`.
        lower: :math:`\gamma < 0`.
        upper: :math:`\zeta > 1`.
        validate_args: Whether to check arguments and values.

    Shape:  batch shape is the broadcast shape of the arguments, event shape ``()``.

    ``log_prob`` is the logarithm of a probability at 0 and 1, and of a density between.

    References:
        Louizos, Welling, Kingma (2018), eqs. 10-12, https://arxiv.org/abs/1712.01312.

    Example:
        >>> z = HardConcrete(torch.zeros(3)).rsample((2,))
        >>> z.shape, bool(((z >= 0) & (z <= 1)).all())
        (torch.Size([2, 3]), True)
    """

    arg_constraints = {
        "logits": constraints.real,
        "temperature": constraints.positive,
        "lower": constraints.less_than(0.0),
        "upper": constraints.greater_than(1.0),
    }
    support = constraints.unit_interval
    has_rsample = True

    def __init__(
        self,
        logits: Tensor | float,
        temperature: Tensor | float = 2 / 3,
        lower: Tensor | float = -0.1,
        upper: Tensor | float = 1.1,
        *,
        validate_args: bool | None = None,
    ) -> None:
        values = broadcast_all(logits, temperature, lower, upper)
        self.logits, self.temperature, self.lower, self.upper = values
        super().__init__(self.logits.shape, validate_args=validate_args)

    @override
    def expand(self, batch_shape: Shape, _instance: object = None) -> HardConcrete:
        new = self._get_checked_instance(HardConcrete, _instance)
        for name in self.arg_constraints:
            setattr(new, name, getattr(self, name).expand(batch_shape))
        super(HardConcrete, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @override
    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        s = torch.sigmoid((self.logits + noise.logistic(shape, self.logits)) / self.temperature)
        return torch.lerp(self.lower, self.upper, s).clamp(0.0, 1.0)

    @property
    def logit_nonzero(self) -> Tensor:
        """Log-odds that the gate is not zero."""
        return self.logits - self._position(0.0)

    @property
    def logit_one(self) -> Tensor:
        """Log-odds that the gate is one."""
        return self.logits - self._position(1.0)

    @property
    def prob_nonzero(self) -> Tensor:
        """Probability that the gate is not zero."""
        return torch.sigmoid(self.logit_nonzero)

    @property
    def prob_one(self) -> Tensor:
        """Probability that the gate is one."""
        return torch.sigmoid(self.logit_one)

    @property
    def test_value(self) -> Tensor:
        r"""The gate without noise, :math:`\gamma + (\zeta - \gamma)\,\sigma(\ell)`, clamped.

        Zero where :math:`\ell \le \log(-\gamma / \zeta)`.
        """
        return torch.lerp(self.lower, self.upper, torch.sigmoid(self.logits)).clamp(0.0, 1.0)

    @property
    @override
    def mean(self) -> Tensor:
        r""":math:`\int_0^1 P(z > v)\,dv`, by Gauss-Legendre quadrature with 64 nodes."""
        nodes, weights = np.polynomial.legendre.leggauss(_NODES)
        v = torch.as_tensor(0.5 * (nodes + 1)).to(self.logits)
        w = torch.as_tensor(0.5 * weights).to(self.logits)
        wider = self.expand((_NODES, *self.batch_shape))
        v = v.reshape(-1, *[1] * len(self.batch_shape))
        survival = torch.sigmoid(wider.logits - wider._position(v))
        return torch.tensordot(w, survival, dims=1)

    def _position(self, value: Tensor | float) -> Tensor:
        # beta logit((v - gamma) / (zeta - gamma)): P(z > v) is sigmoid(logits - position).
        below, above = value - self.lower, self.upper - value
        return self.temperature * (below / above).log()

    @override
    def cdf(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        inside = torch.sigmoid(self._position(value) - self.logits)
        return torch.where(value >= 1, torch.ones_like(inside), inside)

    @override
    def icdf(self, value: Tensor) -> Tensor:
        s = torch.sigmoid((self.logits + torch.logit(value)) / self.temperature)
        return torch.lerp(self.lower, self.upper, s).clamp(0.0, 1.0)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        shifted = self.logits - self._position(value)
        below, above = value - self.lower, self.upper - value
        slope = (self.temperature * (self.upper - self.lower)).log() - below.log() - above.log()
        inside = slope + shifted - 2 * softplus(shifted)
        at_end = torch.where(
            value <= 0, logsigmoid(-self.logit_nonzero), logsigmoid(self.logit_one)
        )
        return torch.where((value <= 0) | (value >= 1), at_end, inside)


@register_kl(HardConcrete, HardConcrete)
def _kl_hard_concrete_hard_concrete(q: HardConcrete, p: HardConcrete) -> Tensor:
    r"""Closed for equal temperature and limits: two atoms and the interior.

    With :math:`\delta` the difference of the logits and :math:`[F_0, F_1]` the range of the
    distribution function of ``q`` in the interior, that part is
    :math:`\int_{F_0}^{F_1} \log q - \log p \, dF =
    \delta (F_1 - F_0) + 2 \int \log(F + e^{-\delta} (1 - F))\, dF`.
    """
    pairs = ((q.temperature, p.temperature), (q.lower, p.lower), (q.upper, p.upper))
    if not all(bool((a == b).all()) for a, b in pairs):
        # Pyro's TraceMeanField_ELBO then samples the difference of the densities.
        raise NotImplementedError("hard concrete distributions of unequal temperature or limits")
    nonzero, one = wide(q.logit_nonzero), wide(q.logit_one)
    other_nonzero, other_one = wide(p.logit_nonzero), wide(p.logit_one)
    zero_part = torch.sigmoid(-nonzero) * (logsigmoid(-nonzero) - logsigmoid(-other_nonzero))
    one_part = torch.sigmoid(one) * (logsigmoid(one) - logsigmoid(other_one))
    # Mirrored where needed, so that the exponential is at most one.
    difference = wide(q.logits) - wide(p.logits)
    mirror = difference < 0
    low = torch.where(mirror, torch.sigmoid(one), torch.sigmoid(-nonzero))
    high = torch.where(mirror, torch.sigmoid(nonzero), torch.sigmoid(-one))
    gap = torch.where(mirror, -difference, difference)  # abs has no gradient at zero
    inside = gap * (high - low) + 2 * _integral_of_log(gap, low, high)
    return (zero_part + inside + one_part).to(q.logits.dtype)


def _integral_of_log(gap: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the integral of ``log(F + exp(-gap) (1 - F))`` over F from ``low`` to ``high``."""
    # The antiderivative (w log w - w) / (1 - e^-gap) loses digits where the gap is small; there
    # log(1 - t (1 - F)) is integrated term by term.
    small = gap < 1e-2
    share = -torch.expm1(-torch.where(small, 1.0, gap))
    ends = [1 - share * (1 - f) for f in (low, high)]
    below, above = (w * (w.clamp(min=torch.finfo(w.dtype).tiny).log() - 1) for w in ends)
    closed = (above - below) / share
    t = -torch.expm1(-torch.where(small, gap, 0.0))
    top, bottom = 1 - low, 1 - high
    series = torch.zeros_like(closed)
    for n in range(1, 8):
        series = series - t**n / n * (top ** (n + 1) - bottom ** (n + 1)) / (n + 1)
    return torch.where(small, series, closed)
