"""Continuous ranked probability score of mixtures whose parts are not normal."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import scipy.special
import torch
from torch import Tensor

_CHUNK = 2**20
"""Elements of one temporary tensor."""
_TAIL = -math.log(1e-8)
"""Counts beyond those summed have less than this probability, which is squared."""
_LARGEST = 700.0
"""A Poisson law of a larger mean has a probability of zero that is none in float64."""
_LONGEST = 4096
"""Counts from zero that are summed one by one."""
_LEAST_DISPERSION = 1e-8  # below, rounding of the gamma functions is larger than its effect
_LARGEST_LOG = 300.0
_STEP, _MOST_NODES = 0.15, 1024


def crps_of_counts(means: Tensor, variances: Tensor, y: Tensor) -> Tensor:
    r"""Return the CRPS of each count under the mixture of Poisson or negative binomial laws.

    .. math::
        \sum_{k=0}^\infty \Big(\bar F(k) - [k \ge y]\Big)^2 =
        \frac1S \sum_s E_s|X - y| - \sum_{k=0}^\infty \bar F(k) (1 - \bar F(k)), \qquad
        \bar F = \frac1S \sum_s F_s

    The sum on the left where counts beyond 4096 are next to impossible. Otherwise that on the
    right, with the expectations in closed form and the second sum as an integral in the logarithm:
    right to 1e-3 as long as the samples' means are within a factor of a hundred.

    Args:
        means: Of each sample's law, ``(S, ...)``.
        variances: Likewise; one that equals its mean is Poisson's.
        y: Counts, ``(...)``.

    Returns:
        In counts, of the shape of ``y``.

    References:
        The expectations: Jordan, Krueger, Lerch (2019), https://doi.org/10.18637/jss.v090.i12
    """
    target, mean, variance = _flat(y[None])[0], _flat(means), _flat(variances)
    # Bernstein's bound of a gamma's tail.
    reach = math.sqrt(2.0 * _TAIL) * variance.sqrt() + _TAIL * variance / mean.clamp(min=1e-12)
    last = (mean + reach).amax(0).ceil()
    short = (last <= _LONGEST) & (mean.amax(0) <= _LARGEST)
    score = torch.empty_like(target)
    rows = torch.nonzero(short)[:, 0]
    # Together with others that reach about as far.
    for part in _split(rows[last[rows].argsort()], len(mean)):
        score[part] = _sum_of_counts(
            mean[:, part], variance[:, part], target[part], int(last[part].max())
        )
    for part in _split(torch.nonzero(~short)[:, 0], len(mean) * 64):
        mean_, variance_ = mean[:, part], variance[:, part]
        # From minus one half, in the logarithm: as near to zero as a small shape needs.
        score[part] = _distance_of_counts(mean_, variance_, target[part]) - _half_difference(
            partial(_cdf_of_counts, mean_[..., None], variance_[..., None]),
            mean_.clamp(min=1e-12).log(),
            (variance_.sqrt() / mean_).clamp(max=1.0),
            reach=40.0,
            slope=lambda x: x.clamp(max=_LARGEST_LOG).exp(),
        )
    return score.reshape(y.shape)


def crps_of_student_t(means: Tensor, variances: Tensor, df: float, y: Tensor) -> Tensor:
    r"""Return the CRPS of each target under the mixture of Student's t laws.

    .. math::
        \frac1S \sum_s E_s|X - y| - \int \bar F(x) (1 - \bar F(x)) dx, \qquad
        E_s|X - y| = \sigma_s \Big(z (2 F(z) - 1) + 2 f(z) \frac{\nu + z^2}{\nu - 1}\Big)

    with :math:`z = (y - \mu_s) / \sigma_s`. The integral does not know the target; it is the
    trapezoidal rule in :math:`\operatorname{asinh}`, whose error falls exponentially.

    Args:
        means: Of each sample's law, ``(S, ...)``.
        variances: Likewise.
        df: Degrees of freedom, > 2.
        y: Targets, ``(...)``.

    Returns:
        In the units of ``y``, of its shape.

    References:
        Jordan, Krueger, Lerch (2019), https://doi.org/10.18637/jss.v090.i12
    """
    target, mean = _flat(y[None])[0], _flat(means)
    scale = (_flat(variances) * ((df - 2.0) / df)).sqrt()
    scale = scale.clamp(min=torch.finfo(torch.float64).tiny)
    z = (target - mean) / scale
    constant = math.lgamma((df + 1.0) / 2.0) - math.lgamma(df / 2.0)
    log_density = -(df + 1.0) / 2.0 * torch.log1p(z.square() / df) + constant
    density = log_density.exp() / math.sqrt(df * math.pi)
    below = _student_cdf(df, mean, scale, target)
    terms = z * (2.0 * below - 1.0) + 2.0 * density * (df + z.square()) / (df - 1.0)
    score = (scale * terms).mean(0)
    for part in _split(torch.arange(len(target)), len(mean) * 64):
        center, width = mean[:, part], scale[:, part]
        cdfs = partial(_student_cdf, df, center[..., None], width[..., None])
        score[part] -= _half_difference(cdfs, center, width, reach=1e9)
    return score.reshape(y.shape)


def _flat(values: Tensor) -> Tensor:
    return values.detach().to("cpu", torch.float64).reshape(len(values), -1)


def _split(rows: Tensor, width: int) -> tuple[Tensor, ...]:
    return rows.split(max(1, _CHUNK // width)) if len(rows) else ()


def _half_difference(
    cdfs: Callable[[Tensor], Tensor],
    centers: Tensor,
    scales: Tensor,
    *,
    reach: float,
    slope: Callable[[Tensor], Tensor] = torch.ones_like,
) -> Tensor:
    """Return half of E|X - X'|, the integral of F (1 - F), of a mixture.

    Args:
        cdfs: Points ``(n, nodes)`` to the samples' distribution functions, ``(S, n, nodes)``.
        centers: Of each sample's law, ``(S, n)``.
        scales: Likewise.
        reach: Scales beyond which there is nothing.
        slope: Derivative of the variable with respect to the points.
    """
    low, high = centers.amin(0), centers.amax(0)
    middle, width = 0.5 * (low + high)[:, None], (0.5 * (high - low) + scales.amax(0))[:, None]
    step = min(_STEP, 0.7 * float((scales.amin(0) / width[:, 0]).min()))
    count = min(_MOST_NODES, math.ceil(2.0 * math.asinh(reach) / step) + 1)
    u = torch.linspace(-1.0, 1.0, count, dtype=torch.float64) * math.asinh(reach)
    points = middle + width * u.sinh()
    below = cdfs(points).mean(0)
    terms = below * (1.0 - below) * slope(points) * width * u.cosh()
    return terms.sum(-1) * float(u[1] - u[0])


def _student_cdf(df: float, mean: Tensor, scale: Tensor, x: Tensor) -> Tensor:
    return torch.as_tensor(np.asarray(scipy.special.stdtr(df, ((x - mean) / scale).numpy())))


# -- counts --------------------------------------------------------------------------------------


def _shape_of(mean: Tensor, variance: Tensor) -> Tensor:
    """Return the negative binomial's shape, the reciprocal of its dispersion; inf of a Poisson."""
    excess = (variance - mean) / mean.square().clamp(min=1e-300)
    return torch.where(excess < _LEAST_DISPERSION, math.inf, 1.0 / excess)


