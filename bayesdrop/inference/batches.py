"""Mini-batches from whatever users hold their data in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from bayesdrop.errors import DataError
from bayesdrop.inference.splitting import (
    WHO,
    Batch,
    Part,
    as_batch,
    flat,
    not_a_pair,
    num_rows,
    rebuilt,
    take,
)
from bayesdrop.program.inputs import GivenInputs

Data: TypeAlias = (
    "tuple[GivenInputs | np.ndarray, Tensor | np.ndarray | None] | Mapping[str, Tensor] | Tensor "
    "| np.ndarray | Dataset | DataLoader"
)


def num_examples(data: Data) -> int:
    """Return the number of examples of one pass, as far as the data knows it.

    That is the length of a DataLoader's sampler, which may be a subset of its data set.

    Raises:
        DataError: If there are none, or the data has no length.
    """
    count = known_examples(data)
    if count is None:
        raise DataError(
            WHO,
            expected="tensors, a Dataset with a length, or a DataLoader over one",
            got=f"a {type(_source(data)).__name__} of unknown length",
            hint="Wrap it in torch.utils.data.TensorDataset, or give it __len__.",
        )
    return count


def known_examples(data: Data) -> int | None:
    """Return the number of examples of one pass; None where the data, a stream, has no length.

    Raises:
        DataError: If there are none.
    """
    tensors = as_tensors(data)
    count: int | None
    if tensors is not None:
        count = num_rows(tensors[0])
    elif isinstance(data, DataLoader):
        count = _loader_examples(data)
    else:
        count = _length(data)
    if count == 0:
        raise DataError(
            WHO,
            expected="at least one example",
            got="an empty data set",
            hint="Check the split or the filter that made it.",
        )
    return count


def data_set_sizes(data: Data) -> set[int]:
    """Return what ``num_data`` may be: usually one number, none if the data does not tell.

    A sampler that chooses once for all which examples there are, such as SubsetRandomSampler, has
    its own number; one that draws anew in each epoch has that of its data set. A sampler of
    someone else's may be either.
    """
    if not isinstance(data, DataLoader):
        count = known_examples(data)
        return set() if count is None else {count}
    whole = _length(data.dataset)
    if whole is None or isinstance(data.dataset, IterableDataset):
        return set() if whole is None else {whole}
    sampler = sampler_of(data)
    if isinstance(sampler, SequentialSampler | RandomSampler | DistributedSampler):
        return {whole}
    if isinstance(sampler, SubsetRandomSampler):
        return {len(set(sampler.indices))}
    if isinstance(sampler, list | tuple | range):
        return {len(set(sampler))}
    if isinstance(sampler, WeightedRandomSampler):
        return {int((torch.as_tensor(sampler.weights) > 0).sum())}
    drawn = _length(sampler)
    return set() if drawn is None else {whole, drawn}


def _loader_examples(loader: DataLoader) -> int | None:
    if isinstance(loader.dataset, IterableDataset):
        return _length(loader.dataset)
    drawn = _length(sampler_of(loader))
    if drawn is None or loader.batch_size is None:
        return drawn
    if loader.drop_last and drawn < loader.batch_size:
        raise DataError(
            WHO,
            expected="at least one batch",
            got=f"none: {drawn} examples, batches of {loader.batch_size} and drop_last=True",
            hint="Pass drop_last=False, or a smaller batch_size, to the DataLoader.",
        )
    return drawn - drawn % loader.batch_size if loader.drop_last else drawn


def sampler_of(loader: DataLoader) -> object:
    """Return what chooses the examples of a loader; None if a batch sampler does not tell."""
    if loader.batch_size is not None or loader.batch_sampler is None:
        # With batch_size=None a sampler may choose whole batches.
        chooses: object = loader.sampler
        return chooses.sampler if isinstance(chooses, BatchSampler) else chooses
    return getattr(loader.batch_sampler, "sampler", None)


def keeps_order(loader: DataLoader) -> bool:
    """Return whether a loader's rows are known to come in the order of its data."""
    sampler = sampler_of(loader)
    if isinstance(loader.dataset, IterableDataset) or isinstance(sampler, SequentialSampler):
        return True
    return isinstance(sampler, list | tuple | range) and list(sampler) == list(range(len(sampler)))


def _source(data: object) -> object:
    return data.dataset if isinstance(data, DataLoader) else data


def _length(data: object) -> int | None:
    try:
        return len(cast(Sized, data))
    except (TypeError, NotImplementedError):
        return None


def batches(
    data: Data,
    batch_size: int | None = None,
    *,
    shuffle: bool = False,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    join_single: bool = False,
) -> Iterator[Batch]:
    """Yield ``(x, y)`` batches; ``y`` is None where the data has no targets.

    Tensors, arrays and a ``TensorDataset`` are sliced, which is many times faster than collating
    examples one by one. A ``DataLoader``, and any other object that yields batches each time it is
    iterated over, keeps its own batch size and order.

    Args:
        data: Tensors or arrays ``(x, y)`` or ``x``, a Dataset, or a DataLoader. For a network
            with several inputs ``x`` is a tuple, its positional arguments, or a mapping of their
            names; a mapping alone is split into its ``"labels"`` and the inputs. Without targets
            a tuple of inputs is ``((x1, x2), None)``.
        batch_size: Examples a batch; None takes 100 (or the DataLoader's).
        shuffle: Whether to permute the examples, with torch's generator; a stream
            (``IterableDataset``) has the order that it has.
        generator: Source of the permutation; None is torch's global one.
        device: Where batches go; None leaves them.
        join_single: Whether a batch of one example is joined to the batch before it.

    Raises:
        DataError: If the data is empty, or does not hold ``x`` or ``(x, y)`` as dense real
            tensors with the examples in their first dimension.
    """
    parts = _batches(data, batch_size, shuffle, generator)
    for item in _joined(parts) if join_single else parts:
        yield _move(item, device)


