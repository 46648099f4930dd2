"""What a reliability diagram shows: accuracy against confidence, with counts and bands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bayesdrop.errors import unknown_name
from bayesdrop.metrics.binomial import Interval, binomial_interval
from bayesdrop.metrics.bins import mass_bins, width_bins
from bayesdrop.metrics.checks import Array
from bayesdrop.metrics.examples import as_examples
from bayesdrop.metrics.options import require_bins, require_fraction
from bayesdrop.record import Record


@dataclass(frozen=True, eq=False)
class ReliabilityDiagram(Record, also=("ece",)):
    """What ``reliability`` returns: one entry for each of M bins, float64.

    Args:
        left: Where bins begin; with equal mass, their smallest confidence.
        right: Where they end; with equal mass, their largest confidence.
        count: Examples in each, integers.
        confidence: Average confidence; NaN in an empty bin.
        accuracy: Share of right predictions; NaN in an empty bin.
        lower: Lower end of the confidence interval of the accuracy; 0 in an empty bin.
        upper: Upper end; 1 in an empty bin.
        level: Level of the interval, of each bin on its own.
    """

    left: Tensor
    right: Tensor
    count: Tensor
    confidence: Tensor
    accuracy: Tensor
    lower: Tensor
    upper: Tensor
    level: float

    @property
    def ece(self) -> float:
        """Expected (or, with equal mass, adaptive) calibration error of these bins."""
        gaps = (self.accuracy - self.confidence).abs().nan_to_num(0.0)
        return float((self.count * gaps).sum() / self.count.sum())


def reliability(
    predictions: Array,
    labels: Array,
    *,
    num_bins: int = 15,
    strategy: Literal["width", "mass"] = "width",
    level: float = 0.95,
    interval: Interval = "wilson",
) -> ReliabilityDiagram:
    """Return accuracy against confidence in bins, with counts and confidence bands.

    A bin whose band holds its average confidence gives no reason to doubt the calibration there.
    The bands hold for each bin on its own, so that with 15 bins at 0.95 one in twenty of a
    calibrated network's lies outside.

    Args:
        predictions: Probabilities ``(N, C)``, P(y = 1) of shape ``(N,)``, or posterior samples
            ``(S, N, C)``, which are averaged.
        labels: Integers ``(N,)``.
        num_bins: Number of bins.
        strategy: ``"width"``: the bins of ``expected_calibration_error``. ``"mass"``: those of
            ``adaptive_calibration_error``.
        level: Level of the bands, inside (0, 1).
        interval: ``"wilson"`` or the wider ``"clopper-pearson"``.

    Raises:
        ConfigError: For bad options.
        DataError: If the values make no sense; ``ShapeError`` if the shapes do not.

    References:
        DeGroot, Fienberg (1983); bands as in Bröcker, Smith (2007), but of the observed accuracy,
        https://doi.org/10.1175/WAF993.1.

    Example:
        >>> diagram = reliability(torch.tensor([[0.75, 0.25]]), torch.tensor([0]))
        >>> diagram.ece, int(diagram.count.sum())
        (0.25, 1)
    """
    who = "reliability"
    require_bins(who, num_bins)
    require_fraction(who, "level", level)
    if strategy not in ("width", "mass"):
        raise unknown_name("binning strategy", strategy, ("width", "mass"))
    examples = as_examples(who, predictions, labels, average=True)
    confidence, correct = examples.confidence, examples.correct.double()
    bins = (width_bins if strategy == "width" else mass_bins)(confidence, num_bins)
    count = torch.bincount(bins, minlength=num_bins)
    hits = torch.bincount(bins, correct, minlength=num_bins)
    lower, upper = binomial_interval(hits, count, level, interval)
    edges = torch.linspace(0.0, 1.0, num_bins + 1, dtype=torch.float64)
    left, right = edges[:-1], edges[1:]
    if strategy == "mass":
        empty = torch.full((num_bins,), torch.nan, dtype=torch.float64)
        left = empty.scatter_reduce(0, bins, confidence, "amin", include_self=False)
        right = empty.scatter_reduce(0, bins, confidence, "amax", include_self=False)
    return ReliabilityDiagram(
        left=left,
        right=right,
        count=count,
        confidence=torch.bincount(bins, confidence, minlength=num_bins) / count,
        accuracy=hits / count,
        lower=lower,
        upper=upper,
        level=level,
    )
