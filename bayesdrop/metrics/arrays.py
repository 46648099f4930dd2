"""Tensors from whatever users hold numbers in."""

from __future__ import annotations

from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from bayesdrop.errors import DataError
from bayesdrop.record import Record, ShortRepr

Array: TypeAlias = "Tensor | np.ndarray"
"""What metrics take; pandas' Series and DataFrame, and lists of numbers or tensors, serve too."""


def as_tensor(who: str, values: object) -> Tensor:
    """Return numbers as a tensor without gradient, where they are, or say what is wrong.

    NumPy arrays may be reversed, transposed, read-only or in the other byte order; what has rows
    in an order of its own, as a shuffled Series, keeps that order and not its index.

    Args:
        who: The function that asks.
        values: A tensor, an array, what NumPy makes one of, or a list of tensors.

    Raises:
        DataError: If they are no real numbers, or not of one shape.
    """
    if isinstance(values, list | tuple) and any(isinstance(item, Tensor) for item in values):
        values = _stacked(who, list(values))
    if not isinstance(values, Tensor):
        values = torch.from_numpy(_native(who, values))
    values = values.detach()
    if values.is_sparse or values.layout != torch.strided:
        values = values.to_dense()
    if values.is_complex() or values.is_quantized or values.device.type == "meta":
        got = "no values, on the meta device" if values.device.type == "meta" else values.dtype
        raise _no_numbers(who, str(got))
    return values


def _stacked(who: str, items: list[Tensor]) -> Tensor:
    shapes = {tuple(torch.as_tensor(item).shape) for item in items}
    if len(shapes) > 1:
        raise DataError(
            who,
            expected="values of one shape",
            got=f"a list of shapes {sorted(shapes)}",
            hint="Batches? Join them with torch.cat.",
        )
    return torch.stack([torch.as_tensor(item).detach().cpu() for item in items])


def _native(who: str, values: object) -> np.ndarray:
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise DataError(
            who,
            expected="values for all examples",
            got="a masked array",
            hint="Leave out what is masked: values.compressed().",
        )
    if isinstance(values, ShortRepr | Record):
        has_mean = isinstance(getattr(values, "mean", None), Tensor)
        raise DataError(
            who,
            expected="real numbers",
            got=f"a {type(values).__name__}",
            hint=f"Pass a tensor of it{', such as prediction.mean' if has_mean else ''}.",
        )
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise _no_numbers(who, f"a {type(values).__name__} that NumPy cannot read") from error
    boxed = array.dtype.kind == "O" and hasattr(values, "columns")  # pandas' own Float64
    if boxed and all(isinstance(cell, Real) for cell in array.flat):
        array = array.astype(np.float64)
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind not in "biuf" or (kind == "f" and size > np.dtype(np.float64).itemsize):
        raise _no_numbers(who, f"a {type(values).__name__} of dtype {array.dtype}")
    if kind == "u" and size > 1:
        # torch knows little of what to do with them.
        array = array.astype(np.int64)
    # Of its own, in the machine's byte order: torch takes no other strides or bytes, and warns of
    # memory that it must not write to.
    native = array.dtype.newbyteorder("=")
    usable = array.flags.writeable and array.dtype == native
    usable = usable and all(stride >= 0 for stride in array.strides)
    return array if usable else np.array(array, dtype=native, order="C")


def _no_numbers(who: str, got: str) -> DataError:
    return DataError(
        who,
        expected="real numbers",
        got=got,
        hint="Pass floats or integers, such as values.astype('float64'); class names need an "
        "integer for each class.",
    )


def check_index(who: str, x: Any, *others: Any) -> None:
    """Raise ``DataError`` if rows that go together have one index, as pandas has, in two orders.

    Indices with other entries say nothing: rows are taken by position, as in scikit-learn.

    Args:
        who: Who asks, for messages.
        x: The inputs, or predictions.
        others: The targets, and what else has a row for each.
    """
    first = getattr(x, "index", None)
    for second in (getattr(value, "index", None) for value in others):
        if not (hasattr(first, "equals") and hasattr(second, "equals")) or first.equals(second):  # type: ignore[union-attr]
            continue
        if set(first) == set(second):  # type: ignore[arg-type]
            raise DataError(
                who,
                expected="rows that go together in the same order",
                got="the same index in another order",
                hint="Pass y.loc[x.index], or reset both indices if the rows do belong together.",
            )
