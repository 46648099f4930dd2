"""Sorting predictions into bins, and what is summed in them."""

from __future__ import annotations

import torch
from torch import Tensor

from bayesdrop.metrics.ties import tied

_EDGE = 2.0**-20  # Sums of a hundred shares in float32 are off by half as much.


def width_bins(values: Tensor, num_bins: int) -> Tensor:
    """Return the equal-width bin of values in [0, 1]; closed on the left, the last also at 1.

    Values within 9.5e-7 below an edge count as on it, so that numbers like 0.9, which float32 and
    float64 round to different sides, and sums of a hundred times 0.01, are in the same bin in
    both.
    """
    return ((values + _EDGE) * num_bins).long().clamp(max=num_bins - 1)


def mass_bins(values: Tensor, num_bins: int) -> Tensor:
    """Return the equal-mass bin of values ``(N,)``, as equal as ties allow.

    Bin ``b`` holds the ranks ``[b N / M, (b + 1) N / M)``. Equal values go together to the bin of
    the middle one, so that the order of the examples does not matter.
    """
    _, group, count = torch.unique(tied(values), return_inverse=True, return_counts=True)
    last = count.cumsum(0) - 1
    middle = last - count // 2
    return (middle * num_bins // len(values))[group]


def gap_sums(confidence: Tensor, correct: Tensor, bins: Tensor, num_bins: int) -> Tensor:
    """Return each bin's sum of (right or wrong) minus confidence."""
    sums = torch.zeros(num_bins, dtype=torch.float64)
    return sums.index_add(0, bins, correct.double() - confidence)


class ClassBins:
    """Sums over equal-width bins of each class's probability, of any number of examples.

    Args:
        num_classes: Classes :math:`C`.
        num_bins: Bins :math:`M` of each.
    """

    def __init__(self, num_classes: int, num_bins: int) -> None:
        self.num_bins = num_bins
        self.sums = torch.zeros(5, num_classes * num_bins, dtype=torch.float64)

    def add(self, values: Tensor, target: Tensor) -> None:
        """Add probabilities ``(N, C)`` and labels ``(N,)``."""
        num_classes = values.shape[1]
        first = torch.arange(num_classes) * self.num_bins
        index = (width_bins(values, self.num_bins) + first).reshape(-1)
        hit = torch.nn.functional.one_hot(target, num_classes).double()
        terms = (torch.ones_like(values), values, hit, values.square(), values * hit)
        for row, term in enumerate(terms):
            self.sums[row].index_add_(0, index, term.reshape(-1))

    @property
    def num_present(self) -> int:
        """The number of classes that labels were of."""
        return int((self.result()[2].sum(1) > 0).sum())

    def result(self) -> tuple[Tensor, ...]:
        """Return count, p, hit, p squared and p times hit, each ``(C, M)``, summed in each bin."""
        return tuple(self.sums.reshape(5, -1, self.num_bins))
