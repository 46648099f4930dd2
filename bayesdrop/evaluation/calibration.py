"""Calibration: does a confidence of 0.8 mean right in 8 of 10?"""

from __future__ import annotations

import torch

from bayesdrop.errors import ConfigError, describe
from bayesdrop.evaluation.checks import Array, as_labels, as_probabilities


def expected_calibration_error(
    probabilities: Array, labels: Array, *, num_bins: int = 15
) -> float:
    r"""Return the expected calibration error of the most probable class, in [0, 1].

    .. math::
        \sum_b \frac{|B_b|}{N} \left| \mathrm{acc}(B_b) - \mathrm{conf}(B_b) \right|, \qquad
        B_b = \left\{n : \frac{b}{M} \le \max_c p_{nc} < \frac{b + 1}{M}\right\}

    over :math:`b = 0 \dots M - 1`, equal-width bins of the whole set; the last one includes 1.

    Args:
        probabilities: ``(N, C)``, or P(y = 1) of shape ``(N,)``.
        labels: Integers ``(N,)``.
        num_bins: Number of bins :math:`M`.

    Raises:
        ConfigError: If ``num_bins`` is less than 1.
        DataError: If the values make no sense; ``ShapeError`` if the shapes do not.

    References:
        Guo, Pleiss, Sun, Weinberger (2017), https://arxiv.org/abs/1706.04599.
        Deviation: bins are closed on the left, as in torchmetrics. Not computed by torchmetrics,
        which puts a confidence of exactly 1 in a bin of its own (its issue 3510: 0.525 instead of
        0.475 for confidences 0.95 and 1, of which the first is right) and sums in float32.

    Example:
        >>> expected_calibration_error(torch.tensor([[0.75, 0.25]]), torch.tensor([0]))
        0.25
    """
    if num_bins < 1:
        raise ConfigError(
            describe(
                "expected_calibration_error",
                expected="num_bins >= 1",
                got=f"num_bins={num_bins}",
                hint="The usual number is 15.",
            )
        )
    values = as_probabilities("expected_calibration_error", probabilities)
    target = as_labels("expected_calibration_error", labels, values)
    confidence, predicted = values.max(1)
    bins = (confidence * num_bins).long().clamp(max=num_bins - 1)
    gap = (predicted == target).double() - confidence
    # |B| / N * |acc - conf| is |sum of the bin's gaps| / N.
    sums = torch.zeros(num_bins, dtype=torch.float64).index_add(0, bins, gap)
    return float(sums.abs().sum() / len(values))
