"""The Kumaraswamy distribution, in log space, and its KL divergence to a Beta."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Beta, constraints, register_kl
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid
from typing_extensions import override

from bayesdrop.ops import noise
from bayesdrop.ops.elementwise import expm1, log1p
from bayesdrop.ops.stable import (
    EULER_GAMMA,
    clamp_open_unit,
    exp_open_unit,
    lgamma_step,
    log1mexp,
    wide,
)
from bayesdrop.ops.transforms import plain_gradients, takes_plain_operations
from bayesdrop.typing import Shape

_FAR = 40.0  # e^-40 is nothing beside one, in float64 too


class Kumaraswamy(TorchDistribution):
    r"""Kumaraswamy distribution on the unit interval.

    .. math::
        p(x) = a\,b\,x^{a-1}(1 - x^a)^{b-1}, \qquad
        x = \bigl(1 - (1 - u)^{1/b}\bigr)^{1/a}, \quad u \sim U(0, 1)

    Args:
        concentration1: :math:`a > 0`.
        concentration0: :math:`b > 0`.
        validate_args: Whether to check arguments and values.

    Shape:  batch shape is the broadcast shape of the two concentrations, event shape ``()``.

    Samples stay inside the open unit interval: values below the smallest normal number of the
    dtype or above one minus its epsilon are clamped there, so that no later logarithm is
    infinite. ``rsample_log`` returns the logarithm without that loss, ``sample_logit`` the
    log-odds.

    References:
        Kumaraswamy (1980), doi 10.1016/0022-1694(80)90036-0. Moments and entropy: Jones (2009),
        doi 10.1016/j.stamet.2008.04.001.
        Deviation from ``torch.distributions.Kumaraswamy``: everything is computed in log space,
        which is what keeps concentrations from 1e-3 to 1e3 finite in float32.

    Example:
        >>> q = Kumaraswamy(torch.tensor([0.5, 2.0]), torch.tensor(1.0))
        >>> q.rsample((3,)).shape
        torch.Size([3, 2])
    """

    arg_constraints = {
        "concentration1": constraints.positive,
        "concentration0": constraints.positive,
    }
    support = constraints.unit_interval
    has_rsample = True

    def __init__(
        self,
        concentration1: Tensor | float,
        concentration0: Tensor | float,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.concentration1, self.concentration0 = broadcast_all(concentration1, concentration0)
        super().__init__(self.concentration1.shape, validate_args=validate_args)

    @override
    def expand(self, batch_shape: Shape, _instance: object = None) -> Kumaraswamy:
        new = self._get_checked_instance(Kumaraswamy, _instance)
        new.concentration1 = self.concentration1.expand(batch_shape)
        new.concentration0 = self.concentration0.expand(batch_shape)
        super(Kumaraswamy, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample_log(self, sample_shape: Shape = ()) -> Tensor:
        """Draw the logarithm of a sample, exact far below the smallest float."""
        shape = self._extended_shape(torch.Size(sample_shape))
        exponential = noise.uniform(shape, self.concentration1).log_().neg_()
        a, b = self.concentration1.expand(shape), self.concentration0.expand(shape)
        form = _plain_log_sample if takes_plain_operations() else _LogSample.apply
        return form(a, b, exponential)

    @override
    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        return exp_open_unit(self.rsample_log(sample_shape))

    @torch.no_grad()
    def sample_logit(self, sample_shape: Shape = ()) -> Tensor:
        r"""Draw the log-odds of a sample, exact at both ends of the unit interval."""
        shape = self._extended_shape(torch.Size(sample_shape))
        a, b = self.concentration1.expand(shape), self.concentration0.expand(shape)
        t = noise.uniform(shape, self.concentration1).log_().neg_() / b
        log_x = log1mexp(-t) / a
        # Where log x underflows, 1 - x is exp(-t) / a.
        far = t > _FAR + (-a.log()).clamp(min=0.0)
        return torch.where(far, t + a.log(), log_x - log1mexp(log_x))

    def log_prob_at_logit(self, logit: Tensor) -> Tensor:
        """Return the log density of the samples that have these log-odds."""
        a, b = self.concentration1, self.concentration0
        log_x = logsigmoid(logit)
        far = logit > _FAR + a.log().clamp(min=0.0)
        log_rest = torch.where(far, a.log() - logit, log1mexp(a * log_x))
        return a.log() + b.log() + (a - 1) * log_x + (b - 1) * log_rest

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        a, b = self.concentration1, self.concentration0
        log_x = clamp_open_unit(value).log()
        return a.log() + b.log() + (a - 1) * log_x + (b - 1) * log1mexp(a * log_x)

    @override
    def cdf(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        log_x = clamp_open_unit(value).log()
        inside = -torch.expm1(self.concentration0 * log1mexp(self.concentration1 * log_x))
        return torch.where(value <= 0, 0.0, torch.where(value >= 1, 1.0, inside))

    @override
    def icdf(self, value: Tensor) -> Tensor:
        log_survival = torch.log1p(-value)
        log_x = log1mexp(log_survival / self.concentration0) / self.concentration1
        inside = log_x.exp()
        return torch.where(value <= 0, 0.0, torch.where(value >= 1, 1.0, inside))

    def _log_moment(self, order: int) -> Tensor:
        # log b B(1 + n/a, b); large numbers cancel, hence float64.
        a, b = wide(self.concentration1), wide(self.concentration0)
        more = 1 + order / a
        return b.log() + torch.lgamma(more) + lgamma_step(b, more)

    @property
    def log_mean(self) -> Tensor:
        """Logarithm of the mean, accurate where the mean is close to one or far below a float."""
        return self._log_moment(1).to(self.concentration1.dtype)

    @property
    @override
    def mean(self) -> Tensor:
        return self._log_moment(1).exp().to(self.concentration1.dtype)

    @property
    @override
    def variance(self) -> Tensor:
        variance = self._log_moment(2).exp() - (2 * self._log_moment(1)).exp()
        return variance.clamp(min=0).to(self.concentration1.dtype)

    @override
    def entropy(self) -> Tensor:
        a, b = self.concentration1, self.concentration0
        harmonic = torch.digamma(b + 1) + EULER_GAMMA
        return (1 - 1 / b) + (1 - 1 / a) * harmonic - a.log() - b.log()


def expected_log1m(concentration1: Tensor, concentration0: Tensor) -> Tensor:
    r"""Return :math:`E[\log(1 - x)]` under a Kumaraswamy, by quadrature.

    With :math:`s = b t` exponential, :math:`\log x = \log(1 - e^{-t}) / a`. The trapezoidal rule
    in :math:`\log t` converges geometrically. For concentrations from 1e-3 to 1e3 its error is
    below 1e-10 of the result, or below 1e-20 where the result is smaller than 1e-10 (tested
    against 25-digit quadrature). In float32, where all terms have one sign, coarser grids are as
    good as the arithmetic.
    """
    form = _plain_expected_log1m if takes_plain_operations() else _ExpectedLog1m.apply
    return form(*torch.broadcast_tensors(concentration1, concentration0))


@register_kl(Kumaraswamy, Beta)
def _kl_kumaraswamy_beta(q: Kumaraswamy, p: Beta) -> Tensor:
    r"""Closed at ``p.concentration0 == 1``, quadrature elsewhere (a short series is 67 % off).

    .. math::
        \frac{a-c}{a}\bigl(-\gamma - \psi(b) - \tfrac1b\bigr) + \log(a b) + \log B(c, d)
        - \frac{b-1}{b} - (d-1)\,E_q[\log(1-x)]

    References:
        Nalisnick and Smyth (2017), eq. 11, https://arxiv.org/abs/1605.06197.
    """
    a, b = q.concentration1, q.concentration0
    c, d = p.concentration1, p.concentration0
    plain = takes_plain_operations()
    form = _plain_closed_kl if plain else _ClosedKL.apply
    kl = form(*torch.broadcast_tensors(a, b, c))
    # A transform has no values to look at, and what is 0 at one has a gradient there.
    if not plain and not d.requires_grad and bool((d == 1).all()):
        return kl
    return kl + kl_beyond_one(a, b, c, d)


def kl_beyond_one(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Return how much more the divergence from Beta(c, d) is than that from Beta(c, 1)."""
    log_beta = torch.lgamma(c) + torch.lgamma(d) - torch.lgamma(c + d)
    return c.log() + log_beta - (d - 1) * expected_log1m(*torch.broadcast_tensors(a, b))


