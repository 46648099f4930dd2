"""Measured time of a network beside that of another one, by how they are run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.compression.cost import batch_of, both_times
from bayesdrop.compression.example import Example, example_of
from bayesdrop.compression.flops import count_flops
from bayesdrop.compression.plain import load_plain, save_plain
from bayesdrop.conversion import without_dropout
from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.files import first_line
from bayesdrop.metrics.options import as_several, require_count
from bayesdrop.nn.mode import evaluation_mode
from bayesdrop.record import TableRecord

Way: TypeAlias = Literal["eager", "compile", "onnx"]
"""How a network is run: as it is, by ``torch.compile``, or by ONNX Runtime on the CPU."""

_TITLES = {"eager": "torch, eager", "compile": "torch.compile", "onnx": "ONNX Runtime"}


@dataclass(frozen=True)
class LatencyRow:
    """Milliseconds of one pass.

    Args:
        way: How the networks are run.
        batch_size: Examples of a pass.
        before: Of the full network.
        after: Of the smaller one.
        before_cpu: CPU time of the process instead, which suffers less from other jobs.
        after_cpu: The same of the smaller one.
    """

    way: Way
    batch_size: int
    before: float
    after: float
    before_cpu: float
    after_cpu: float

    @property
    def speedup(self) -> float:
        """How many times less the smaller network takes."""
        return self.before / self.after


@dataclass(frozen=True)
class LatencyTable(TableRecord):
    """What ``compare_latency`` returns.

    Args:
        rows: One for each way and batch size.
        flops_speedup: How many times fewer FLOPs the smaller network takes.
        threads: Number of CPU threads.
        device: Where it was measured.
        left_out: Way to why it was not measured.
    """

    rows: tuple[LatencyRow, ...]
    flops_speedup: float
    threads: int
    device: str
    left_out: dict[str, str] = field(default_factory=dict)

    def speedup(self, batch_size: int, way: Way = "eager") -> float:
        """Return how many times less the smaller network takes.

        Raises:
            ConfigError: If that was not measured.
        """
        for row in self.rows:
            if (row.way, row.batch_size) == (way, batch_size):
                return row.speedup
        raise ConfigError(
            "LatencyTable",
            expected=f"one of {[(row.way, row.batch_size) for row in self.rows]}",
            got=f"{(way, batch_size)}",
            hint="Pass batch_sizes and ways to compare_latency.",
        )

    @override
    def table(self) -> tuple[list[str], list[list[str]]]:
        sizes = sorted({row.batch_size for row in self.rows})
        ways = dict.fromkeys(row.way for row in self.rows)
        cells = {
            (row.way, row.batch_size): f"{row.before:.3f} -> {row.after:.3f} ({row.speedup:.1f}x)"
            for row in self.rows
        }
        header = [f"ms ({self.threads} threads, {self.device})", *(f"batch {n}" for n in sizes)]
        lines = [[_TITLES[way], *(cells.get((way, n), "-") for n in sizes)] for way in ways]
        return [*header, "FLOPs"], [[*line, f"{self.flops_speedup:.1f}x"] for line in lines]


@torch.no_grad()
def compare_latency(
    before: nn.Module,
    after: nn.Module,
    example_input: Example,
    *,
    batch_sizes: Sequence[int] = (1, 100, 1000),
    ways: Sequence[Way] = ("eager", "compile", "onnx"),
    repeats: int = 30,
) -> LatencyTable:
    """Measure how long one pass takes before and after compaction, by how the networks are run.

    FLOPs say how much arithmetic a network takes, not how long: what is left of a small network is
    mostly the price of each call. Both networks take turns. A way that cannot be had (no compiler,
    no ONNX packages, an operation that it does not know) is left out, and ``left_out`` says why.

    Args:
        before: The full network; its Bayesian layers are left out, as in ``measure_compression``.
        after: The compact network.
        example_input: A batch of inputs, or a tuple of them, repeated or cut to each size.
        batch_sizes: Examples of a pass.
        ways: Out of ``"eager"``, ``"compile"`` and ``"onnx"``.
        repeats: Number of timed passes, of which the median is taken.

    Raises:
        ConfigError: If a way is unknown, or there is no batch size of at least one.
        DataError: If the batch is empty.

    Example:
        >>> import bayesdrop as bd
        >>> net = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 3))
        >>> small = bd.compact(net, torch.rand(2, 4))
        >>> table = compare_latency(
        ...     net, small, torch.rand(2, 4), batch_sizes=[1], ways=["eager"], repeats=3
        ... )
        >>> table.flops_speedup, table.speedup(1) > 0
        (1.0, True)
    """
    who = "compare_latency"
    ways = as_several(who, "ways", ways, '["eager"]')
    batch_sizes = as_several(who, "batch_sizes", batch_sizes, "[1, 100]")
    for way in ways:
        if way not in get_args(Way):
            raise unknown_name("way of compare_latency", way, get_args(Way))
    for size in batch_sizes:
        require_count(who, "batch size", size, "The defaults are 1, 100 and 1000.")
    require_count(who, "repeats", repeats, "The default is 30.")
    plain = without_dropout(before)
    example = example_of("compare_latency", plain, example_input)
    device = example[0].device
    rows: list[LatencyRow] = []
    left_out: dict[str, str] = {}
    with evaluation_mode(plain, after):
        for way in ways:
            try:
                calls = [_MAKERS[way](net, example) for net in (plain, after)]
                for size in batch_sizes:
                    batch = batch_of(plain, example, size)
                    timed = [partial(call, *batch) for call in calls]
                    old, new = both_times(timed, device=device, repeats=repeats)
                    rows.append(LatencyRow(way, size, old[0], new[0], old[1], new[1]))
            except Exception as error:  # whatever a compiler or an exporter does not like
                if way == "eager":
                    raise
                left_out[way] = f"{type(error).__name__}: {first_line(error)}"
    flops = [max(1, count_flops(net, example)) for net in (plain, after)]
    return LatencyTable(
        tuple(rows), flops[0] / flops[1], torch.get_num_threads(), str(device), left_out
    )


def _eager(net: nn.Module, example: tuple[Tensor, ...]) -> Callable[..., Any]:
    return net


def _compiled(net: nn.Module, example: tuple[Tensor, ...]) -> Callable[..., Any]:
    return torch.compile(net)


def _onnx(net: nn.Module, example: tuple[Tensor, ...]) -> Callable[..., Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        save_plain(net, path, example, format="onnx")
        return load_plain(path)


_MAKERS: dict[str, Callable[[nn.Module, tuple[Tensor, ...]], Callable[..., Any]]] = {
    "eager": _eager,
    "compile": _compiled,
    "onnx": _onnx,
}
