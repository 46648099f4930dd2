"""Arrays and tables of other libraries, in the types that a network takes."""

from __future__ import annotations

from numbers import Real
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from bayesdrop.errors import DataError
from bayesdrop.inference.batches import Data
from bayesdrop.metrics.arrays import check_index
from bayesdrop.program.program import Program

_DTYPES = {torch.float32: np.float32, torch.float64: np.float64}


def arrays_of(who: str, bnn: nn.Module, data: object, *, fitting: bool = False) -> Data:
    """Return data with NumPy arrays in the place of tables, floats in the network's dtype.

    Tables are what has ``to_numpy`` or ``__array__``, such as the DataFrames and Series of pandas
    and polars. All their numbers become inputs of the network's dtype; of arrays only floats do,
    since integers may be tokens. Targets keep their kind. Tensors, Datasets, DataLoaders and all
    that is no data are returned as they are.

    Args:
        who: Who asks, for messages.
        bnn: The network; a ``Program`` knows the columns that it was fitted to.
        data: Whatever the user passed.
        fitting: Whether the network is to remember the names of the columns; otherwise a table
            with others, or in another order, is refused.

    Raises:
        DataError: If a table has a cell that is no number, a gap, columns in another order, or
            rows in another order than its targets.
    """
    if isinstance(data, tuple | list) and len(data) == 2:
        x, y = data
        check_index(who, x, y)
        inputs = _inputs(who, bnn, x, fitting)
        return cast(Data, (inputs, _numbers(who, "y", y) if _is_table(y) else y))
    return cast(Data, _inputs(who, bnn, data, fitting))


def _inputs(who: str, bnn: nn.Module, x: object, fitting: bool) -> object:
    if not isinstance(x, np.ndarray) and not _is_table(x):
        return x
    names = _names(x)
    fitted = bnn.feature_names if isinstance(bnn, Program) else None
    if fitting and isinstance(bnn, Program):
        bnn.feature_names = names
    elif names and fitted and names != fitted:
        _refuse_columns(who, names, fitted)
    array = x if isinstance(x, np.ndarray) else _numbers(who, "x", x)
    first = next((p for p in bnn.parameters() if p.is_floating_point()), torch.empty(0))
    dtype = _DTYPES.get(first.dtype)
    if dtype is None or not (array.dtype.kind == "f" or array is not x):
        return array
    return array.astype(dtype, copy=False)


def _is_table(value: object) -> bool:
    if isinstance(value, type | Tensor | np.ndarray):
        return False
    return hasattr(value, "to_numpy") or hasattr(value, "__array__")


def _names(table: Any) -> tuple[str, ...] | None:
    columns = getattr(table, "columns", None)
    return None if columns is None else tuple(map(str, columns))


def _numbers(who: str, name: str, table: Any) -> np.ndarray:
    """Return a table as an array of numbers, booleans as integers."""
    array = np.asarray(table.to_numpy() if hasattr(table, "to_numpy") else table)
    labels = _names(table) or ()
    cells = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
    if array.dtype.kind not in "biuf":
        for column in range(cells.shape[1]):
            for row, cell in enumerate(cells[:, column]):
                if not isinstance(cell, Real | np.bool_):
                    raise _no_number(who, name, labels, row, column, cell)
        array = array.astype(np.float64)
    elif array.dtype.kind == "b":
        array = array.astype(np.int64)
    if array.dtype.kind == "f" and (gaps := np.isnan(array.reshape(cells.shape))).any():
        row, column = (int(index) for index in np.argwhere(gaps)[0])
        raise _no_number(who, name, labels, row, column, "NaN, a gap")
    return array


def _no_number(
    who: str, name: str, labels: tuple[str, ...], row: int, column: int, cell: object
) -> DataError:
    shown = cell if cell == "NaN, a gap" else f"{cell!r}, a {type(cell).__name__}"
    where = f"column {labels[column]!r}, row {row}" if labels else f"row {row}"
    return DataError(
        who,
        expected=f"{name} to be a table of numbers",
        got=f"{shown}, in {where}",
        hint="Fill gaps or leave their rows out; make columns of 0 and 1 of categories, for "
        "example by pandas.get_dummies; labels are integers from 0 up.",
    )


def _refuse_columns(who: str, names: tuple[str, ...], fitted: tuple[str, ...]) -> None:
    if sorted(names) == sorted(fitted):
        got = f"the same in another order: {_listed(names)}"
    else:
        missing, more = (
            [name for name in one if name not in other]
            for one, other in ((fitted, names), (names, fitted))
        )
        got = f"without {_listed(missing)}" if missing else f"others too: {_listed(more)}"
    raise DataError(
        who,
        expected=f"the columns that the network was fitted to, {_listed(fitted)}",
        got=got,
        hint="Choose them in that order: data[list(bnn.feature_names)].",
    )


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(map(repr, names[:8])) + (", ..." if len(names) > 8 else "")
