"""Elementwise functions of short vectors: NumPy's on a CPU, torch's elsewhere.

A call of torch on a vector of some hundred numbers takes several times as long as the arithmetic,
and two to three times as long as NumPy's. A gradient that is written out is a long chain of such
calls in every training step. So it is written once, for arrays of either kind, in functions that
both have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

_LONGEST = 1 << 15  # beyond it torch runs in several threads


class Elementwise(NamedTuple):
    """Functions of arrays of one kind, and how tensors become such arrays, and tensors again."""

    exp: Callable[[Any], Any]
    log: Callable[[Any], Any]
    log1p: Callable[[Any], Any]
    expm1: Callable[[Any], Any]
    where: Callable[[Any, Any, Any], Any]
    at_least: Callable[[Any, float], Any]
    at_most: Callable[[Any, float], Any]
    digamma: Callable[[Any], Any]
    trigamma: Callable[[Any], Any]
    join: Callable[[list[Any]], Any]
    array: Callable[[Tensor], Any]
    tensor: Callable[[Any], Tensor]
    quiet: Callable[[], AbstractContextManager[object]]


def elementwise(parts: Sequence[Tensor]) -> Elementwise:
    """Return the functions that are fastest for vectors such as these, joined.

    Args:
        parts: At least one tensor.
    """
    short = sum(x.numel() for x in parts) <= _LONGEST
    return NUMPY if short and _is_plain(parts[0]) else TORCH


_KNOWN = (torch.float32, torch.float64)
_PLAIN = (torch.nn.Parameter, Tensor)

NUMPY = Elementwise(
    np.exp,
    np.log,
    np.log1p,
    np.expm1,
    np.where,
    np.maximum,
    np.minimum,
    lambda x: torch.digamma(torch.from_numpy(x)).numpy(),
    lambda x: torch.polygamma(1, torch.from_numpy(x)).numpy(),
    np.concatenate,
    lambda x: x.detach().numpy(),
    torch.from_numpy,
    # As torch, which knows of no warnings: an infinity in a branch that is not taken.
    lambda: np.errstate(all="ignore"),
)

TORCH = Elementwise(
    torch.exp,
    torch.log,
    torch.log1p,
    torch.expm1,
    torch.where,
    lambda x, bound: x.clamp(min=bound),
    lambda x, bound: x.clamp(max=bound),
    torch.digamma,
    lambda x: torch.polygamma(1, x),
    torch.cat,
    lambda x: x.detach(),
    lambda x: x,
    nullcontext,
)


def log1p(x: Tensor) -> Tensor:
    """Return log(1 + x) without a gradient: NumPy's on a CPU, where torch's is not vectorised."""
    return _numpys(np.log1p, x) if _is_plain(x) else torch.log1p(x)


def expm1(x: Tensor) -> Tensor:
    """Return exp(x) - 1 without a gradient, likewise."""
    return _numpys(np.expm1, x) if _is_plain(x) else torch.expm1(x)


def _numpys(function: np.ufunc, x: Tensor) -> Tensor:
    with np.errstate(all="ignore"):
        return torch.from_numpy(function(x.detach().numpy()))


def _is_plain(x: Tensor) -> bool:
    return bool(x.is_cpu and x.ndim and x.dtype in _KNOWN and type(x) in _PLAIN)
