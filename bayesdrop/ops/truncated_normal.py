r"""A standard normal on an interval ``[lower, upper]``, however far out in its tail that is.

Tail probabilities are written with Mills' ratio :math:`R(x) = (1 - \Phi(x)) / \phi(x)`, so that no
factor :math:`e^{-x^2/2}` that cancels in the end is ever computed. All functions but
``clamped_normal_mean`` expect float64 where the device has it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bayesdrop.ops.transforms import plain_gradients, takes_plain_operations

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_INVERSE_SQRT_2PI = 1 / math.sqrt(2 * math.pi)
_SQRT_HALF = math.sqrt(0.5)
_SERIES = 100.0  # From here on the asymptotic series of R is exact in float64.
_PLAIN_SERIES = 25.0  # The same of seven terms.
_FAR = 30.0  # The normal distribution function itself underflows at -38.


def mills_ratio(x: Tensor) -> Tensor:
    r"""Return :math:`R(x) = (1 - \Phi(x)) / \phi(x)` for :math:`x \ge 0`."""
    return _plain_mills_ratio(x) if takes_plain_operations() else _MillsRatio.apply(x)


def _plain_mills_ratio(x: Tensor) -> Tensor:
    # The derivative that torch has for erfcx loses as many digits as 1 - x R(x) does.
    far = x > _PLAIN_SERIES
    square = torch.where(far, x, _PLAIN_SERIES).square().reciprocal()
    series, terms = torch.ones_like(square), torch.ones_like(square)
    for k in range(1, 8):
        terms = terms * (1 - 2 * k) * square
        series = series + terms
    near = torch.where(far, _PLAIN_SERIES, x)
    ratio = math.sqrt(math.pi / 2) * torch.special.erfcx(near * _SQRT_HALF)
    return torch.where(far, series / torch.where(far, x, 1.0), ratio)


def mills_gap(x: Tensor) -> Tensor:
    r"""Return :math:`1 - x R(x)` for :math:`x \ge 0`, accurate where it is about :math:`1/x^2`."""
    return _plain_mills_gap(x) if takes_plain_operations() else _MillsGap.apply(x)


def _plain_mills_gap(x: Tensor) -> Tensor:
    return _gap_from(x, mills_ratio(x))


def _gap_from(x: Tensor, ratio: Tensor) -> Tensor:
    square = x.clamp(min=_SERIES).square().reciprocal()
    series = square * (1 - 3 * square * (1 - 5 * square * (1 - 7 * square)))
    return torch.where(x > _SERIES, series, 1 - x * ratio)


class Truncation(NamedTuple):
    r"""Normalising constants of a standard normal on ``[lower, upper]``.

    Args:
        log_mass: :math:`\log(Z / \phi(c))` with :math:`Z = \Phi(u) - \Phi(l)` and :math:`c` the
            point of the interval nearest to zero, where the density is largest.
        neg_entropy: :math:`-\log Z - (l\phi(l) - u\phi(u)) / (2Z)`: the negative entropy plus
            :math:`\log\sqrt{2 \pi e}`.
    """

    log_mass: Tensor
    neg_entropy: Tensor


def truncation(lower: Tensor, upper: Tensor) -> Truncation:
    """Return the constants of a standard normal on ``[lower, upper]``, with gradients.

    Args:
        lower: Lower end.
        upper: Upper end, greater.
    """
    # By symmetry a tail is always the upper one, [x, y] with x > 0.
    tail = (lower > 0) | (upper < 0)
    x = torch.where(lower > 0, lower, -upper)
    y = torch.where(lower > 0, upper, -lower)
    x, y = torch.where(tail, x, 1.0), torch.where(tail, y, 2.0)
    decay = torch.exp(-0.5 * (y - x) * (y + x))  # phi(y) / phi(x)
    ratio_y = mills_ratio(y)
    scaled = mills_ratio(x) - decay * ratio_y  # Z / phi(x)
    # ((x - y decay) / scaled - x^2) / 2 without its two large terms.
    rest = y * mills_gap(y) + (y - x) * (y + x) * ratio_y
    excess = (x * mills_gap(x) - decay * rest) / scaled
    in_tail = Truncation(scaled.log(), _LOG_SQRT_2PI - scaled.log() - 0.5 * excess)

    a, b = torch.where(tail, -1.0, lower), torch.where(tail, 1.0, upper)
    mass = 0.5 * (torch.erf(b * _SQRT_HALF) - torch.erf(a * _SQRT_HALF))
    slope = a * torch.exp(-0.5 * a * a) - b * torch.exp(-0.5 * b * b)
    slope = slope / math.sqrt(2 * math.pi)
    around = Truncation(mass.log() + _LOG_SQRT_2PI, -mass.log() - 0.5 * slope / mass)
    return Truncation(*(torch.where(tail, t, m) for t, m in zip(in_tail, around, strict=True)))


def moments_from_mode(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return :math:`E[z - c]` and :math:`E[(z - c)^2]` of a standard normal on an interval.

    :math:`c` is the point of ``[lower, upper]`` nearest to zero, from which the moments do not
    cancel, however far out in a tail the interval is: with :math:`e = \phi(y) / \phi(x)`, for
    the tail :math:`[x, y]`,

    .. math::
        E[z - x] = \frac{1 - x R(x) - e\,(1 - x R(y))}{R(x) - e R(y)}, \qquad
        E[(z - x)^2] = 1 - x\,E[z - x] - \frac{(y - x)\,e}{R(x) - e R(y)}

    Args:
        lower: Lower end.
        upper: Upper end, greater.
    """
    tail = (lower > 0) | (upper < 0)
    x = torch.where(tail, torch.where(lower > 0, lower, -upper), 1.0)
    y = torch.where(tail, torch.where(lower > 0, upper, -lower), 2.0)
    mass = truncation(lower, upper).log_mass.exp()
    safe = torch.where(tail, mass, 1.0)
    decay = torch.exp(-0.5 * (y - x) * (y + x))
    rest = _product(decay, mills_gap(y) + (y - x) * mills_ratio(y))
    step = (mills_gap(x) - rest) / safe
    square = 1 - x * step - _product(decay, y - x) / safe
    # Inside, densities at the ends relative to that at zero.
    low, high = torch.where(tail, 0.0, lower), torch.where(tail, 0.0, upper)
    at_low, at_high = torch.exp(-0.5 * low * low), torch.exp(-0.5 * high * high)
    mean = (at_low - at_high) / mass
    second = 1 + (_product(at_low, low) - _product(at_high, high)) / mass
    return (
        torch.where(tail, torch.where(lower > 0, step, -step), mean),
        torch.where(tail, square, second),
    )