def _sum_of_counts(mean: Tensor, variance: Tensor, y: Tensor, last: int) -> Tensor:
    # p(k + 1) / p(k) is a / (k + 1) of a Poisson and (shape + k) q / (k + 1) of the other.
    shape = _shape_of(mean, variance)
    plain = shape.isinf()
    q = torch.where(plain, 0.0, mean / (shape + mean))
    first = torch.where(plain, mean, shape * q)
    prob = torch.where(plain, -mean, -shape * torch.log1p(mean / shape)).exp()
    below, score = prob.clone(), torch.zeros_like(y)
    for k in range(last + 1):
        score += (below.mean(0) - (y <= k).double()).square()
        prob *= first.add(q, alpha=k).div_(k + 1)
        below += prob
    return score + (y - last - 1.0).clamp(min=0.0)


def _cdf_of_counts(mean: Tensor, variance: Tensor, x: Tensor) -> Tensor:
    """Return a smooth function that is P(count <= k) at the logarithm of a whole k + 1/2."""
    shape = _shape_of(mean, variance)
    k = (x.clamp(max=_LARGEST_LOG).exp() + 0.5).expand(len(mean), *x.shape)
    plain = shape.isinf()
    if bool(plain.all()):
        below = scipy.special.gammaincc(k.numpy(), mean.numpy())
    else:
        share = torch.where(plain, 0.5, shape / (shape + mean))
        parts = torch.where(plain, 1.0, shape), k, share
        below = scipy.special.betainc(*(part.numpy() for part in parts))
        if bool(plain.any()):
            poisson = scipy.special.gammaincc(k.numpy(), mean.numpy())
            below = np.where(plain.numpy(), poisson, below)
    return torch.as_tensor(below)


def _distance_of_counts(mean: Tensor, variance: Tensor, y: Tensor) -> Tensor:
    """Return the average of E|X - y| over the samples' laws."""
    shape = _shape_of(mean, variance)
    plain, y = shape.isinf(), y.expand_as(mean)
    safe = torch.where(plain, 1.0, shape)
    share = (safe / (safe + mean)).numpy()
    at, before = (
        torch.as_tensor(np.where(k > 0, scipy.special.betainc(n, np.maximum(k, 1e-9), share), 0.0))
        for n, k in ((safe.numpy(), y.numpy() + 1.0), (safe.numpy() + 1.0, y.numpy()))
    )
    other = y * (2.0 * at - 1.0) - mean * (2.0 * before - 1.0)
    density = (torch.special.xlogy(y, mean) - mean - torch.lgamma(y + 1.0)).exp()
    at = torch.special.gammaincc(y + 1.0, mean)
    poisson = (y - mean) * (2.0 * at - 1.0) + 2.0 * mean * density
    return torch.where(plain, poisson, other).mean(0)
