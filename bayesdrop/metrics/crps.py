"""Continuous ranked probability score of a regression's predictive distribution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bayesdrop.metrics.checks import Array, Mixture, as_mixture

# Elements of one temporary tensor: all pairs of samples of some examples are held at a time.
_CHUNK = 2**20


def continuous_ranked_probability_score(
    means: Array, y: Array, variances: Array | float | None = None
) -> float:
    r"""Return the average CRPS, in the units of ``y``: 0 is perfect, lower is better.

    .. math::
        \mathrm{CRPS}(F, y) = \int (F(x) - [x \ge y])^2 dx = E|X - y| - \tfrac12 E|X - X'|

    for independent :math:`X, X' \sim F`. With variances, :math:`F` is the mixture of the samples'
    Gaussians, and with :math:`A(\mu, \sigma^2) = 2 \sigma \varphi(\mu / \sigma) + \mu (2
    \Phi(\mu / \sigma) - 1)`, the mean of :math:`|N(\mu, \sigma^2)|`,

    .. math::
        \frac1S \sum_s A(y - \mu_s, \sigma^2_s) -
        \frac{1}{2 S^2} \sum_{st} A(\mu_s - \mu_t, \sigma^2_s + \sigma^2_t)

    exactly; with one sample, the closed form of a Gaussian. Without variances the means are
    samples of ``y``, and :math:`F` is their empirical distribution: exact too, but as a judgement
    of the distribution they come from it is too high by about :math:`1 / S`.

    Args:
        means: ``(S, N)`` or ``(S, N, D)``.
        y: Targets ``(N,)`` or ``(N, D)``.
        variances: Of each sample's Gaussian, or what broadcasts to ``means``; None for samples of
            ``y`` itself.

    Raises:
        DataError: If the values make no sense; ``ShapeError`` if the shapes do not.

    References:
        Gneiting, Raftery (2007), https://doi.org/10.1198/016214506000001437; mixtures: Grimit,
        Gneiting, Berrocal, Johnson (2006), https://doi.org/10.1256/qj.05.235.

    Example:
        >>> continuous_ranked_probability_score(torch.tensor([[0.0], [2.0]]), torch.tensor([1.0]))
        0.5
    """
    mixture = as_mixture("continuous_ranked_probability_score", means, y, variances)
    return float(crps_per_target(mixture).mean())


def crps_per_target(mixture: Mixture) -> Tensor:
    """Return the CRPS of each target, ``(N, D)``."""
    count = len(mixture.means)
    means, y = mixture.means.reshape(count, -1), mixture.y.reshape(-1)
    if mixture.variances is None:
        return _empirical(means, y).reshape(mixture.y.shape)
    variances = mixture.variances.reshape(count, -1)
    rows = max(1, _CHUNK // count)
    parts = [
        _gaussian_mixture(*(part.split(rows, -1)[i] for part in (means, variances, y)))
        for i in range(math.ceil(len(y) / rows))
    ]
    return torch.cat(parts).reshape(mixture.y.shape)


def _gaussian_mixture(means: Tensor, variances: Tensor, y: Tensor) -> Tensor:
    count = len(means)
    distance = _mean_absolute(y - means, variances).mean(0)
    # A sample with itself, then each pair once.
    spread = _mean_absolute(torch.zeros_like(means), 2.0 * variances).sum(0)
    for s in range(count - 1):
        pairs = _mean_absolute(means[s] - means[s + 1 :], variances[s] + variances[s + 1 :])
        spread += 2.0 * pairs.sum(0)
    return distance - spread / (2.0 * count**2)


def _mean_absolute(mean: Tensor, variance: Tensor) -> Tensor:
    """Return E|X| of X ~ N(mean, variance), also for variance 0."""
    scale = variance.sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    z = mean / scale
    density = (-0.5 * z.square()).exp() / math.sqrt(2.0 * math.pi)
    return 2.0 * scale * density + mean * torch.erf(z / math.sqrt(2.0))


def _empirical(samples: Tensor, y: Tensor) -> Tensor:
    count = len(samples)
    # Sum over pairs of |x_s - x_t|: each sorted value is added as often as it is the larger one.
    ordered = samples.sort(0).values
    weights = 2.0 * torch.arange(count, dtype=torch.float64) - (count - 1)
    pairs = (weights[:, None] * ordered).sum(0)
    return (samples - y).abs().mean(0) - pairs / count**2
