"""What a number of 16 bits stands for."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

SIXTEEN_BITS = (torch.float16, torch.bfloat16)
_DENOMINATORS = (*range(1, 11), 12, 15, 20, 25, 30, 50, 100)  # Usual numbers of bins.
_MEMBERS = (*range(1, 11), 12, 15, 20, 16, 32, 64, 25, 30, 40, 50, 100)  # Exact ones first.


def held_in(values: Tensor) -> torch.dtype | None:
    """Return the 16-bit dtype that holds all values, if one does."""
    for dtype in SIXTEEN_BITS:
        if torch.equal(values.to(dtype).to(values.dtype), values):
            return dtype
    return None


def simplest_shares(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return, in float64, the simplest share that rounds to each value of 16 bits in [0, 1].

    A number of 16 bits stands for all that round to it. Of those a share of 1 to 10, 12, 15, 20,
    25, 30, 50 or 100 is taken, of the fewest, or else the number itself: the share 4/5, which
    float16 holds as 0.7998, is 4/5 again, and on the edge of a bin.

    Args:
        values: Of any shape and dtype, on the CPU.
        dtype: The 16-bit dtype that they fit in.
    """
    index = values.to(dtype).contiguous().view(torch.int16).long() & 0xFFFF
    return _table(dtype)[index]


def simplest_rows(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return, in float64, the simplest shares that sum to one and round to each row of 16 bits.

    The votes of an ensemble have the number of its members as their denominator, all in a row:
    the first of 1 to 10, 12, 15, 20, 16, 32, 64, 25, 30, 40, 50 and 100 is taken with which shares
    round to all numbers of the row. If none does, they are divided by their sum, which rounding
    has moved from one.

    Args:
        values: Probabilities ``(N, C)`` in float64, on the CPU.
        dtype: The 16-bit dtype that they fit in.
    """
    result = values / values.sum(1, keepdim=True)
    largest, rows = values.amax(1), torch.arange(len(values))
    for members in _MEMBERS:
        near = _rounds_to(largest[rows], members, dtype)
        found = rows[near]
        votes = (values[found] * members).round()
        fits = _rounds_to(values[found], members, dtype).all(1) & (votes.sum(1) == members)
        result[found[fits]] = votes[fits] / members
        rows = rows[~near.masked_scatter(near, fits)]
    return result


def _rounds_to(values: Tensor, members: int, dtype: torch.dtype) -> Tensor:
    return ((values * members).round() / members).to(dtype).to(values.dtype) == values


@cache
def _table(dtype: torch.dtype) -> Tensor:
    bits = torch.arange(2**16).to(torch.int16)
    numbers = bits.view(dtype).double()
    open_, result = (numbers > 0) & (numbers < 1), numbers.clone()
    for denominator in _DENOMINATORS:
        share = (numbers * denominator).round() / denominator
        hit = open_ & (share.to(dtype).double() == numbers)
        result[hit] = share[hit]
        open_ &= ~hit
    return result
