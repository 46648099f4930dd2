r"""Pruned weights on disk: values and where they are, instead of zeros.

A file is what ``torch.save`` makes of a dict, which ``torch.load(weights_only=True)`` reads:
``format``, ``version`` and ``kind`` as in every file of the package, ``tensors``: a list with
``[name, dtype, shape, storage, nonzero, start, stop]`` for each entry of the state dict, and
``data``: one tensor of bytes, of which ``data[start:stop]`` holds the entry. All numbers are
little endian. A tensor of shape ``(R, ...)`` is a matrix of ``R`` rows and ``C`` columns; its
storage is what takes the fewest bytes:

* ``"dense"``: all values.
* ``"bitmask"``: one bit for each entry, set where it is not zero, the lowest bit of a byte first;
  then the nonzero values, row by row.
* ``"csr"``: the number of nonzero values in each row, then the column of each, then the values.
  Counts and columns are unsigned integers of the smallest of 1, 2, 4 or 8 bytes that holds ``C``.
"""

from __future__ import annotations

import copy
import io
import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.errors import CheckpointError, CompactionError
from bayesdrop.files import first_line
from bayesdrop.inference import checkpoint
from bayesdrop.nn import named_dropout_layers, with_plain_weights
from bayesdrop.program.checks import require_module
from bayesdrop.program.program import Program
from bayesdrop.record import TableRecord

_KIND = "sparse"


@dataclass(frozen=True)
class SparseTensor:
    """One entry of a sparse file.

    Args:
        name: Its name in the state dict.
        shape: Its shape.
        nonzero: Number of values that are not zero.
        storage: ``"dense"``, ``"bitmask"`` or ``"csr"``.
        bytes: Bytes it takes.
        bytes_dense: Bytes of all its values.
    """

    name: str
    shape: tuple[int, ...]
    nonzero: int
    storage: str
    bytes: int
    bytes_dense: int

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def is_weight(self) -> bool:
        """Whether it is a matrix or a kernel, and no bias."""
        return len(self.shape) > 1


@dataclass(frozen=True)
class SparsityTable(TableRecord, also=("weights", "weights_total")):
    """How sparse a network is, and what it takes on disk.

    Args:
        tensors: Every entry of the state dict.
        file_bytes: Size of the file that ``save_plain(format="sparse")`` writes.
        file_bytes_dense: Size of the file that ``torch.save`` makes of the state dict.
    """

    tensors: tuple[SparseTensor, ...]
    file_bytes: int
    file_bytes_dense: int

    @property
    def weights_total(self) -> int:
        """Number of weights, biases not counted."""
        return sum(tensor.size for tensor in self.tensors if tensor.is_weight)

    @property
    def weights(self) -> int:
        """Number of weights that are not zero."""
        return sum(tensor.nonzero for tensor in self.tensors if tensor.is_weight)

    @property
    def compression(self) -> float:
        """All weights over those that are not zero, as in the literature."""
        return self.weights_total / self.weights if self.weights else math.inf

    def zeros(self) -> dict[str, float]:
        """Return the percentage of zeros of each weight."""
        return {t.name: 100.0 * (1 - t.nonzero / t.size) for t in self.tensors if t.is_weight}

    @override
    def to_dict(self) -> dict[str, Any]:
        """Return everything in plain numbers, strings and lists, ready for JSON."""
        compression = self.compression if self.weights else None
        return super().to_dict() | {"weights_compression": compression, "zeros": self.zeros()}

    @override
    def table(self) -> tuple[list[str], list[list[str]]]:
        zeros = self.zeros()
        rows: list[tuple[str, int, int, float, int, int, str]] = [
            (t.name, t.size, t.nonzero, zeros[t.name], t.bytes_dense, t.bytes, t.storage)
            for t in self.tensors
            if t.is_weight
        ]
        file = f"file, compression {self.compression:.1f}x"
        share = 100.0 * (1 - self.weights / max(1, self.weights_total))
        files = self.file_bytes_dense, self.file_bytes
        rows.append((file, self.weights_total, self.weights, share, *files, ""))
        header = ["", "weights", "not zero", "zeros", "bytes, dense", "bytes", "stored as"]
        return header, [
            [name, f"{size:,}", f"{nonzero:,}", f"{zero:.1f} %", f"{dense:,}", f"{own:,}", storage]
            for name, size, nonzero, zero, dense, own, storage in rows
        ]


def measure_sparsity(network: nn.Module) -> SparsityTable:
    """Return how many weights of each layer are zero, and what is saved by not storing them.

    Args:
        network: A ``BayesianNetwork`` or module; layers with random weights count with their mean
            weights, pruned ones being zero. It is not changed.

    Raises:
        CompactionError: If the network has Bayesian dropout layers.

    Example:
        >>> table = measure_sparsity(nn.Linear(4, 3))
        >>> table.weights, table.compression
        (12, 1.0)
    """
    return _pack(_plain("measure_sparsity", network))[1]