def _batches(
    data: Data, batch_size: int | None, shuffle: bool, generator: torch.Generator | None
) -> Iterator[Part]:
    known_examples(data)  # which refuses empty data
    tensors, size = as_tensors(data), batch_size or 100
    if tensors is None:
        with _collating():
            for item in _loader(data, size, shuffle, generator):
                yield as_batch(item)
        return
    count = len(tensors[0])
    order = torch.randperm(count, generator=generator) if shuffle else None
    for start in range(0, count, size):
        rows = slice(start, start + size) if order is None else order[start : start + size]
        yield take(tensors, rows)


@contextmanager
def _collating() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "stack expects each tensor to be equal size" not in str(error):
            raise
        raise DataError(
            WHO,
            expected="examples of one shape",
            got=f"others in one batch ({error})",
            hint="Pad them, or pass a DataLoader with a collate_fn that does.",
        ) from error


def _loader(
    data: Any, batch_size: int, shuffle: bool, generator: torch.Generator | None
) -> Iterable[object]:
    if isinstance(data, DataLoader) or _yields_batches(data):
        return cast("Iterable[object]", data)
    stream = isinstance(data, IterableDataset)
    if not stream:
        num_examples(data)  # which refuses a Dataset without a length
    return DataLoader(data, batch_size, shuffle=shuffle and not stream, generator=generator)


def _yields_batches(data: object) -> bool:
    return isinstance(data, Iterable) and not hasattr(data, "__getitem__") and not isinstance(
        data, IterableDataset
    )  # fmt: skip


def _joined(parts: Iterator[Part]) -> Iterator[Part]:
    """Join each batch of one to the one before, unless that has one row or others' shapes."""
    before: Part | None = None
    for part in parts:
        if before is not None:
            first, second = (flat(one) for one in (before, part))
            alike = [t.shape[1:] for t in first] == [t.shape[1:] for t in second]
            if alike and len(part[0]) == 1 < len(before[0]):
                joined = [torch.cat(pair) for pair in zip(first, second, strict=True)]
                before = rebuilt(before, joined)
                continue
            yield before
        before = part
    if before is not None:
        yield before


def as_tensors(data: object) -> Part | None:
    """Return data that is held in memory as ``(x,)`` or ``(x, y)``; None if it is a Dataset.

    Raises:
        DataError: If it is neither, nor a DataLoader.
    """
    if isinstance(data, Tensor | np.ndarray | TensorDataset | tuple | list | Mapping):
        if isinstance(data, list) and not all(isinstance(p, Tensor | np.ndarray) for p in data):
            raise not_a_pair(data)  # may be a list of examples
        return as_batch(data.tensors if isinstance(data, TensorDataset) else data)
    known = isinstance(data, DataLoader) or hasattr(data, "__getitem__") or (
        isinstance(data, IterableDataset) or _yields_batches(data)
    )  # fmt: skip
    if isinstance(data, str | bytes | Iterator) or not known or isinstance(data, type):
        raise _not_data(data)
    if hasattr(data, "to_numpy"):
        raise _not_data(data, "Pass data.to_numpy(), of float32 inputs.")
    return None


def in_memory(data: Data) -> Part:
    """Return all examples as one batch; those of a Dataset or DataLoader are read once, in turn.

    Raises:
        DataError: As ``batches`` does, or if batches have other shapes.
    """
    if (tensors := as_tensors(data)) is not None:
        return tensors
    parts = list(_batches(data, None, False, None))
    columns = list(zip(*(flat(part) for part in parts), strict=True))
    if any(len({tensor.shape[1:] for tensor in column}) > 1 for column in columns):
        raise DataError(
            WHO,
            expected="examples of one shape",
            got="batches of several",
            hint="Pad all to one length.",
        )
    return rebuilt(parts[0], [torch.cat(column) for column in columns])


def _not_data(data: object, hint: str = "") -> DataError:
    if isinstance(data, Iterator):
        hint = "An iterator is used up after one epoch: pass the Dataset or DataLoader."
    return DataError(
        WHO,
        expected="tensors or arrays (x, y), a Dataset with a length, or a DataLoader",
        got="None" if data is None else f"a {type(data).__name__}",
        hint=hint or "Wrap it in torch.utils.data.TensorDataset.",
    )


def _move(part: Part, device: torch.device | str | None) -> Batch:
    x, y = part if len(part) == 2 else (part[0], None)
    if device is not None:
        x = x.to(device, non_blocking=True)
        y = None if y is None else y.to(device, non_blocking=True)
    return x, y
