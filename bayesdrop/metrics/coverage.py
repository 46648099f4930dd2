"""Calibration of a regression: does a 90 % interval hold 9 targets of 10?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesdrop.metrics.arrays import as_tensor
from bayesdrop.metrics.binomial import binomial_interval
from bayesdrop.metrics.bins import width_bins
from bayesdrop.metrics.checks import Array, Mixture, as_components, as_mixture
from bayesdrop.metrics.crps import crps_per_target
from bayesdrop.metrics.options import as_fractions, require_bins, require_fraction
from bayesdrop.record import Record

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_TINY = torch.finfo(torch.float64).tiny


def pit_values(means: Array, y: Array, variances: Array | float | None = None) -> Tensor:
    r"""Return the predictive distribution function at each target, in [0, 1], like ``y``.

    .. math:: u_n = F_n(y_n) = \frac1S \sum_s \Phi\!\left(\frac{y_n - \mu_{ns}}{\sigma_{ns}}\right)

    The probability integral transform of a calibrated prediction is uniform: a U-shaped histogram
    tells of over-confidence, a hill of too wide predictions. For plain samples :math:`u_n` is the
    share of samples below the target, and half of those equal to it.

    Args:
        means: ``(S, N)`` or ``(S, N, D)``.
        y: Targets ``(N,)`` or ``(N, D)``.
        variances: Of each sample's Gaussian, or what broadcasts to ``means``; None for samples of
            ``y`` itself.

    Raises:
        DataError: If the values make no sense; ``ShapeError`` if the shapes do not.

    References:
        Gneiting, Balabdaoui, Raftery (2007), https://doi.org/10.1111/j.1467-9868.2007.00587.x.

    Example:
        >>> pit_values(torch.zeros(1, 2), torch.tensor([0.0, 9.0]), 1.0).round(decimals=3).tolist()
        [0.5, 1.0]
    """
    mixture = as_mixture("pit_values", means, y, variances)
    return _pit(mixture).reshape(as_tensor("pit_values", y).shape)


def predictive_interval(
    means: Array, level: float, variances: Array | float | None = None
) -> tuple[Tensor, Tensor]:
    """Return the central interval that holds the target with probability ``level``.

    Its ends are quantiles of the mixture of Gaussians, found by bisection to rounding; of plain
    samples, quantiles interpolated linearly, as in NumPy.

    Args:
        means: ``(S, N)`` or ``(S, N, D)``.
        level: Inside (0, 1).
        variances: As in ``pit_values``.

    Returns:
        Lower and upper end, ``(N,)`` or ``(N, D)``.

    Raises:
        ConfigError: If ``level`` is not inside (0, 1).
        DataError: If the values make no sense; ``ShapeError`` if the shapes do not.

    Example:
        >>> lower, upper = predictive_interval(torch.zeros(1, 1), 0.95, 1.0)
        >>> round(float(upper), 3), bool(lower == -upper)
        (1.96, True)
    """
    require_fraction("predictive_interval", "level", level)
    values, noise = as_components("predictive_interval", means, variances)
    shape = as_tensor("predictive_interval", means).shape[1:]
    tail = (1.0 - level) / 2.0
    ends = (_quantile(values, noise, q).reshape(shape) for q in (tail, 1.0 - tail))
    lower, upper = ends
    return lower, upper


@dataclass(frozen=True, eq=False)
class RegressionCalibration(Record, also=("calibration_error",), drop_none=True):
    """What ``regression_calibration`` returns; L levels, float64.

    Args:
        level: Nominal probabilities of central intervals, ``(L,)``.
        coverage: Share of targets inside, ``(L,)``.
        lower: Lower end of the 95 % confidence interval of the coverage, for independent targets.
        upper: Its upper end.
        width: Average width of the intervals, in the units of ``y``, ``(L,)``; None if unknown.
        pit_count: Targets in equal-width bins of ``pit_values``.
        crps: Average CRPS, in the units of ``y``; None if unknown.
        num_targets: Targets, N times D.
    """

    level: Tensor
    coverage: Tensor
    lower: Tensor
    upper: Tensor
    width: Tensor | None
    pit_count: Tensor
    crps: float | None
    num_targets: int

    @property
    def calibration_error(self) -> float:
        """Average distance between nominal and observed coverage, over the levels."""
        return float((self.coverage - self.level).abs().mean())


def regression_calibration(
    means: Array,
    y: Array,
    variances: Array | float | None = None,
    *,
    levels: Sequence[float] = LEVELS,
    num_bins: int = 10,
) -> RegressionCalibration:
    """Return coverage and width of intervals, the PIT histogram and the CRPS.

    Args:
        means: Mean of each posterior sample, or samples of ``y``, ``(S, N)`` or ``(S, N, D)``.
            Intervals of plain samples are a little too narrow if there are few of them.
        y: Targets ``(N,)`` or ``(N, D)``.
        variances: Of each sample's Gaussian, or what broadcasts to ``means``; None for samples of
            ``y`` itself.
        levels: Nominal probabilities of central intervals, inside (0, 1); or one.
        num_bins: Bins of the PIT histogram.

    Raises:
        ConfigError: For bad options.
        DataError: If the values make no sense; ``ShapeError`` if the shapes do not.

    References:
        Kuleshov, Fenner, Ermon (2018), https://arxiv.org/abs/1807.00263.

    Example:
        >>> result = regression_calibration(torch.zeros(1, 50), torch.zeros(50), 1.0)
        >>> bool((result.coverage == 1).all()), int(result.pit_count.sum())
        (True, 50)
    """
    who = "regression_calibration"
    require_bins(who, num_bins)
    levels = as_fractions(who, "level", levels)
    mixture = as_mixture(who, means, y, variances)
    coverage, width = [], []
    for level in levels:
        tail = (1.0 - level) / 2.0
        lower, upper = (_quantile(mixture.means, mixture.variances, q) for q in (tail, 1.0 - tail))
        coverage.append(((lower <= mixture.y) & (mixture.y <= upper)).double().mean())
        width.append((upper - lower).mean())
    return _calibration(
        levels,
        torch.stack(coverage),
        _pit(mixture),
        num_bins,
        width=torch.stack(width),
        crps=float(crps_per_target(mixture).mean()),
    )


def calibration_of_pit(
    pit: Tensor, *, levels: Sequence[float] = LEVELS, num_bins: int = 10
) -> RegressionCalibration:
    """Return the same from PIT values of any shape, without widths and CRPS.

    A target is inside the central interval of probability :math:`l` where its PIT value is within
    :math:`l / 2` of one half.
    """
    distance = (pit.reshape(-1, 1).double() - 0.5).abs()
    inside = distance <= torch.tensor(tuple(levels), dtype=torch.float64) / 2.0
    return _calibration(levels, inside.double().mean(0), pit, num_bins)


def mean_width(means: Array, level: float, variances: Array | float | None = None) -> float:
    """Return the average width of ``predictive_interval``, in the units of ``y``."""
    lower, upper = predictive_interval(means, level, variances)
    return float((upper - lower).mean())


def width_error(means: Tensor, variances: Tensor, level: float) -> float:
    r"""Return the standard error of ``mean_width`` that comes from which samples were drawn.

    .. math::
        \mathrm{se} = \frac{1}{\sqrt S}\, \mathrm{sd}_s \Big[ \frac1N \sum_n
        \frac{F_{ns}(l_n)}{f_n(l_n)} - \frac{F_{ns}(u_n)}{f_n(u_n)} \Big]

    with the ends :math:`l_n, u_n`, and :math:`f_n` the mixture's density there: each sample's
    influence on a quantile, the jackknife with ever smaller parts left out.

    Args:
        means: ``(S, N)`` or ``(S, N, D)``.
        variances: As in ``pit_values``, above zero.
        level: Inside (0, 1).
    """
    values, noise = as_components("width_error", means, variances)
    if noise is None or len(values) < 2:
        return math.nan
    scale = noise.sqrt().clamp(min=_TINY)
    influence = torch.zeros(len(values), dtype=torch.float64)
    for end, sign in zip(predictive_interval(means, level, variances), (1.0, -1.0), strict=True):
        z = (end.reshape(values.shape[1:]) - values) / scale
        density = ((-0.5 * z.square()).exp() / scale).mean(0) / math.sqrt(2.0 * math.pi)
        influence += sign * (torch.special.ndtr(z) / density).flatten(1).mean(1)
    return float(influence.std() / math.sqrt(len(values)))


def _calibration(
    levels: Sequence[float],
    share: Tensor,
    pit: Tensor,
    num_bins: int,
    *,
    width: Tensor | None = None,
    crps: float | None = None,
) -> RegressionCalibration:
    pit = pit.double().reshape(-1)
    bins = width_bins(pit, num_bins)
    total = torch.tensor(float(len(pit)))
    low, high = binomial_interval((share * total).round(), total.expand_as(share))
    return RegressionCalibration(
        level=torch.tensor(tuple(levels), dtype=torch.float64),
        coverage=share,
        lower=low,
        upper=high,
        width=width,
        pit_count=torch.bincount(bins, minlength=num_bins),
        crps=crps,
        num_targets=len(pit),
    )


def _pit(mixture: Mixture) -> Tensor:
    if mixture.variances is None:
        above = mixture.y - mixture.means
        return ((above > 0).double() + 0.5 * (above == 0)).mean(0)
    return _cdf(mixture.means, mixture.variances, mixture.y)


def _cdf(means: Tensor, variances: Tensor, x: Tensor) -> Tensor:
    return torch.special.ndtr((x - means) / variances.sqrt().clamp(min=_TINY)).mean(0)


def _quantile(means: Tensor, variances: Tensor | None, q: float) -> Tensor:
    if variances is None:
        ordered = means.sort(0).values
        position = q * (len(means) - 1)
        below = min(int(position), len(means) - 1)
        above = min(below + 1, len(means) - 1)
        return torch.lerp(ordered[below], ordered[above], position - below)
    # The mixture's quantile lies between the smallest and the largest of its components'.
    z = float(torch.special.ndtri(torch.tensor(q, dtype=torch.float64)))
    ends = means + z * variances.sqrt()
    lower, upper = ends.amin(0), ends.amax(0)
    for _ in range(64 if len(means) > 1 else 0):
        middle = 0.5 * (lower + upper)
        low = _cdf(means, variances, middle) < q
        lower, upper = torch.where(low, middle, lower), torch.where(low, upper, middle)
    return 0.5 * (lower + upper)