def sample_log(
    loc: Tensor, scale: Tensor, lower: Tensor, upper: Tensor, quantile: Tensor
) -> Tensor:
    r"""Return a quantile of a normal on ``[lower, upper]``, differentiable in its parameters.

    The derivative is implicit: with :math:`F(z) = v` fixed,
    :math:`\phi(z)\,dz = (1 - v)\,\phi(l)\,dl + v\,\phi(u)\,du`.

    Args:
        loc: Mean of the normal before truncation.
        scale: Its standard deviation.
        lower: Lower end.
        upper: Upper end.
        quantile: :math:`v` in (0, 1).
    """
    form = _plain_sample if takes_plain_operations() else _Sample.apply
    return form(loc, scale, lower, upper, quantile)


def _plain_sample(loc: Tensor, scale: Tensor, lower: Tensor, upper: Tensor, v: Tensor) -> Tensor:
    x = loc + scale * _standard_quantile((lower - loc) / scale, (upper - loc) / scale, v)
    return x + (x.clamp(lower, upper) - x).detach()


def _standard_quantile(lower: Tensor, upper: Tensor, v: Tensor) -> Tensor:
    # Flipped where needed, so that probabilities are small numbers and not one minus those.
    flip = lower + upper > 0
    low, high = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
    v = torch.where(flip, 1 - v, v)
    info = torch.finfo(v.dtype)
    bottom = _lower_tail(low)
    p = bottom + v * (_lower_tail(high) - bottom)
    z = torch.special.ndtri(p.clamp(info.tiny, 1 - info.eps))
    # Far out: the tail's survival w = R(s) phi(s) / (R(x) phi(x)) is nearly exp((x^2 - s^2) / 2).
    # One step of Newton's method from there leaves an error of less than 1e-8.
    far = high < -_FAR
    if not takes_plain_operations() and not bool(far.any()):
        z = z.clamp(low, high)
        return torch.where(flip, -z, z)
    x, y = torch.where(far, -high, _FAR), torch.where(far, -low, 2 * _FAR)
    decay = torch.exp(-0.5 * (y - x) * (y + x)) * mills_ratio(y) / mills_ratio(x)
    start = torch.sqrt(x * x - 2 * torch.log(decay + v * (1 - decay)))
    ratio = mills_ratio(start)
    s = start + ratio * torch.log(ratio / mills_ratio(x))
    z = torch.where(far, -s, z).clamp(low, high)
    return torch.where(flip, -z, z)


