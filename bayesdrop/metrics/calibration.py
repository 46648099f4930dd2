"""Calibration errors: does a confidence of 0.8 mean right in 8 of 10?"""

from __future__ import annotations

import torch
from torch import Tensor

from bayesdrop.metrics.bins import ClassBins, gap_sums, mass_bins, width_bins
from bayesdrop.metrics.checks import Array, require_two_classes
from bayesdrop.metrics.examples import as_examples
from bayesdrop.metrics.options import require_bins


def expected_calibration_error(
    probabilities: Array, labels: Array, *, num_bins: int = 15
) -> float:
    r"""Return the expected calibration error of the most probable class, in [0, 1].

    .. math::
        \sum_b \frac{|B_b|}{N} \left| \mathrm{acc}(B_b) - \mathrm{conf}(B_b) \right|, \qquad
        B_b = \left\{n : \frac{b}{M} \le \max_c p_{nc} < \frac{b + 1}{M}\right\}

    over :math:`b = 0 \dots M - 1`, equal-width bins of the whole set; the last one includes 1, and
    what is below an edge by rounding, less than 9.5e-7, counts as on it. Probabilities of 16 bits
    are taken as the simplest shares that round to them, of up to 100.

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
    who = "expected_calibration_error"
    require_bins(who, num_bins)
    examples = as_examples(who, probabilities, labels)
    return calibration_errors(examples.confidence, examples.correct, num_bins)[0]


def adaptive_calibration_error(
    probabilities: Array, labels: Array, *, num_bins: int = 15
) -> float:
    r"""Return the expected calibration error with bins of equal mass instead of equal width.

    The bins hold :math:`N / M` examples each, sorted by confidence, so that a network which is
    nearly always certain is not judged by one bin; equal confidences share a bin.

    Args:
        probabilities: ``(N, C)``, or P(y = 1) of shape ``(N,)``.
        labels: Integers ``(N,)``.
        num_bins: Number of bins :math:`M`.

    Raises:
        ConfigError: If ``num_bins`` is less than 1.
        DataError: If the values make no sense; ``ShapeError`` if the shapes do not.

    References:
        Nguyen, O'Connor (2015), https://arxiv.org/abs/1508.05154; of the top label, as in
        Mukhoti et al. (2020), https://arxiv.org/abs/2002.09437. The name is also used for an
        average over classes (Nixon et al., 2019) and for an unweighted average over bins.

    Example:
        >>> adaptive_calibration_error(torch.tensor([[0.75, 0.25]]), torch.tensor([0]))
        0.25
    """
    who = "adaptive_calibration_error"
    require_bins(who, num_bins)
    examples = as_examples(who, probabilities, labels)
    return adaptive_error(examples.confidence, examples.correct, num_bins)


def maximum_calibration_error(probabilities: Array, labels: Array, *, num_bins: int = 15) -> float:
    r"""Return the largest gap between accuracy and confidence in any bin, in [0, 1].

    .. math:: \max_{b : |B_b| > 0} \left| \mathrm{acc}(B_b) - \mathrm{conf}(B_b) \right|

    The bins are those of ``expected_calibration_error``. A bin with a handful of examples decides
    it easily: see ``reliability`` for how many there are.

    Args:
        probabilities: ``(N, C)``, or P(y = 1) of shape ``(N,)``.
        labels: Integers ``(N,)``.
        num_bins: Number of bins :math:`M`.

    Raises:
        ConfigError: If ``num_bins`` is less than 1.
        DataError: If the values make no sense; ``ShapeError`` if the shapes do not.

    References:
        Guo, Pleiss, Sun, Weinberger (2017), https://arxiv.org/abs/1706.04599.

    Example:
        >>> maximum_calibration_error(torch.tensor([[0.75, 0.25]]), torch.tensor([0]))
        0.25
    """
    who = "maximum_calibration_error"
    require_bins(who, num_bins)
    examples = as_examples(who, probabilities, labels)
    return calibration_errors(examples.confidence, examples.correct, num_bins)[1]


def classwise_calibration_error(
    probabilities: Array, labels: Array, *, num_bins: int = 15
) -> float:
    r"""Return the calibration error of every class's probability, averaged over classes.

    .. math::
        \frac1C \sum_c \sum_b \frac{|B_{cb}|}{N}
        \left| \frac{1}{|B_{cb}|} \sum_{n \in B_{cb}} \big([y_n = c] - p_{nc}\big) \right|

    with :math:`M` equal-width bins :math:`B_{cb}` of :math:`p_{nc}` for each class. It sees
    probabilities of classes that are not the most probable one, which ECE does not.

    Args:
        probabilities: ``(N, C)``, or P(y = 1) of shape ``(N,)``.
        labels: Integers ``(N,)`` of at least two classes.
        num_bins: Number of bins :math:`M`.

    Raises:
        ConfigError: If ``num_bins`` is less than 1.
        DataError: If the values make no sense; ``ShapeError`` if the shapes do not.

    References:
        Kull et al. (2019), https://arxiv.org/abs/1910.12656, eq. 4.

    Example:
        >>> p = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
        >>> classwise_calibration_error(p, torch.tensor([0, 1]))
        0.25
    """
    who = "classwise_calibration_error"
    require_bins(who, num_bins)
    examples = as_examples(who, probabilities, labels)
    require_two_classes(who, examples.labels)
    return float(class_errors(examples.bins(num_bins), len(examples.labels)).mean())


def calibration_errors(confidence: Tensor, correct: Tensor, num_bins: int) -> tuple[float, float]:
    """Return expected and maximum calibration error of confidences and hits ``(N,)``."""
    bins = width_bins(confidence, num_bins)
    # |B| / N * |acc - conf| is |sum of the bin's gaps| / N.
    gaps = gap_sums(confidence, correct, bins, num_bins).abs()
    counts = torch.bincount(bins, minlength=num_bins)
    return float(gaps.sum() / len(confidence)), float((gaps / counts.clamp(min=1)).max())


def adaptive_error(confidence: Tensor, correct: Tensor, num_bins: int) -> float:
    """Return the adaptive calibration error of confidences and hits ``(N,)``."""
    gaps = gap_sums(confidence, correct, mass_bins(confidence, num_bins), num_bins)
    return float(gaps.abs().sum() / len(confidence))


def class_errors(bins: ClassBins, num_examples: int) -> Tensor:
    """Return the calibration error of each class, ``(C,)``, from the sums in its bins."""
    _, probability, hit, *_ = bins.result()
    return (hit - probability).abs().sum(1) / num_examples
