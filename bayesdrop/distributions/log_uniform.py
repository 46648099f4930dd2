"""The improper log-uniform prior of a weight, and the KL divergences of a normal to it."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal, TypeAlias, get_args

import torch
from pyro.distributions import TorchDistribution
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor
from torch.distributions import Normal, constraints, register_kl
from typing_extensions import override

from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.ops.elementwise import log1p
from bayesdrop.ops.stable import EULER_GAMMA
from bayesdrop.ops.transforms import plain_gradients, takes_plain_operations
from bayesdrop.typing import Shape

Divergence: TypeAlias = Literal["exact", "fit", "cubic"]
"""How the KL divergence of a normal is computed, see ``LogUniform``."""

_LOG_SCALE = -0.5 * (1.0 + EULER_GAMMA + math.log(4.0 * math.pi))


class LogUniform(TorchDistribution):
    r"""Improper prior of a weight: uniform in :math:`\log |w|`, over all of the real line.

    .. math:: p(w) = \frac{C}{|w|}, \qquad \log C = -\tfrac12 (1 + \gamma + \log 4\pi)

    It has a density but no normaliser, and cannot be sampled. The constant is chosen such that
    the KL divergence of :math:`\mathcal N(\theta, \sigma^2)` is 0 at :math:`\theta = 0`; it is
    then positive, and depends on :math:`\alpha = \sigma^2 / \theta^2` alone.

    Args:
        batch_shape: Shape of the weights.
        divergence: ``"exact"``, to 1e-8. ``"fit"`` is sparse variational dropout's published
            approximation, off by up to 0.0094 nats at :math:`\log \alpha = -3.5`. ``"cubic"`` is
            Kingma's, for :math:`\alpha \le 1` only: larger ones count as 1. Only with the exact
            one does a Monte Carlo estimate from ``log_prob`` have the same mean.

    Raises:
        ConfigError: If the divergence is unknown, or a sample is asked for.

    References:
        Kingma, Salimans, Welling (2015), https://arxiv.org/abs/1506.02557.
        Molchanov, Ashukha, Vetrov (2017), https://arxiv.org/abs/1701.05369.
        Hron, Matthews, Ghahramani (2018), https://arxiv.org/abs/1807.01969: under this prior the
        exact posterior is improper too, so the KL is best read as a penalty.

    Example:
        >>> LogUniform().log_prob(torch.ones(3)).shape
        torch.Size([3])
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.real
    has_rsample = False

    def __init__(
        self,
        batch_shape: Shape = (),
        *,
        divergence: Divergence = "exact",
        validate_args: bool | None = None,
    ) -> None:
        if divergence not in get_args(Divergence):
            raise unknown_name("divergence of LogUniform", divergence, get_args(Divergence))
        self.divergence = divergence
        super().__init__(torch.Size(batch_shape), validate_args=validate_args)

    @override
    def expand(self, batch_shape: Shape, _instance: Any = None) -> LogUniform:
        new = self._get_checked_instance(LogUniform, _instance)
        new.divergence = self.divergence
        super(LogUniform, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        # The density has a pole at 0; a float next to it stands for it.
        log_abs = value.abs().clamp(min=torch.finfo(value.dtype).tiny).log()
        return (_LOG_SCALE - log_abs).expand(shape)

    @override
    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        # Predictive, even with a guide, and MCMC first run the model for its shapes, under a
        # handler that takes any value there.
        if any(isinstance(frame, InitMessenger) for frame in _PYRO_STACK):
            return torch.ones(self._extended_shape(torch.Size(sample_shape)))
        raise ConfigError(
            "LogUniform",
            expected="a value, from the guide or from poutine.condition",
            got="a request for a sample of an improper prior",
            hint="Predict with Predictive(bnn.model, guide=bnn.guide, ...) or bd.predict; for "
            "prior samples use layers with prior='hierarchical'.",
        )


@register_kl(Normal, LogUniform)
def _kl_normal_log_uniform(q: Normal, p: LogUniform) -> Tensor:
    r"""With :math:`u = 1 / (2 \alpha) = \theta^2 / (2 \sigma^2)` and Dawson's integral :math:`D`:

    .. math::
        \int_0^{\sqrt u} 2 D(s)\,ds = \tfrac12 \bigl(E_{j \sim \mathrm{Poisson}(u)}
        [\psi(\tfrac12 + j)] - \psi(\tfrac12)\bigr)

    As a function of :math:`\theta / \sigma` it is smooth, also at :math:`\theta = 0`, so that
    nothing needs to be clamped.
    """  # noqa: D415 - ends in a formula
    ratio = _wide(q.loc / q.scale)
    if p.divergence == "exact":
        kl = _plain_exact_kl(ratio) if takes_plain_operations() else _ExactKL.apply(ratio)
    else:
        kl = _fitted(ratio) if p.divergence == "fit" else _cubic(ratio)
    kl = kl.to(q.loc.dtype)
    return kl.expand(torch.broadcast_shapes(kl.shape, p.batch_shape))


def _wide(x: Tensor) -> Tensor:
    # Half a float has neither the digits nor the range.
    return x.float() if x.itemsize == 2 else x


def _fitted(ratio: Tensor) -> Tensor:
    """Molchanov et al. (2017), eq. 14, shifted to 0 at alpha = infinity."""
    k1, k2, k3 = 0.63576, 1.87320, 1.48695
    square = ratio.square()
    log_alpha = -square.clamp(min=torch.finfo(square.dtype).tiny).log()
    return 0.5 * torch.log1p(square) + k1 * torch.sigmoid(-k2 - k3 * log_alpha)


def _cubic(ratio: Tensor) -> Tensor:
    """Kingma et al. (2015), eq. 14; the constant makes it fit best, to 0.021 nats."""
    alpha = 1.0 / ratio.square().clamp(min=1.0)
    cubic = 1.16145124 * alpha - 1.50204118 * alpha**2 + 0.58629921 * alpha**3
    return _CUBIC_CONSTANT - 0.5 * alpha.log() - cubic


_CUBIC_CONSTANT = 0.655

# The exact divergence is a function of s = log(1 + 1 / alpha), nearly linear: from s / 2 it rises
# to s / 2 + (gamma + log 2) / 2. Cubics between exact values and slopes on a grid give it to 1e-11
# and its derivative to 1e-8, in as many operations as the published fit takes. Beyond the grid,
# at alpha = 1e-7, it is a line.
_STEPS_PER_UNIT = 64
_END = 16


def _plain_exact_kl(ratio: Tensor) -> Tensor:
    square = ratio.square().clamp(max=1e30)
    position = torch.log1p(square) * _STEPS_PER_UNIT
    whole = position.detach().clamp(max=_END * _STEPS_PER_UNIT).nan_to_num(0.0).to(torch.int32)
    c0, c1, c2, c3 = (column[whole.long()] for column in _table(ratio.dtype, ratio.device))
    x = position - whole
    return c0 + x * (c1 + x * (c2 + x * c3))


class _ExactKL(torch.autograd.Function):
    # As in bayesdrop.ops.stable: written out, beside the form in plain operations.
    @staticmethod
    def forward(ctx: Any, ratio: Tensor) -> Tensor:
        value, slope = _interpolated(ratio)
        ctx.save_for_backward(ratio, slope)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor | None:
        ratio, slope = ctx.saved_tensors
        if torch.is_grad_enabled():
            return plain_gradients(_plain_exact_kl, (ratio,), grads[0])[0]
        return grads[0] * slope


def _interpolated(ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Return the divergence and its derivative in the ratio."""
    square = ratio.square().clamp_(max=1e30)
    more = square + 1
    position = log1p(square).mul_(_STEPS_PER_UNIT)
    # Not a number becomes some interval; the value stays NaN.
    index = position.clamp(max=_END * _STEPS_PER_UNIT).to(torch.int32)
    index = index.clamp_(0, _END * _STEPS_PER_UNIT)
    # A column at a time, so that what follows runs on contiguous memory.
    c0, c1, c2, c3 = (
        torch.index_select(column, 0, index.flatten()).view(ratio.shape)
        for column in _table(ratio.dtype, ratio.device)
    )
    x = position.sub_(index)
    inner = torch.addcmul(c2, x, c3)
    slope = torch.addcmul(c1, x, torch.addcmul(inner, x, c3, value=2).add_(c2))
    # d s / d ratio = 2 ratio / (1 + ratio^2)
    slope.mul_(2 * _STEPS_PER_UNIT).mul_(ratio).div_(more)
    return torch.addcmul(c0, x, torch.addcmul(c1, x, inner)), slope


def summed_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    r"""Return the exact divergences of :math:`N(\theta, \sigma^2)`, summed.

    The same as ``kl_divergence``, a piece of the weights at a time, so that its many operations
    run in the cache.

    Args:
        mean: :math:`\theta`.
        log_variance: :math:`\log \sigma^2`, of the same shape.
    """
    form = _plain_summed_kl if takes_plain_operations() else _SummedKL.apply
    return form(_wide(mean), _wide(log_variance)).to(mean.dtype)


def _plain_summed_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    return _plain_exact_kl(mean * (-0.5 * log_variance).exp()).sum()


_PIECE = 1 << 16


class _SummedKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mean: Tensor, log_variance: Tensor) -> Tensor:
        total = mean.new_zeros(())
        grads = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (mean, mean)]
        pieces = [x.reshape(-1).split(_PIECE) for x in (mean, log_variance, *grads)]
        by_bits = mean.is_cpu and mean.dtype == torch.float32
        for m, v, grad_m, grad_v in zip(*pieces, strict=True):
            inverse = v.mul(-0.5).exp_()
            ratio = m * inverse
            square = ratio.square()
            more = square + 1
            # A NaN or an infinity fails the comparison too.
            if by_bits and bool(more.sum() < 2.0**_OCTAVES):
                value, slope = _from_bits(more)
                torch.mul(slope.div_(more), square, out=grad_v).neg_()
                torch.mul(slope.mul_(ratio), inverse, out=grad_m).mul_(2)
            else:
                value, slope = _interpolated(ratio)
                torch.mul(slope, inverse, out=grad_m)
                torch.mul(slope, ratio, out=grad_v).mul_(-0.5)
            total += value.sum()
        ctx.save_for_backward(mean, log_variance, *grads)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        mean, log_variance, grad_mean, grad_log_variance = ctx.saved_tensors
        if torch.is_grad_enabled():
            return plain_gradients(_plain_summed_kl, (mean, log_variance), grads[0])
        return grads[0] * grad_mean, grads[0] * grad_log_variance


# A float32 above 1 is its own logarithm: its exponent and the first bits of its mantissa say
# where it lies in a table, the other bits how far beyond. Lines between 1,024 places an octave
# are within 6e-8 of the divergence, and of its derivative in s: as near as such a float can be.
_OCTAVES = 40
_PLACE_BITS = 10
_REST_BITS = 23 - _PLACE_BITS
_BITS_OF_ONE = 0x3F800000


def _from_bits(more: Tensor) -> tuple[Tensor, Tensor]:
    """Return the divergence and its derivative in s, for 1 + 1 / alpha in float32."""
    bits = more.view(torch.int32) - _BITS_OF_ONE
    place = bits.bitwise_right_shift(_REST_BITS)
    rest = bits.bitwise_and_((1 << _REST_BITS) - 1).to(more.dtype)
    value, rise, slope, bend = (torch.index_select(c, 0, place) for c in _lines())
    return torch.addcmul(value, rest, rise), torch.addcmul(slope, rest, bend)


@functools.lru_cache
def _lines() -> tuple[Tensor, ...]:
    """Return at each place the divergence, its slope in s, and what they rise by for a bit."""
    octave = 1 + torch.arange(1 << _PLACE_BITS, dtype=torch.float64) / (1 << _PLACE_BITS)
    more = torch.cat([2.0**power * octave for power in range(_OCTAVES)])
    more = torch.cat([more, more.new_tensor([2.0**_OCTAVES])])
    ratio = (more - 1).sqrt()
    value, slope = _interpolated(ratio)
    slope[1:] *= more[1:] / (2 * ratio[1:])
    slope[0] = 0.5
    columns = [y for x in (value, slope) for y in (x[:-1], x.diff() / (1 << _REST_BITS))]
    return tuple(x.float() for x in columns)


def _table(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    return _cached_table(dtype, device)


# What torch.compiler.assume_constant_result does, which takes the compiler's import, a second.
_table._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.lru_cache
def _cached_table(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """Return each interval's cubic in the position within it: four columns, lowest power first."""
    count = _END * _STEPS_PER_UNIT
    s = torch.arange(count + 1, dtype=torch.float64) / _STEPS_PER_UNIT
    value, derivative = exact_kl(torch.expm1(s) / 2)
    slope = derivative * s.exp() / 2 / _STEPS_PER_UNIT
    rise = value.diff()
    cubics = torch.stack(
        [
            value[:-1],
            slope[:-1],
            3 * rise - 2 * slope[:-1] - slope[1:],
            slope[:-1] + slope[1:] - 2 * rise,
        ],
        1,
    )
    line = torch.tensor([[float(value[-1]), 0.5 / _STEPS_PER_UNIT, 0.0, 0.0]], dtype=torch.float64)
    table = torch.cat([cubics, line]).to(device=device, dtype=dtype)
    return table.t().contiguous().unbind()


def exact_kl(u: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the divergence at :math:`u = 1 / (2 \alpha)` and its derivative in :math:`u`.

    .. math::
        \tfrac12 \bigl(E_j[\psi(\tfrac12 + j)] - \psi(\tfrac12)\bigr), \qquad
        \frac{D(\sqrt u)}{\sqrt u} = E_j\Bigl[\frac{1}{2 j + 1}\Bigr], \qquad
        j \sim \mathrm{Poisson}(u)

    and for :math:`u > 50` the asymptotic series, whose terms are
    :math:`(2k - 1)!! / (2 u)^k / (2 k)`.

    Args:
        u: Float64, >= 0, one dimension.
    """
    near = u <= 50.0
    j = torch.arange(160, dtype=u.dtype)
    v = u[near][:, None]
    weight = (torch.special.xlogy(j, v) - v - torch.lgamma(j + 1)).exp()
    value, derivative = torch.empty_like(u), torch.empty_like(u)
    half = torch.full((), 0.5, dtype=u.dtype)
    value[near] = 0.5 * (weight * (torch.digamma(j + 0.5) - torch.digamma(half))).sum(1)
    derivative[near] = (weight / (2 * j + 1)).sum(1)
    v = u[~near]
    series, sums, term = torch.zeros_like(v), torch.ones_like(v), torch.ones_like(v)
    for k in range(1, 13):
        term = term * (2 * k - 1) / (2 * v)
        series, sums = series + term / (2 * k), sums + term
    value[~near] = 0.5 * (torch.log(4 * v) + EULER_GAMMA) - series
    derivative[~near] = sums / (2 * v)
    return value, derivative
