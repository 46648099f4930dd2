r"""Quantised weights on disk, in a file that no pickle is part of.

A file is ``b"bayesdrop-q1\n"``, a CRC-32 of all that follows, the length of a header, the header,
and the contents of the entries, one after the other. The numbers are unsigned, of four bytes and
little endian. The header is JSON: a list of ``[name, dtype, shape, storage, detail, size]`` for
each entry of the state dict, of ``size`` bytes. Storage ``"grid"`` is that of
``bayesdrop.compression.grid.pack``, ``detail`` being the axis of its steps; all others are those
of format ``"sparse"``, with the number of values that are not zero.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bayesdrop.compression.grid import Grid, Packed, on_grid, pack, unpack
from bayesdrop.compression.sparse import packed, unpacked
from bayesdrop.errors import CheckpointError, ConfigError
from bayesdrop.files import first_line, write_file
from bayesdrop.inference import checkpoint

MAGIC = b"bayesdrop-q1\n"
"""What a file begins with."""
_NAME = "_grids"
_HEAD = struct.Struct("<II")


class Stored(NamedTuple):
    """An entry of a file.

    Args:
        name: In the state dict.
        value: The tensor.
        storage: How it is stored.
        detail: The axis of its steps, or the number of values that are not zero.
        content: Its bytes.
        packed: What its grid says of them, if it has one.
    """

    name: str
    value: Tensor
    storage: str
    detail: int | None
    content: bytes
    packed: Packed | None


def note_grids(network: nn.Module, grids: dict[str, Grid]) -> None:
    """Let a network know the grids of its weights, by name, in plain tuples."""
    setattr(network, _NAME, {name: tuple(grid) for name, grid in grids.items()})


def entries_of(network: nn.Module) -> list[Stored]:
    """Return what the file of a quantised network has for each entry of its state dict.

    Raises:
        ConfigError: If the network was not quantised, or its weights were changed since.
    """
    grids = {name: Grid(*grid) for name, grid in getattr(network, _NAME, {}).items()}
    if not grids:
        raise ConfigError(
            "save_plain",
            expected="a network whose weights are on grids, for format 'quantised'",
            got=f"a {type(network).__name__} that was not quantised",
            hint="Pass bd.compression.quantise(bnn, x[:1]).network.",
        )
    found = []
    for name, value in network.state_dict().items():
        tensor = value.detach().cpu()
        if name not in grids:
            storage, content = packed(tensor)
            found.append(Stored(name, tensor, storage, int((tensor != 0).sum()), content, None))
            continue
        if not torch.equal(on_grid(tensor, grids[name]), tensor):
            raise ConfigError(
                "save_plain",
                expected=f"{name!r} on the grid that quantise has chosen",
                got="weights between its points",
                hint="They were trained or converted since: quantise the network again.",
            )
        own = pack(tensor, grids[name])
        found.append(Stored(name, tensor, "grid", grids[name].axis, own.content, own))
    return found


def file_of(entries: list[Stored]) -> bytes:
    """Return the bytes of a file."""
    header = [
        [e.name, str(e.value.dtype).removeprefix("torch."), list(e.value.shape), e.storage]
        + [e.detail, len(e.content)]
        for e in entries
    ]
    text = json.dumps(header, separators=(",", ":")).encode()
    rest = struct.pack("<I", len(text)) + text + b"".join(e.content for e in entries)
    return MAGIC + struct.pack("<I", zlib.crc32(rest)) + rest


def write_quantised(network: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a network that ``quantise`` has returned, atomically.

    Args:
        network: It.
        path: The file.

    Raises:
        ConfigError: As ``entries_of``.
        CheckpointError: If the file cannot be written; an old one is kept.
    """
    content = file_of(entries_of(network))
    write_file(path, lambda file: file.write(content))


def read_quantised(path: str | os.PathLike[str], network: nn.Module) -> nn.Module:
    """Fill a network with what ``write_quantised`` wrote, with zeros where it has none.

    Args:
        path: The file.
        network: A plain network of the architecture that was quantised; changed in place and
            returned. It knows its grids, and can be saved again.

    Raises:
        CheckpointError: If the file is damaged, foreign or of another architecture; ``network`` is
            then unchanged.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
        header, data = _parsed(content)
        entries = {str(name): entry for name, *entry in header}
        shapes = {name: tuple(entry[1]) for name, entry in entries.items()}
        checkpoint.check_shapes(network, shapes, path)  # before anything of these shapes is made
        state, grids = _values(entries, data)
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # whatever comes of damaged bytes
        raise CheckpointError(
            f"plain network {os.fspath(path)}",
            expected="a whole file of format 'quantised'",
            got=f"{type(error).__name__}: {first_line(error)}",
            hint="It is damaged, or was written by another version of bayesdrop.",
        ) from error
    network.load_state_dict(state)
    note_grids(network, grids)
    return network


def _parsed(content: bytes) -> tuple[list[Any], np.ndarray]:
    if content[: len(MAGIC)] != MAGIC:
        raise ValueError("another beginning")
    start = len(MAGIC) + _HEAD.size
    checksum, length = _HEAD.unpack(content[len(MAGIC) : start])
    if zlib.crc32(content[len(MAGIC) + 4 :]) != checksum:
        raise ValueError("wrong checksum")
    header = json.loads(content[start : start + length])
    return header, np.frombuffer(content, dtype=np.uint8, offset=start + length)


def _values(
    entries: dict[str, list[Any]], data: np.ndarray
) -> tuple[dict[str, Tensor], dict[str, Grid]]:
    state: dict[str, Tensor] = {}
    grids: dict[str, Grid] = {}
    start = 0
    for name, (dtype, shape, storage, detail, size) in entries.items():
        stop = start + size
        if size < 0 or stop > len(data):
            raise ValueError(f"{name!r} of {size} bytes")
        if storage == "grid":
            if detail not in (None, 0, 1):
                raise ValueError(f"an axis {detail!r}")
            kind = getattr(torch, dtype)
            state[name], grids[name] = unpack(data[start:stop], tuple(shape), detail, kind)
        else:
            state[name] = unpacked(data, dtype, shape, storage, detail, start, stop)
        start = stop
    if start != len(data):
        raise ValueError(f"{len(data) - start} bytes more")
    return state, grids
