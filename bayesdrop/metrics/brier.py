"""The Brier score's split into reliability, resolution and uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

from bayesdrop.metrics.bins import ClassBins
from bayesdrop.metrics.checks import Array, require_two_classes
from bayesdrop.metrics.examples import as_examples
from bayesdrop.metrics.options import require_bins
from bayesdrop.record import Record


@dataclass(frozen=True)
class BrierDecomposition(Record, also=("brier",)):
    r"""What ``brier_decomposition`` returns; every part is summed over classes.

    Args:
        reliability: Distance of the bins' probabilities from their frequencies; 0 is calibrated.
        resolution: Distance of the bins' frequencies from the class's share; more is better.
        uncertainty: Variance of the labels, which no network changes.
        within_bin_variance: Variance of the probabilities inside bins.
        within_bin_covariance: Twice their covariance with the labels inside bins.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within_bin_variance: float
    within_bin_covariance: float

    @property
    def brier(self) -> float:
        """The Brier score, summed over classes: that of ``brier_score``, up to rounding."""
        return self.reliability - self.generalised_resolution + self.uncertainty

    @property
    def generalised_resolution(self) -> float:
        """Resolution that counts the order inside bins; with it three parts are exact."""
        return self.resolution - self.within_bin_variance + self.within_bin_covariance


def brier_decomposition(
    probabilities: Array, labels: Array, *, num_bins: int = 15
) -> BrierDecomposition:
    r"""Split the Brier score into reliability, resolution and uncertainty.

    .. math::
        \mathrm{BS} = \sum_c \Big[
        \underbrace{\sum_b w_{cb} (\bar p_{cb} - \bar o_{cb})^2}_{\text{reliability}} -
        \underbrace{\sum_b w_{cb} (\bar o_{cb} - \bar o_c)^2}_{\text{resolution}} +
        \underbrace{\bar o_c (1 - \bar o_c)}_{\text{uncertainty}} +
        \underbrace{\sum_b w_{cb} \mathrm{Var}_{cb}(p)}_{\text{within-bin variance}} -
        \underbrace{2 \sum_b w_{cb} \mathrm{Cov}_{cb}(p, o)}_{\text{within-bin covariance}} \Big]

    with :math:`o_{nc} = [y_n = c]`, :math:`M` equal-width bins of each class's probability,
    :math:`w_{cb}` the share of examples in a bin and bars for averages in it. **In which sense
    exact:** the five parts sum to the Brier score for any data and any bins. Murphy's three parts
    alone do so only if all probabilities in a bin are equal, when the last two vanish. The split
    depends on the bins; it is that of each class against the rest, not of whole vectors.

    Args:
        probabilities: ``(N, C)``, or P(y = 1) of shape ``(N,)``, which counts both classes.
        labels: Integers ``(N,)`` of at least two classes.
        num_bins: Number of bins :math:`M` of each class.

    Raises:
        ConfigError: If ``num_bins`` is less than 1.
        DataError: If the values make no sense; ``ShapeError`` if the shapes do not.

    References:
        Murphy (1973), "A new vector partition of the probability score".
        Stephenson, Coelho, Jolliffe (2008), "Two extra components in the Brier score
        decomposition", https://doi.org/10.1175/2007WAF2006116.1.

    Example:
        >>> import torch
        >>> parts = brier_decomposition(torch.eye(2), torch.arange(2))
        >>> parts.reliability, parts.resolution, parts.uncertainty, parts.brier
        (0.0, 0.5, 0.5, 0.0)
    """
    who = "brier_decomposition"
    require_bins(who, num_bins)
    examples = as_examples(who, probabilities, labels)
    require_two_classes(who, examples.labels)
    return brier_parts(examples.bins(num_bins), len(examples.labels))


def brier_parts(bins: ClassBins, num_examples: int) -> BrierDecomposition:
    """Return the decomposition from the sums in the bins of each class."""
    count, p, hit, square, product = bins.result()
    size = count.clamp(min=1.0)
    mean, frequency = p / size, hit / size
    share = hit.sum(1, keepdim=True) / num_examples
    return BrierDecomposition(
        reliability=float((count * (mean - frequency).square()).sum() / num_examples),
        resolution=float((count * (frequency - share).square()).sum() / num_examples),
        uncertainty=float((share * (1.0 - share)).sum()),
        # >= 0 but for rounding.
        within_bin_variance=float((square - p * mean).clamp(min=0.0).sum() / num_examples),
        within_bin_covariance=float(2.0 * (product - mean * hit).sum() / num_examples),
    )