@register_kl(Kumaraswamy, Kumaraswamy)
def _kl_kumaraswamy_kumaraswamy(q: Kumaraswamy, p: Kumaraswamy) -> Tensor:
    r"""As that from a Beta, of which :math:`\mathrm{Kumaraswamy}(c, 1) = \mathrm{Beta}(c, 1)`.

    .. math:: \mathrm{KL}(q \,\|\, \mathrm{Beta}(c, 1)) - \log d - (d-1)\,E_q[\log(1-x^c)]
    """
    c, d = p.concentration1, p.concentration0
    beta = Beta(c, torch.ones_like(c), validate_args=False)
    return _kl_kumaraswamy_beta(q, beta) + kl_beyond_power(
        q.concentration1, q.concentration0, c, d
    )


def kl_beyond_power(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Return how much more the divergence from Kumaraswamy(c, d) is than from Beta(c, 1)."""
    # x^c has the law Kumaraswamy(a / c, b).
    return -d.log() - (d - 1) * expected_log1m(*torch.broadcast_tensors(a / c, b))


# Gradients are written out for the reason given in bayesdrop.ops.stable, each beside its function
# in plain operations: what torch's transforms take, and what higher derivatives come from.


def _plain_log_sample(a: Tensor, b: Tensor, s: Tensor) -> Tensor:
    # log x = log(1 - exp(-s / b)) / a for exponential noise s.
    return log1mexp(-s / b) / a


class _LogSample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, s: Tensor) -> Tensor:
        t = s / b
        log_x = log1mexp(-t) / a
        ctx.save_for_backward(a, b, s, t, log_x)
        return log_x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        a, b, s, t, log_x = ctx.saved_tensors
        if torch.is_grad_enabled():
            return plain_gradients(_plain_log_sample, (a, b, s), grads[0])
        scaled = -grads[0] / a
        return scaled * log_x, scaled * t / (b * torch.expm1(t)), None


def _plain_closed_kl(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    # KL(Kumaraswamy(a, b) || Beta(c, 1)). psi(b + 1) = psi(b) + 1 / b, without the difference of
    # two large numbers for small b.
    harmonic = torch.digamma(b + 1) + EULER_GAMMA
    return (c / a - 1) * harmonic + (a / c).log() + b.log() + 1 / b - 1


class _ClosedKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        harmonic = torch.digamma(b + 1).add_(EULER_GAMMA)
        ctx.save_for_backward(a, b, c, harmonic)
        return (c / a - 1) * harmonic + (a / c).log_() + b.log() + 1 / b - 1

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = grads
        a, b, c, harmonic = ctx.saved_tensors
        if torch.is_grad_enabled():
            return plain_gradients(_plain_closed_kl, (a, b, c), g)
        ratio = c / a
        grad_a = (1 - ratio * harmonic) / a
        grad_b = (ratio - 1) * torch.polygamma(1, b + 1) + (1 - 1 / b) / b
        grad_c = g * (harmonic / a - 1 / c) if ctx.needs_input_grad[2] else None
        return g * grad_a, g * grad_b, grad_c


class _Grid(NamedTuple):
    """A grid of log s for the quadrature: its step and its first point."""

    step: float
    start: float

    @property
    def size(self) -> int:
        """Number of points."""
        return int((4.0 - self.start) / self.step) + 1


# The smaller a, the nearer a singularity comes to the real line.
_GRID_DOUBLE, _GRID_SINGLE, _GRID_COARSE = (
    _Grid(0.0625, -38.0),
    _Grid(0.125, -22.0),
    _Grid(0.375, -18.0),
)
_COARSE_FROM = 0.3  # of a, where the coarse grid's relative error is 8e-8


def _plain_expected_log1m(a: Tensor, b: Tensor) -> Tensor:
    # On one grid of log s for all.
    grid = _GRID_DOUBLE if a.dtype == torch.float64 else _GRID_SINGLE
    step = grid.step
    log_s = grid.start + step * torch.arange(grid.size, dtype=a.dtype, device=a.device)
    weight = step * (log_s - log_s.exp()).exp()
    log_t = log_s - b.log().unsqueeze(-1)
    # log(-log(1 - e^-t)): -t to machine precision once e^-t is below epsilon.
    far = log_t > math.log(36.0)
    near = torch.where(far, 0.0, log_t).exp()
    value = torch.where(far, -torch.where(far, log_t, 0.0).exp(), (-log1mexp(-near)).log())
    g = value - a.log().unsqueeze(-1)
    inside = g.clamp(min=-34.0, max=math.log(700.0)).exp()
    return (weight * torch.where(g < -34.0, g, log1mexp(-inside))).sum(-1)


class _ExpectedLog1m(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        value, grad_a, grad_b = _quadratures(a, b)
        ctx.save_for_backward(a, b, grad_a, grad_b)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        a, b, grad_a, grad_b = ctx.saved_tensors
        if torch.is_grad_enabled():
            return plain_gradients(_plain_expected_log1m, (a, b), grads[0])
        return grads[0] * grad_a, grads[0] * grad_b


def _quadratures(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """Return the expectation and its derivatives in a and b, each a on the grid that it needs."""
    if a.dtype == torch.float64:
        return _quadrature(a, b, _GRID_DOUBLE)
    coarse = a >= _COARSE_FROM
    number = int(coarse.sum())
    if number in (0, a.numel()):
        return _quadrature(a, b, _GRID_COARSE if number else _GRID_SINGLE)
    results = tuple(torch.empty_like(a) for _ in range(3))
    for where, grid in ((coarse, _GRID_COARSE), (~coarse, _GRID_SINGLE)):
        for result, part in zip(results, _quadrature(a[where], b[where], grid), strict=True):
            result[where] = part
    return results


def _quadrature(a: Tensor, b: Tensor, grid: _Grid) -> tuple[Tensor, ...]:
    # Each b has its own stretch of one grid of log t, so that what depends on t alone is a table.
    step = grid.step
    log_b = b.log().clamp(-_MAX_LOG, _MAX_LOG).unsqueeze(-1)
    points = torch.arange(grid.size, device=a.device)
    index = ((grid.start - log_b) / step).floor() + points
    log_s = log_b + step * index
    weight = (log_s - log_s.exp()).exp_().mul_(step)
    value, slope = (
        torch.index_select(column, 0, index.long().flatten().add_(len(column) // 2))
        for column in _log_minus_log(step, a.dtype, a.device)
    )
    # log(1 - x) = log(1 - exp(-e^g)) with g = log(-log x); below -34 it is g itself.
    g = value.view(index.shape) - a.log().unsqueeze(-1)
    minus_log_x = g.clamp(min=-34.0, max=math.log(700.0)).exp_()
    odds = expm1(minus_log_x)  # 1 / x - 1, and 1 - x = 1 / (1 + 1 / odds)
    log1m_x = torch.where(g < -34.0, g, log1p(odds.reciprocal()).neg_())
    towards_a = weight * minus_log_x.div_(odds)
    grad_a = towards_a.sum(-1).div_(-a)
    grad_b = towards_a.mul_(slope.view(index.shape)).sum(-1).div_(-b)
    return weight.mul_(log1m_x).sum(-1), grad_a, grad_b


# Concentrations beyond e^40 count as that.
_MAX_LOG = 40.0


@functools.lru_cache
def _log_minus_log(step: float, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return log(-log(1 - e^-t)) at all log t of the grid, and its derivative in log t.

    The entry in the middle is that of log t = 0.
    """
    size = int((_MAX_LOG + 45.0) / step)
    log_t = step * torch.arange(-size, size + 1, dtype=torch.float64)
    t = log_t.exp()
    # It is -t to machine precision once e^-t is below epsilon.
    near = t.clamp(max=36.0)
    log_x = log1mexp(-near)
    value = torch.where(t > 36.0, -t, (-log_x).log())
    slope = torch.where(t > 36.0, -t, near / (torch.expm1(near) * log_x))
    return value.to(device, dtype), slope.to(device, dtype)
