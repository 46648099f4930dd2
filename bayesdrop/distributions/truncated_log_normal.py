"""Multiplicative noise on an interval: truncated log-normal and log-uniform, and their KL."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints, register_kl
from torch.distributions.utils import broadcast_all
from typing_extensions import override

from bayesdrop.ops import noise
from bayesdrop.ops.stable import wide
from bayesdrop.ops.truncated_normal import Truncation, moments_from_mode, sample_log, truncation
from bayesdrop.typing import Shape

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class TruncatedLogUniform(TorchDistribution):
    r"""Log-uniform distribution on :math:`[e^l, e^u]`.

    .. math:: p(\theta) = \frac{1}{(u - l)\,\theta}

    The proper version of the scale-invariant prior :math:`p(\theta) \propto 1 / \theta`.

    Args:
        lower: :math:`l`, the logarithm of the smallest value.
        upper: :math:`u > l`, the logarithm of the largest.
        validate_args: Whether to check arguments and values.

    Shape:  batch shape is the broadcast shape of the arguments, event shape ``()``.

    References:
        Neklyudov, Molchanov, Ashukha, Vetrov (2017), eq. 7, https://arxiv.org/abs/1705.07283.

    Example:
        >>> TruncatedLogUniform(-20.0, torch.zeros(3)).rsample((2,)).shape
        torch.Size([2, 3])
    """

    arg_constraints = {"lower": constraints.real, "upper": constraints.real}
    has_rsample = True

    def __init__(
        self, lower: Tensor | float, upper: Tensor | float, *, validate_args: bool | None = None
    ) -> None:
        self.lower, self.upper = broadcast_all(lower, upper)
        super().__init__(self.lower.shape, validate_args=validate_args)
        if self._validate_args:
            _check_ends(self.lower, self.upper)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        """The interval, as wide as rounding makes it."""
        return _interval(self.lower, self.upper)

    @override
    def expand(self, batch_shape: Shape, _instance: object = None) -> TruncatedLogUniform:
        new = self._get_checked_instance(TruncatedLogUniform, _instance)
        new.lower = self.lower.expand(batch_shape)
        new.upper = self.upper.expand(batch_shape)
        super(TruncatedLogUniform, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @override
    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        u = noise.uniform(shape, self.lower)
        return _inside(self, torch.lerp(self.lower, self.upper, u).exp())

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return -value.log() - (self.upper - self.lower).log()

    @override
    def cdf(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return ((value.log() - self.lower) / (self.upper - self.lower)).clamp(0, 1)

    @override
    def icdf(self, value: Tensor) -> Tensor:
        return _inside(self, torch.lerp(self.lower, self.upper, value).exp())

    @property
    @override
    def mean(self) -> Tensor:
        return (self.upper.exp() - self.lower.exp()) / (self.upper - self.lower)

    @property
    @override
    def variance(self) -> Tensor:
        square = ((2 * self.upper).exp() - (2 * self.lower).exp()) / (self.upper - self.lower) / 2
        return square - self.mean.square()


class TruncatedLogNormal(TorchDistribution):
    r"""Log-normal distribution truncated to :math:`[e^l, e^u]`.

    .. math::
        \log\theta \sim N(\mu, \sigma^2) \text{ on } [l, u], \qquad
        p(\theta) = \frac{\phi((\log\theta - \mu) / \sigma)}{\theta\,\sigma Z}, \quad
        Z = \Phi\bigl(\tfrac{u - \mu}{\sigma}\bigr) - \Phi\bigl(\tfrac{l - \mu}{\sigma}\bigr)

    Everything is computed in float64 and relative to the density's largest value on the interval,
    so that no :math:`\mu`, however far outside it, and no :math:`\sigma` underflows or overflows.

    Args:
        loc: :math:`\mu`, the mean of the logarithm before truncation.
        scale: :math:`\sigma > 0`.
        lower: :math:`l`, the logarithm of the smallest value.
        upper: :math:`u > l`, the logarithm of the largest.
        validate_args: Whether to check arguments and values.

    Shape:  batch shape is the broadcast shape of the arguments, event shape ``()``.

    References:
        Neklyudov, Molchanov, Ashukha, Vetrov (2017), "Structured Bayesian Pruning via Log-Normal
        Multiplicative Noise", section 3.3 and appendix, https://arxiv.org/abs/1705.07283.
        Deviation: the paper's code clips quantiles to [1e-5, 1 - 1e-5], which makes samples
        constant, without a gradient, once :math:`\mu` is four :math:`\sigma` outside.

    Example:
        >>> q = TruncatedLogNormal(torch.tensor([0.0, -5.0]), 1.0, -20.0, 0.0)
        >>> q.rsample((3,)).shape, bool((q.mean < 1).all())
        (torch.Size([3, 2]), True)
    """

    arg_constraints = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "lower": constraints.real,
        "upper": constraints.real,
    }
    has_rsample = True

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        lower: Tensor | float,
        upper: Tensor | float,
        *,
        validate_args: bool | None = None,
    ) -> None:
        values = broadcast_all(cast(Tensor, loc), scale, lower, upper)
        self.loc, self.scale, self.lower, self.upper = values
        super().__init__(self.loc.shape, validate_args=validate_args)
        if self._validate_args:
            _check_ends(self.lower, self.upper)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        """The interval, as wide as rounding makes it."""
        return _interval(self.lower, self.upper)

    @override
    def expand(self, batch_shape: Shape, _instance: object = None) -> TruncatedLogNormal:
        new = self._get_checked_instance(TruncatedLogNormal, _instance)
        for name in self.arg_constraints:
            setattr(new, name, getattr(self, name).expand(batch_shape))
        super(TruncatedLogNormal, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _wide(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return wide(self.loc), wide(self.scale), wide(self.lower), wide(self.upper)

    def _truncation(self, order: int = 0) -> Truncation:
        # Of the density times theta^n, which is the same family with another mean.
        loc, scale, lower, upper = self._wide()
        shift = order * scale
        return truncation((lower - loc) / scale - shift, (upper - loc) / scale - shift)

    def _quantile(self, v: Tensor) -> Tensor:
        log_value = sample_log(*torch.broadcast_tensors(*self._wide(), wide(v)))
        return _inside(self, log_value.exp().to(self.loc.dtype))

    @override
    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        return self._quantile(noise.uniform(shape, self.loc))

    @override
    def icdf(self, value: Tensor) -> Tensor:
        return self._quantile(value)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        loc, scale, lower, upper = self._wide()
        log_value = wide(value).log().clamp(lower, upper)
        largest = loc.clamp(lower, upper)
        # (z - c)(z + c) / 2 with c where the density is largest.
        fall = (log_value - largest) * (log_value + largest - 2 * loc) / (2 * scale * scale)
        constant = scale.log() + self._truncation().log_mass
        return (-fall - constant - log_value).to(self.loc.dtype)

    @override
    def cdf(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        loc, scale, lower, upper = self._wide()
        z = (wide(value).log() - loc) / scale
        low, high = (lower - loc) / scale, (upper - loc) / scale
        flip = low + high > 0
        a, b = torch.where(flip, -high, low), torch.where(flip, -low, high)
        point = torch.where(flip, -z, z).clamp(a, b)
        left, right, at = (torch.special.log_ndtr(t) for t in (a, b, point))
        share = torch.expm1(at - left) / torch.expm1(right - left)
        # Where the left end is far out, its mass is nothing.
        share = torch.where(right - left > 700, (at - right).exp(), share)
        return torch.where(flip, 1 - share, share).clamp(0, 1).to(self.loc.dtype)

    def _log_moment(self, order: int) -> Tensor:
        # log E[theta^n]; exponents that cancel are never formed.
        loc, scale, lower, upper = self._wide()
        before = loc.clamp(lower, upper)
        after = (loc + order * scale * scale).clamp(lower, upper)
        shift = (before - after) * (before + after - 2 * loc) / (2 * scale * scale)
        mass = self._truncation(order).log_mass - self._truncation(0).log_mass
        return order * after + shift + mass

    @property
    @override
    def mean(self) -> Tensor:
        return self._log_moment(1).exp().to(self.loc.dtype)

    @property
    @override
    def variance(self) -> Tensor:
        first, second = self._log_moment(1), self._log_moment(2)
        spread = torch.expm1((second - 2 * first).clamp(min=0))
        return ((2 * first).exp() * spread).to(self.loc.dtype)

    @property
    def snr(self) -> Tensor:
        r"""Signal-to-noise ratio :math:`E[\theta] / \sqrt{\mathrm{Var}[\theta]}`."""
        first, second = self._log_moment(1), self._log_moment(2)
        # Below rounding there is no noise left to compare with.
        smallest = torch.finfo(first.dtype).eps
        spread = torch.expm1((second - 2 * first).clamp(min=smallest))
        return spread.rsqrt().to(self.loc.dtype)


def _check_ends(lower: Tensor, upper: Tensor) -> None:
    if not bool((lower < upper).all()):
        raise ValueError("expected lower < upper, the logarithms of the ends of the interval")


def _interval(lower: Tensor, upper: Tensor) -> Any:
    eps = 4 * torch.finfo(lower.dtype).eps
    return constraints.interval(lower.exp() * (1 - eps), upper.exp() * (1 + eps))


def _inside(fn: TruncatedLogUniform | TruncatedLogNormal, value: Tensor) -> Tensor:
    # exp rounds; a value outside would not be in the support.
    return value.clamp(fn.lower.exp(), fn.upper.exp())


@register_kl(TruncatedLogNormal, TruncatedLogUniform)
def _kl_truncated_log_normal_log_uniform(q: TruncatedLogNormal, p: TruncatedLogUniform) -> Tensor:
    r"""Exact where the posterior's interval is inside the prior's, infinite elsewhere.

    .. math::
        -\log\sigma - \log Z - \frac{A\,\phi(A) - B\,\phi(B)}{2 Z} + \log(u - l)
        - \tfrac12 \log(2 \pi e), \qquad A = \tfrac{l - \mu}{\sigma}, B = \tfrac{u - \mu}{\sigma}

    References:
        Neklyudov et al. (2017), eq. 9.
    """
    entropy_gap = q._truncation().neg_entropy - _LOG_SQRT_2PI - 0.5
    kl = entropy_gap - wide(q.scale).log() + (wide(p.upper) - wide(p.lower)).log()
    outside = (q.lower < p.lower) | (q.upper > p.upper)
    return torch.where(outside, torch.inf, kl).to(q.loc.dtype)


@register_kl(TruncatedLogNormal, TruncatedLogNormal)
def _kl_truncated_log_normals(q: TruncatedLogNormal, p: TruncatedLogNormal) -> Tensor:
    r"""Exact where both have one interval, infinite where the first's is not inside the second's.

    .. math::
        E_q[\log q - \log p], \qquad
        \log p = -\tfrac{(x - \mu_p)^2 - (c_p - \mu_p)^2}{2 \sigma_p^2}
        - \log \sigma_p M_p, \quad x = \log\theta

    with :math:`c` where the density is largest and :math:`M` the mass relative to the density
    there; the moments of :math:`x` are those about :math:`c_q`.
    """
    loc, scale, lower, upper = q._wide()
    first, second = moments_from_mode((lower - loc) / scale, (upper - loc) / scale)
    first, second = first * scale, second * scale.square()
    mode = loc.clamp(lower, upper)

    def fall(fn: TruncatedLogNormal) -> Tensor:
        # E[(x - c)(x + c - 2 mu)] / 2 sigma^2 with x - c = (x - c_q) + gap.
        mean, width, low, high = fn._wide()
        top = mean.clamp(low, high)
        gap = mode - top
        square = second + 2 * gap * first + gap.square()
        constant = width.log() + fn._truncation().log_mass
        return (square + 2 * (top - mean) * (first + gap)) / (2 * width.square()) + constant

    outside = (q.lower < p.lower) | (q.upper > p.upper)
    return torch.where(outside, torch.inf, fall(p) - fall(q)).to(q.loc.dtype)
