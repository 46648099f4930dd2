"""Inputs and targets: which of them is what, in a batch and in data that is held in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from bayesdrop.errors import DataError
from bayesdrop.program.inputs import (
    Inputs,
    SeveralInputs,
    as_inputs,
    named_inputs,
    require_data,
    tensors_of,
)

Batch: TypeAlias = tuple[Inputs, Tensor | None]
Part: TypeAlias = tuple[Inputs] | tuple[Inputs, Tensor]
"""Inputs, or inputs and targets, that are sliced together."""

LABELS = "labels"
"""The key of a mapping's targets, as in batches of Hugging Face; all others are inputs."""

WHO = "bayesdrop data"
"""Who complains of data."""


def take(part: Part, rows: Any) -> Part:
    """Return some rows of inputs and targets."""
    return (part[0][rows],) if len(part) == 1 else (part[0][rows], part[1][rows])


def num_rows(x: Inputs) -> int:
    """Return the number of examples of inputs; none in a single number."""
    return 0 if isinstance(x, Tensor) and not x.ndim else len(x)


def flat(part: Part) -> list[Tensor]:
    """Return all tensors of inputs and targets."""
    return [*tensors_of(part[0]), *part[1:]]


def rebuilt(part: Part, tensors: list[Tensor]) -> Part:
    """Return other tensors, in the order of ``flat``, in the places of a part."""
    x, number = part[0], len(tensors_of(part[0]))
    inputs = tensors[0] if isinstance(x, Tensor) else x.like(tensors[:number])
    return (inputs,) if len(part) == 1 else (inputs, tensors[-1])


def _as_tensor(name: str, value: Tensor | np.ndarray) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()  # what they were computed from is not trained
    if np.ma.is_masked(value):
        raise DataError(
            WHO,
            expected=f"values of {name} for all examples",
            got="a masked array",
            hint="Leave out the examples with masked values, or fill them: values.filled(0.0).",
        )
    if (
        value.dtype.kind not in "biufc"
        or value.dtype.itemsize > 16
        or value.dtype == np.longdouble
    ):
        raise DataError(
            WHO,
            expected=f"{name} to be an array of numbers",
            got=f"one of dtype {value.dtype}",
            hint="Class names? numpy.unique(y, return_inverse=True)[1] numbers them."
            if name == "y" and value.dtype.kind in "OSU"
            else f"Pass {name}.astype(numpy.float32).",
        )
    # torch knows neither foreign byte orders nor negative strides, and warns of read-only memory.
    native = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("="))
    native = native.reshape(value.shape)
    return torch.from_numpy(native if native.flags.writeable else native.copy())


def split(item: object) -> tuple[Any, ...]:
    """Return inputs, and targets if there are any, as they stand in a batch or an example.

    Raises:
        DataError: If there are more than two parts.
    """
    if isinstance(item, Mapping):
        inputs = {name: value for name, value in item.items() if name != LABELS}
        return (inputs, item[LABELS]) if item.get(LABELS) is not None else (inputs,)
    if not isinstance(item, tuple | list):
        return (item,)
    if len(item) not in (1, 2):
        raise not_a_pair(item)
    return tuple(item[:1] if item[-1] is None else item)


def as_batch(item: object) -> Part:
    """Return a batch, or data in memory, as inputs and targets.

    Raises:
        DataError: If it is something else, or not all have as many examples.
    """
    parts = split(item)
    if not (_is_input(parts[0]) and all(isinstance(y, Tensor | np.ndarray) for y in parts[1:])):
        raise not_a_pair(item)
    x = _as_input(parts[0])
    for name, tensor in named_inputs(x):
        _check_tensor(name, tensor)
    if len(parts) == 1:
        return (x,)
    y = _check_tensor("y", _as_tensor("y", parts[1]))
    counts = num_rows(x), num_rows(y)
    if counts[0] != counts[1]:
        raise DataError(
            WHO,
            expected="as many targets as inputs",
            got=f"{counts[0]} inputs and {counts[1]} targets",
            hint="Were x and y taken from the same split?",
        )
    return x, y


def _is_input(value: object) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return bool(value) and all(isinstance(part, Tensor | np.ndarray) for part in value)
    return isinstance(value, Tensor | np.ndarray | SeveralInputs)


def _as_input(value: Any) -> Inputs:
    if isinstance(value, Mapping):
        value = {name: _as_tensor(repr(name), part) for name, part in value.items()}
    elif isinstance(value, tuple | list):
        value = tuple(_as_tensor(f"input {i}", part) for i, part in enumerate(value))
    elif not isinstance(value, SeveralInputs):
        value = _as_tensor("x", value)
    return as_inputs(WHO, value)


def _check_tensor(name: str, tensor: Tensor) -> Tensor:
    tensor = require_data(WHO, name, tensor)
    if tensor.is_meta or not tensor.ndim:
        raise DataError(
            WHO,
            expected=f"{name} to be a tensor with values, the examples in its first dimension",
            got="one on the meta device" if tensor.is_meta else "a single number",
            hint="Load the data on the CPU."
            if tensor.is_meta
            else f"Pass {name}.reshape(1, -1). A DataLoader with batch_size=None yields examples "
            "unless its Dataset holds batches.",
        )
    return tensor


def not_a_pair(item: object) -> DataError:
    """Return the error for what is neither inputs nor inputs and targets."""
    got = f"a {type(item).__name__}"
    hint = "Make the Dataset return a tensor, or a pair of tensors."
    if isinstance(item, tuple | list):
        kinds = [type(part).__name__ for part in item[:4]] + ["..."] * (len(item) > 4)
        got = f"{len(item)} items ({', '.join(kinds)})"
        if isinstance(item, list) and item and isinstance(item[0], Mapping | tuple):
            hint = "A list of examples goes into a DataLoader, which makes batches of them; a "
            hint += "list of batches into DataLoader(batches, batch_size=None)."
        elif any(hasattr(part, "toarray") for part in item):
            hint = "A sparse matrix is made dense by its toarray()."
        elif len(item) == 2 and isinstance(item[1], Sequence):
            hint = "Make a tensor of a list: torch.tensor(y)."
        elif len(item) > 2:
            hint += " The inputs of a network with several go into a tuple: ((x1, x2), y)."
    if isinstance(item, Mapping):
        kinds = [f"{key!r} ({type(value).__name__})" for key, value in list(item.items())[:6]]
        got = f"a {type(item).__name__} with {', '.join(kinds) or 'nothing in it'}"
        hint = (
            f"All but {LABELS!r}, the targets, are arguments of the network's forward. Give the "
            "DataLoader a collate_fn that leaves out what is none."
        )
    return DataError(
        WHO,
        expected="batches of x or (x, y), of tensors; x may be a tuple or a dictionary of several",
        got=got,
        hint=hint,
    )