def _lower_tail(x: Tensor) -> Tensor:
    # torch.special.ndtr is (1 + erf) / 2, which has no digits left at -8.
    return 0.5 * torch.erfc(-x * _SQRT_HALF)


def clamped_normal_mean(loc: Tensor, scale: Tensor) -> Tensor:
    r"""Return the mean of a normal that is clamped, not truncated, to [0, 1].

    .. math::
        E[\mathrm{clamp}(m + \kappa \varepsilon, 0, 1)] =
        m\,[\Phi(t) - \Phi(s)] + \kappa\,[\phi(t) - \phi(s)] + \Phi(s), \qquad
        t = m / \kappa,\ s = (m - 1) / \kappa

    Plain operations, one element at a time, that ``torch.fx`` can trace.

    Args:
        loc: :math:`m`.
        scale: :math:`\kappa > 0`; down to about 1e-19 in float32, where it is the clamped ``loc``.
    """
    t, s = loc / scale, (loc - 1.0) / scale
    cdf_t, cdf_s = _lower_tail(t), _lower_tail(s)
    spread = scale * (torch.exp(-0.5 * t * t) - torch.exp(-0.5 * s * s))
    mean = loc * (cdf_t - cdf_s) + spread * _INVERSE_SQRT_2PI + cdf_s
    return torch.clamp(mean, 0.0, 1.0)


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, loc: Tensor, scale: Tensor, lower: Tensor, upper: Tensor, v: Tensor
    ) -> Tensor:
        low, high = (lower - loc) / scale, (upper - loc) / scale
        z = _standard_quantile(low, high, v)
        ctx.save_for_backward(loc, scale, lower, upper, low, high, z, v)
        return (loc + scale * z).clamp(lower, upper)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *arguments, low, high, z, v = ctx.saved_tensors
        if torch.is_grad_enabled():
            return plain_gradients(_plain_sample, (*arguments, v), grads[0])
        at_low = (1 - v) * torch.exp(0.5 * (z - low) * (z + low))
        at_high = v * torch.exp(0.5 * (z - high) * (z + high))
        grad_loc = grads[0] * (1 - at_low - at_high)
        # Where an end is far away its weight is zero, and zero times infinity is not a number.
        ends = _product(at_low, low) + _product(at_high, high)
        return grad_loc, grads[0] * (z - ends), grads[0] * at_low, grads[0] * at_high, None


def _product(weight: Tensor, value: Tensor) -> Tensor:
    return torch.where(weight == 0, 0.0, weight * value)


class _MillsRatio(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ratio = math.sqrt(math.pi / 2) * torch.special.erfcx(x * _SQRT_HALF)
        ctx.save_for_backward(x, ratio)
        return ratio

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x, ratio = ctx.saved_tensors
        # For a higher derivative the ratio needs its graph, which it is without here.
        gap = mills_gap(x) if torch.is_grad_enabled() else _gap_from(x, ratio)
        return -grads[0] * gap  # R' = x R - 1


class _MillsGap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ratio = mills_ratio(x)
        gap = _gap_from(x, ratio)
        ctx.save_for_backward(x, ratio, gap)
        return gap

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x, ratio, gap = ctx.saved_tensors
        if torch.is_grad_enabled():
            ratio, gap = mills_ratio(x), mills_gap(x)
        far = x.clamp(min=_SERIES)
        square = far.square().reciprocal()
        series = -2 * square / far * (1 - 6 * square * (1 - 7.5 * square))
        near = x * gap - ratio  # (1 - x R)' = x (1 - x R) - R
        return grads[0] * torch.where(x > _SERIES, series, near)
