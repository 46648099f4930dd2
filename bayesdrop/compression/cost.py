"""What a network costs: parameters, bytes, FLOPs and measured time."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.compression.batch_dim import batch_dims
from bayesdrop.compression.example import Example, example_of
from bayesdrop.compression.flops import count_flops
from bayesdrop.compression.sparse import SparsityTable, measure_sparsity
from bayesdrop.conversion import without_dropout
from bayesdrop.metrics.options import as_several, require_count
from bayesdrop.nn import named_dropout_layers, named_weight_layers
from bayesdrop.nn.mode import evaluation_mode
from bayesdrop.program.checks import require_module
from bayesdrop.record import TableRecord


def count_params(net: nn.Module) -> int:
    """Return the number of parameters, buffers not included."""
    return sum(parameter.numel() for parameter in net.parameters())


def count_bytes(net: nn.Module) -> int:
    """Return the number of bytes of all parameters and buffers."""
    tensors = [*net.parameters(), *net.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def measure_latency(
    *nets: nn.Module,
    example_input: Example,
    batch_size: int = 1,
    repeats: int = 30,
    seconds: float = math.inf,
) -> list[float]:
    """Return the median time of one forward pass of each network, in milliseconds.

    The networks take turns, so that a change of load meets all of them.

    Args:
        *nets: Networks, run in evaluation mode with ``torch.get_num_threads()`` threads.
        example_input: A batch of inputs, or a tuple of them, repeated or cut to ``batch_size``
            along the dimension of the examples, the second as for ``count_flops``.
        batch_size: Number of examples per pass.
        repeats: Number of timed passes of each network, after two that are not timed.
        seconds: After which fewer will do: two that are timed at least.

    Raises:
        ConfigError: If there is less than one example, or pass.
        DataError: If the batch is empty.
    """
    for net in nets:
        require_module("measure_latency", net)
    require_count("measure_latency", "batch_size", batch_size, "It is the examples of a pass.")
    batch = batch_of(nets[0], example_of("measure_latency", nets[0], example_input), batch_size)
    calls = [partial(net, *batch) for net in nets]
    with evaluation_mode(*nets), torch.no_grad():
        return time_in_turns(calls, device=batch[0].device, repeats=repeats, seconds=seconds)


def batch_of(network: nn.Module, example: tuple[Tensor, ...], batch_size: int) -> list[Tensor]:
    """Return inputs of a network repeated or cut to a number of examples."""
    dims = batch_dims(network, example)
    return [
        torch.cat([x] * -(-batch_size // x.shape[dim]), dim)
        .narrow(dim, 0, batch_size)
        .contiguous()
        for x, dim in zip(example, dims, strict=True)
    ]


def time_in_turns(
    calls: Sequence[Callable[[], object]],
    *,
    device: torch.device,
    repeats: int = 30,
    seconds: float = math.inf,
) -> list[float]:
    """Return the median time of each call in milliseconds, the calls made in turns.

    Args:
        calls: What is timed.
        device: Where they compute; a GPU is waited for.
        repeats: Number of timed rounds, after two that are not timed.
        seconds: After which fewer will do: two that are timed at least, after one that is not.

    Raises:
        ConfigError: If ``repeats`` is no whole number of at least 1.

    Example:
        >>> len(time_in_turns([dict, list], device=torch.device("cpu"), repeats=3))
        2
    """
    times = both_times(calls, device=device, repeats=repeats, seconds=seconds)
    return [wall for wall, _ in times]


def both_times(
    calls: Sequence[Callable[[], object]],
    *,
    device: torch.device,
    repeats: int,
    seconds: float = math.inf,
) -> list[tuple[float, float]]:
    """Return the same, and beside it the median CPU time of the process, in milliseconds."""
    require_count("time_in_turns", "repeats", repeats, "The default is 30.")
    times: list[list[tuple[float, float]]] = [[] for _ in calls]
    begun = time.perf_counter()
    for turn in range(repeats + 2):
        late = turn > 0 and time.perf_counter() - begun > seconds
        if late and len(times[0]) >= 2:
            break
        for call, own in zip(calls, times, strict=True):
            started = _now(device), time.process_time()
            call()
            elapsed = _now(device) - started[0], time.process_time() - started[1]
            if turn >= 2 or late:
                own.append(elapsed)
    medians = [[statistics.median(clock) for clock in zip(*own, strict=True)] for own in times]
    return [(1e3 * wall, 1e3 * cpu) for wall, cpu in medians]


@dataclass(frozen=True)
class Footprint:
    """Cost of one network; FLOPs are per example, latency in milliseconds by batch size."""

    params: int
    bytes: int
    flops: int
    latency_ms: dict[int, float]


@dataclass(frozen=True)
class CompressionTable(TableRecord):
    """Cost of a network before and after compaction.

    Attributes:
        before: The full network, without masks.
        after: The compact network.
        threads: Number of CPU threads that the latency was measured with.
        device: The device it was measured on.
        sparsity: For a network with random weights, those that are zero, and what is saved by not
            storing them; the other figures count zeros like other numbers.
    """

    before: Footprint
    after: Footprint
    threads: int
    device: str
    sparsity: SparsityTable | None = None

    @property
    def params(self) -> int:
        """Number of parameters of the compact network."""
        return self.after.params

    @property
    def params_total(self) -> int:
        """Number of parameters of the full network."""
        return self.before.params

    @property
    def flops_speedup(self) -> float:
        """FLOPs of the full network over those of the compact one."""
        return self.before.flops / max(1, self.after.flops)

    @property
    def speedup(self) -> dict[int, float]:
        """Measured time of the full network over that of the compact one, by batch size."""
        after = self.after.latency_ms
        return {size: ms / after[size] for size, ms in self.before.latency_ms.items()}

    @override
    def to_dict(self) -> dict[str, Any]:
        """Return everything in plain numbers, strings and dicts, ready for JSON."""
        latency = {
            side: {f"batch_{size}": value for size, value in footprint.latency_ms.items()}
            for side, footprint in (("before", self.before), ("after", self.after))
        }
        return {
            "params": self.params,
            "params_total": self.params_total,
            "bytes": self.after.bytes,
            "bytes_total": self.before.bytes,
            "flops": self.after.flops,
            "flops_total": self.before.flops,
            "flops_speedup": self.flops_speedup,
            "latency_ms": {**latency, "threads": self.threads, "device": self.device},
            **({} if self.sparsity is None else {"sparsity": self.sparsity.to_dict()}),
        }

    def sparse_rows(self) -> list[tuple[str, float, float, str]]:
        """Return the lines about zeros, if any: title, before, after, number format."""
        if self.sparsity is None:
            return []
        s = self.sparsity
        return [
            ("weights that are not zero", s.weights_total, s.weights, ",d"),
            ("bytes on disk, stored sparsely", s.file_bytes_dense, s.file_bytes, ",d"),
        ]

    @override
    def table(self) -> tuple[list[str], list[list[str]]]:
        before, after = self.before, self.after
        rows: list[tuple[str, float, float, str]] = [
            ("parameters", before.params, after.params, ",d"),
            ("bytes", before.bytes, after.bytes, ",d"),
            ("FLOPs per example", before.flops, after.flops, ",d"),
            *self.sparse_rows(),
        ]
        for size, old in before.latency_ms.items():
            label = f"latency in ms, batch {size} ({self.threads} threads, {self.device})"
            rows.append((label, old, after.latency_ms[size], ".3f"))
        return ["", "before", "after", "ratio"], [
            [label, f"{old:{form}}", f"{new:{form}}", f"{old / new:.1f}x" if new else "-"]
            for label, old, new, form in rows
        ]


def measure_compression(
    before: nn.Module,
    after: nn.Module,
    example_input: Example,
    *,
    batch_sizes: Sequence[int] = (1, 100, 1000),
    repeats: int = 30,
    seconds: float = 10.0,
) -> CompressionTable:
    """Compare the cost of a network before and after compaction.

    Args:
        before: The full network. Its Bayesian dropout layers and their parameters are left out:
            what is compared with is the plain network. A ``BayesianNetwork`` is taken too.
        after: The compact network.
        example_input: A batch of inputs, or a tuple of them.
        batch_sizes: Batch sizes to measure the latency with.
        repeats: Number of timed passes.
        seconds: For each batch size, after which two timed passes will do.

    Raises:
        ConfigError: If there is no batch size, or a number is less than one.

    Example:
        >>> import bayesdrop as bd
        >>> net = bd.networks.lenet_500_300()
        >>> table = measure_compression(net, net, torch.zeros(1, 784), repeats=1)
        >>> table.flops_speedup, table.params == table.params_total == 545810
        (1.0, True)
    """
    plain = without_dropout(before)
    batch_sizes = as_several("measure_compression", "batch_sizes", batch_sizes, "[1, 100]")
    times = {
        size: measure_latency(
            plain,
            after,
            example_input=example_input,
            batch_size=size,
            repeats=repeats,
            seconds=seconds,
        )
        for size in batch_sizes
    }
    full, small = (
        Footprint(
            params=count_params(net),
            bytes=count_bytes(net),
            flops=count_flops(net, example_input),
            latency_ms={size: values[side] for size, values in times.items()},
        )
        for side, net in enumerate((plain, after))
    )
    random_weights = next(named_weight_layers(before), None) is not None
    masked = next(named_dropout_layers(before), None) is not None
    return CompressionTable(
        full,
        small,
        torch.get_num_threads(),
        str(example_of("measure_compression", plain, example_input)[0].device),
        sparsity=measure_sparsity(before) if random_weights and not masked else None,
    )


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
