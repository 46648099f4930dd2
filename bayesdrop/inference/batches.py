"""Mini-batches from whatever users hold their data in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from bayesdrop.errors import DataError

Data: TypeAlias = "tuple[Tensor, Tensor] | Tensor | Dataset | DataLoader"
Batch: TypeAlias = tuple[Tensor, Tensor | None]


def num_examples(data: Data) -> int:
    """Return the number of examples, as far as the data knows it.

    Raises:
        DataError: If there are none, or the data has no length.
    """
    tensors = _as_tensors(data)
    if tensors is not None:
        count = tensors[0].shape[0] if tensors[0].ndim else 0
    else:
        source = data.dataset if isinstance(data, DataLoader) else data
        if not hasattr(source, "__len__"):
            raise DataError(
                "bayesdrop data",
                expected="tensors, a Dataset with a length, or a DataLoader over one",
                got=type(source).__name__,
                hint="Wrap it in torch.utils.data.TensorDataset.",
            )
        count = len(source)
    if count == 0:
        raise DataError(
            "bayesdrop data",
            expected="at least one example",
            got="an empty data set",
            hint="Check the split or the filter that made it.",
        )
    return count


def batches(
    data: Data,
    batch_size: int | None = None,
    *,
    shuffle: bool = False,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Iterator[Batch]:
    """Yield ``(x, y)`` batches; ``y`` is None where the data has no targets.

    Tensors and a ``TensorDataset`` are sliced, which is many times faster than collating examples
    one by one. A ``DataLoader`` keeps its own batch size and order.

    Args:
        data: Tensors ``(x, y)`` or ``x``, a Dataset, or a DataLoader.
        batch_size: Examples a batch; None takes 100 (or the DataLoader's).
        shuffle: Whether to permute the examples, with torch's generator.
        generator: Source of the permutation; None is torch's global one.
        device: Where batches go; None leaves them.

    Raises:
        DataError: If the data is empty or does not hold ``x`` or ``(x, y)``.
    """
    count = num_examples(data)
    tensors = _as_tensors(data)
    if tensors is None:
        loader = (
            data
            if isinstance(data, DataLoader)
            else DataLoader(
                cast(Dataset, data), batch_size or 100, shuffle=shuffle, generator=generator
            )
        )
        for item in loader:
            yield _move(_as_batch(item), device)
        return
    size = batch_size or 100
    order = torch.randperm(count, generator=generator) if shuffle else None
    for start in range(0, count, size):
        rows = slice(start, start + size) if order is None else order[start : start + size]
        yield _move(tuple(tensor[rows] for tensor in tensors), device)


def _as_tensors(data: Data) -> tuple[Tensor, ...] | None:
    if isinstance(data, Tensor):
        return (data,)
    if isinstance(data, TensorDataset):
        return _check_pair(data.tensors)
    if isinstance(data, tuple | list):
        if not all(isinstance(item, Tensor) for item in data):
            raise _not_a_pair(data)
        return _check_pair(tuple(data))
    return None


def _check_pair(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    if len(tensors) not in (1, 2):
        raise _not_a_pair(tensors)
    lengths = {tensor.shape[0] if tensor.ndim else 0 for tensor in tensors}
    if len(lengths) > 1:
        raise DataError(
            "bayesdrop data",
            expected="as many targets as inputs",
            got=f"{tensors[0].shape[0]} inputs and {tensors[1].shape[0]} targets",
            hint="Were x and y taken from the same split?",
        )
    return tensors


def _as_batch(item: object) -> tuple[Tensor, ...]:
    if isinstance(item, Tensor):
        return (item,)
    if (
        isinstance(item, tuple | list)
        and len(item) in (1, 2)
        and all(isinstance(part, Tensor) for part in item)
    ):
        return tuple(item)
    raise _not_a_pair(item)


def _not_a_pair(item: object) -> DataError:
    got = (
        f"{len(item)} items ({', '.join(type(part).__name__ for part in item)})"
        if isinstance(item, tuple | list)
        else type(item).__name__
    )
    return DataError(
        "bayesdrop data",
        expected="batches of x or (x, y), both tensors",
        got=got,
        hint="Make the Dataset return a tensor, or a pair of tensors.",
    )


def _move(tensors: tuple[Tensor, ...], device: torch.device | str | None) -> Batch:
    if device is not None:
        tensors = tuple(tensor.to(device, non_blocking=True) for tensor in tensors)
    return tensors[0], (tensors[1] if len(tensors) == 2 else None)
