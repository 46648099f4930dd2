"""Scores that are equal but for rounding, and what examples of one score share."""

from __future__ import annotations

import torch
from torch import Tensor

_RELATIVE, _ABSOLUTE = 1e-12, 1e-15


def tied(scores: Tensor) -> Tensor:
    """Return scores ``(N,)`` of which those that differ by rounding alone are equal.

    The entropies of the shares 0.1, 0.9 and 0.9, 0.1 are one number, and two in float64: a rank
    would tell the classes apart. Neighbours within 1e-12 of their size, or 1e-15, become the
    smallest of them, so that a threshold there takes all.

    Args:
        scores: Finite, float64.
    """
    ordered, order = scores.sort()
    room = _RELATIVE * torch.maximum(ordered[1:].abs(), ordered[:-1].abs()) + _ABSOLUTE
    starts = torch.cat([torch.ones(1, dtype=torch.bool), ordered.diff() > room])
    result = torch.empty_like(scores)
    result[order] = ordered[starts][starts.cumsum(0) - 1]
    return result


def share_ties(values: Tensor, ordered_by: Tensor) -> Tensor:
    """Replace values by their average wherever ``ordered_by``, which is sorted, is equal."""
    _, group, count = torch.unique_consecutive(ordered_by, return_inverse=True, return_counts=True)
    sums = torch.zeros(len(count), dtype=torch.float64).index_add(0, group, values)
    return (sums / count)[group]


def of_one_precision(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return two sets of values in the coarser of their dtypes, so that equal ones are equal."""
    if first.dtype == second.dtype or not (
        first.is_floating_point() and second.is_floating_point()
    ):
        return first, second
    coarser = max(first.dtype, second.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    return first.to(coarser), second.to(coarser)