def write_sparse(network: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the state dict of the plain network without its zeros, atomically.

    Args:
        network: As for ``measure_sparsity``.
        path: The file.
    """
    checkpoint.write(path, _pack(_plain("save_plain", network))[0])


def read_sparse(path: str | os.PathLike[str], network: nn.Module) -> nn.Module:
    """Fill a network with what ``write_sparse`` wrote, with zeros where it has none.

    Args:
        path: The file.
        network: A network of the architecture that was saved; changed in place and returned.
            Nothing but its state dict is looked at.

    Raises:
        CheckpointError: If the file is damaged, foreign or of another architecture; ``network`` is
            then unchanged.
    """
    payload = checkpoint.read(path, _KIND)
    try:
        data = payload["data"].numpy()
        entries = {str(name): entry for name, *entry in payload["tensors"]}
        shapes = {name: tuple(entry[1]) for name, entry in entries.items()}
        checkpoint.check_shapes(network, shapes, path)  # before anything of these shapes is made
        state = {name: unpacked(data, *entry) for name, entry in entries.items()}
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # whatever comes of damaged numbers
        raise CheckpointError(
            f"plain network {os.fspath(path)}",
            expected="the entries of format 'sparse'",
            got=f"{type(error).__name__}: {first_line(error)}",
            hint="It is damaged, or was written by another version of bayesdrop.",
        ) from error
    network.load_state_dict(state)
    return network


def _plain(who: str, network: nn.Module) -> nn.Module:
    require_module(who, network)
    names = [name for name, _ in named_dropout_layers(network)]
    if names:
        raise CompactionError(
            who,
            expected="a network without Bayesian dropout layers",
            got=f"one with {names}",
            hint="Call bd.compact(network) first: units that masks prune are no zeros yet.",
        )
    module = network.network if isinstance(network, Program) else network
    return with_plain_weights(copy.deepcopy(module))


def _pack(network: nn.Module) -> tuple[dict[str, Any], SparsityTable]:
    state = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    chunks: list[bytes] = []
    entries, found, start = [], [], 0
    for name, value in state.items():
        storage, content = packed(value)
        nonzero, stop = int((value != 0).sum()), start + len(content)
        dtype = str(value.dtype).removeprefix("torch.")
        entries.append([name, dtype, list(value.shape), storage, nonzero, start, stop])
        dense = value.numel() * value.element_size()
        found.append(SparseTensor(name, tuple(value.shape), nonzero, storage, len(content), dense))
        chunks.append(content)
        start = stop
    data = torch.from_numpy(np.frombuffer(b"".join(chunks), dtype=np.uint8).copy())
    payload = {**checkpoint.header(_KIND), "tensors": entries, "data": data}
    return payload, SparsityTable(tuple(found), _saved_size(payload), _saved_size(state))


def packed(value: Tensor) -> tuple[str, bytes]:
    """Return the storage that takes the fewest bytes, and these."""
    flags = value != 0
    values = _bytes(value[flags])
    choices = {"dense": _bytes(value)}
    if value.ndim:
        matrix = flags.reshape(value.shape[0], -1).numpy()
        index = _index_type(matrix.shape[1])
        counts, columns = matrix.sum(1).astype(index), matrix.nonzero()[1].astype(index)
        bits = np.packbits(matrix.reshape(-1), bitorder="little")
        choices["csr"] = counts.tobytes() + columns.tobytes() + values
        choices["bitmask"] = bits.tobytes() + values
    storage = min(choices, key=lambda name: len(choices[name]))
    return storage, choices[storage]


def unpacked(
    data: np.ndarray,
    dtype: str,
    shape: list[int],
    storage: str,
    nonzero: int,
    start: int,
    stop: int,
) -> Tensor:
    """Return an entry of ``data[start:stop]``, by what a file says of it.

    Raises:
        ValueError: If these are no such bytes.
    """
    kind = getattr(torch, dtype)
    size, width = math.prod(shape), torch.empty((), dtype=kind).element_size()
    content = data[start:stop]
    if storage == "dense":
        _expect(len(content), size * width)
        return _tensor(content, kind).reshape(shape)
    rows = shape[0]
    flags = np.zeros((rows, size // max(1, rows)), dtype=bool)
    index = _index_type(flags.shape[1])
    if storage == "bitmask":
        head = -(-size // 8)
        bits = np.unpackbits(content[:head], count=size, bitorder="little")
        flags[:] = bits.reshape(flags.shape)
    elif storage == "csr":
        ends = rows * index.itemsize, (rows + nonzero) * index.itemsize
        head = ends[1]
        counts = content[: ends[0]].view(index)
        _expect(sum(counts.tolist()), nonzero)
        flags[np.repeat(np.arange(rows), counts), content[ends[0] : head].view(index)] = True
    else:
        raise ValueError(f"unknown storage {storage!r}")
    _expect(int(flags.sum()), nonzero)
    _expect(len(content), head + nonzero * width)
    value = torch.zeros(shape, dtype=kind)
    value[torch.from_numpy(flags.reshape(shape))] = _tensor(content[head:], kind)
    return value


def _expect(got: int, expected: int) -> None:
    if got != expected:
        raise ValueError(f"{got} instead of {expected}")


def _index_type(columns: int) -> np.dtype[Any]:
    width = next(width for width in (1, 2, 4, 8) if columns < 256**width)
    return np.dtype(f"<u{width}")


def _bytes(value: Tensor) -> bytes:
    if not value.numel():  # torch cannot reinterpret what is empty
        return b""
    return value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _tensor(content: np.ndarray, dtype: torch.dtype) -> Tensor:
    if not len(content):
        return torch.empty(0, dtype=dtype)
    return torch.from_numpy(content.copy()).view(dtype)


def _saved_size(payload: dict[str, Any]) -> int:
    file = io.BytesIO()
    torch.save(payload, file)
    return file.tell()
