"""Weights on grids: whole multiples of a step, packed into as few bits as the largest needs."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

MOST_BITS = 32
"""Of a multiple of a step, its sign included."""
_GROUP = struct.Struct("<fB")


class Grid(NamedTuple):
    """The steps of a weight ``(out, in, ...)``.

    Args:
        axis: The dimension whose units have a step each: 0 for outputs, 1 for inputs; None if all
            of the weight has one.
        steps: One step, or one a unit.
    """

    axis: int | None
    steps: tuple[float, ...]

    def along(self, value: Tensor) -> Tensor:
        """Return the steps so that they broadcast against the weight, in float64."""
        steps = torch.tensor(self.steps, dtype=torch.float64)
        shape = [1] * value.ndim
        if self.axis is not None:
            shape[self.axis] = -1
        return steps.reshape(shape)


class Packed(NamedTuple):
    """A weight as it is on disk.

    Args:
        content: Its bytes.
        weights: Number of multiples that are stored.
        bits: Bits of each, one number for each group that is stored.
        bits_total: Of all of them together.
    """

    content: bytes
    weights: int
    bits: tuple[int, ...]
    bits_total: int


def grid_of(value: Tensor, step: Tensor, axis: int | None) -> Grid:
    """Return the grid of a weight for steps that may be too small, or have too many digits.

    Args:
        value: The weight.
        step: The steps wanted, one for each group.
        axis: As in ``Grid``.
    """
    largest = value.detach().double().abs().cpu()
    largest = largest.max() if axis is None else largest.transpose(0, axis).flatten(1).amax(1)
    least = largest.reshape(-1) / 2 ** (MOST_BITS - 2)
    tiny = torch.finfo(torch.float32).tiny
    wanted = torch.maximum(step.double().cpu().reshape(-1), least).clamp(min=tiny)
    return Grid(axis, tuple(wanted.float().tolist()))


def multiples(value: Tensor, grid: Grid) -> Tensor:
    """Return the whole numbers of steps nearest to a weight, as int64."""
    return (value.detach().cpu().double() / grid.along(value)).round().long()


def on_grid(value: Tensor, grid: Grid) -> Tensor:
    """Return a weight rounded to its grid, in its dtype."""
    rounded = multiples(value, grid) * grid.along(value)
    return rounded.to(value.dtype).to(value.device)


def pack(value: Tensor, grid: Grid) -> Packed:
    """Return the bytes of a weight.

    They are one bit for each output unit, set where it has weights, the lowest bit of a byte
    first; the same for the input units; then, for each of these units along the grid's axis (or
    once), the step (float32) and the number of bits ``b``; then the multiples of all such outputs
    and inputs, group after group, output by output within it, each as ``b`` bits of the multiple
    plus ``2^(b - 1)``, lowest first. All is little endian, and filled up to whole bytes.

    Args:
        value: A weight of at least two dimensions, outputs and inputs first.
        grid: Its grid.
    """
    matrix = multiples(value, grid).numpy().reshape(*value.shape[:2], -1)
    outputs, inputs = (matrix != 0).any((1, 2)), (matrix != 0).any((0, 2))
    block = matrix[outputs][:, inputs]
    steps = np.asarray(grid.steps, dtype=np.float32)
    groups: list[np.ndarray]
    if grid.axis is None:
        groups, used = [block] if block.size else [], steps[:1]
    else:
        groups = list(block if grid.axis == 0 else block.swapaxes(0, 1))
        used = steps[outputs if grid.axis == 0 else inputs]
    widths = tuple(map(_width, groups))
    pairs = zip(used[: len(groups)], widths, strict=True)
    head = b"".join(_GROUP.pack(float(step), width) for step, width in pairs)
    bits = [_bits(group.reshape(-1), width) for group, width in zip(groups, widths, strict=True)]
    body = np.packbits(np.concatenate([*bits, np.zeros(0, np.uint8)]), bitorder="little")
    flags = b"".join(np.packbits(f, bitorder="little").tobytes() for f in (outputs, inputs))
    return Packed(flags + head + body.tobytes(), block.size, widths, sum(map(len, bits)))


def unpack(
    content: np.ndarray, shape: tuple[int, ...], axis: int | None, dtype: torch.dtype
) -> tuple[Tensor, Grid]:
    """Return the weight that ``pack`` wrote, and its grid.

    Args:
        content: The bytes.
        shape: Shape of the weight.
        axis: Of its grid.
        dtype: Of the weight.

    Raises:
        ValueError: If there are more or fewer bytes than that takes.
    """
    matrix = np.zeros((*shape[:2], int(np.prod(shape[2:]))), dtype=np.int64)
    flags, start = [], 0
    for size in shape[:2]:
        stop = start + -(-size // 8)
        flags.append(np.unpackbits(content[start:stop], count=size, bitorder="little") != 0)
        start = stop
    outputs, inputs = flags
    sizes = int(outputs.sum()), int(inputs.sum())
    total = sizes[0] * sizes[1] * matrix.shape[2]
    count = min(total, 1) if axis is None else sizes[axis]
    head = content[start : start + count * _GROUP.size].tobytes()
    start += count * _GROUP.size
    pairs = list(_GROUP.iter_unpack(head))
    each = total // max(1, count)
    length = sum(width for _, width in pairs) * each
    if len(pairs) != count or max((w for _, w in pairs), default=0) > MOST_BITS:
        raise ValueError(f"{len(pairs)} groups instead of {count}, or too many bits")
    if len(content) - start != -(-length // 8):
        raise ValueError(f"{len(content) - start} bytes instead of {-(-length // 8)}")
    bits = np.unpackbits(content[start:], count=length, bitorder="little")
    groups, first = [], 0
    for _, width in pairs:
        groups.append(_whole(bits[first : first + width * each], each, width))
        first += width * each
    block = np.stack(groups) if groups else np.zeros((0, each), dtype=np.int64)
    if axis == 1:
        block = block.reshape(sizes[1], sizes[0], matrix.shape[2]).swapaxes(0, 1)
    matrix[np.ix_(outputs, inputs)] = block.reshape(*sizes, matrix.shape[2])
    units = 1 if axis is None else shape[axis]
    steps = np.ones(units, dtype=np.float32)
    steps[slice(count) if axis is None else flags[axis]] = [step for step, _ in pairs]
    grid = Grid(axis, tuple(steps.tolist()))
    whole = torch.from_numpy(matrix.reshape(shape))
    return (whole * grid.along(whole)).to(dtype), grid


def _width(group: np.ndarray) -> int:
    """Return the bits that hold every multiple of a group, with its sign."""
    if not group.size:
        return 0
    return max(int(group.max()), -int(group.min()) - 1, 0).bit_length() + 1


def _bits(multiples: np.ndarray, width: int) -> np.ndarray:
    shifted = multiples + (1 << (width - 1) if width else 0)
    return (shifted[:, None] >> np.arange(width) & 1).astype(np.uint8).reshape(-1)


def _whole(bits: np.ndarray, count: int, width: int) -> np.ndarray:
    if not width:
        return np.zeros(count, dtype=np.int64)
    powers = np.int64(1) << np.arange(width, dtype=np.int64)
    return bits.reshape(count, width).astype(np.int64) @ powers - (1 << (width - 1))
