"""What the networks of a report cost: parameters, FLOPs, time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from typing_extensions import override

from bayesdrop.compression import (
    PerInputCost,
    SparsityTable,
    compact,
    count_bytes,
    count_flops,
    count_params,
    measure_latency,
    measure_per_input,
    measure_sparsity,
    time_in_turns,
)
from bayesdrop.conversion import without_dropout
from bayesdrop.errors import CompactionError
from bayesdrop.inference.predict import predict
from bayesdrop.nn.mode import evaluation_mode
from bayesdrop.program.inputs import Inputs, outputs_of
from bayesdrop.program.network import BayesianNetwork
from bayesdrop.program.program import Program
from bayesdrop.record import Record
from bayesdrop.reporting.methods import Method

LATENCY_BATCH = 100
"""Examples of a timed batch."""

_REPEATS = 15


@dataclass(frozen=True)
class SizeFigures(Record, also=("flops_speedup",)):
    """A network's size before and after units are removed.

    Args:
        params_total: Parameters of the network without Bayesian layers.
        bytes_total: Their bytes.
        flops_total: Its operations per example, multiply and add both counted.
        params: Parameters of the compact network; this and what follows is None if there is none.
        bytes: Their bytes.
        flops: Its operations.
        compact_max_abs_diff: Largest difference between its outputs and the masked network's.
        sparsity: Bytes on disk where single weights are pruned, else None.
        compact_error: Why there is no compact network.
    """

    params_total: int
    bytes_total: int
    flops_total: int
    params: int | None = None
    bytes: int | None = None
    flops: int | None = None
    compact_max_abs_diff: float | None = None
    sparsity: SparsityTable | None = None
    compact_error: str | None = None

    @property
    def flops_speedup(self) -> float | None:
        """How many times fewer operations the compact network takes."""
        return None if self.flops is None else self.flops_total / max(1, self.flops)

    @override
    def to_dict(self) -> dict[str, Any]:
        """Return all numbers; ``sparsity`` and ``compact_error`` only where there is one."""
        optional = ("sparsity", "compact_error")
        values = super().to_dict()
        return {k: v for k, v in values.items() if v is not None or k not in optional}


@torch.no_grad()
def compact_figures(bnn: BayesianNetwork, images: Inputs) -> tuple[SizeFigures, nn.Module | None]:
    """Return parameters, bytes and FLOPs before and after, and the compact network.

    The compact network is None where it could not be made.
    """
    original = without_dropout(bnn).eval()
    example = images[:1]
    totals = count_params(original), count_bytes(original), count_flops(original, example)
    words = bnn.total()
    sparsity = measure_sparsity(bnn) if list(words) == ["weights"] else None
    try:
        small = compact(bnn, example)
    except CompactionError as error:
        return SizeFigures(*totals, sparsity=sparsity, compact_error=str(error)), None
    some = images[:1000]
    bnn.eval()
    return SizeFigures(
        *totals,
        params=count_params(small),
        bytes=count_bytes(small),
        flops=count_flops(small, example),
        compact_max_abs_diff=float((outputs_of(small, some) - outputs_of(bnn, some)).abs().max()),
        sparsity=sparsity,
    ), small


def per_input_figures(bnn: BayesianNetwork, images: Inputs) -> PerInputCost | None:
    """Return the units kept and FLOPs per image, if masks depend on it and can be followed."""
    if not any(layer.input_dependent for _, layer in bnn.named_dropout_layers()):
        return None
    try:
        return measure_per_input(bnn, (images, None))
    except CompactionError:
        return None


@torch.no_grad()
def latency_figures(
    plain: BayesianNetwork,
    bnn: BayesianNetwork,
    small: nn.Module | None,
    images: Inputs,
    num_samples: int,
) -> dict[Method, float]:
    """Return milliseconds a batch takes by each method."""
    batch = images[:LATENCY_BATCH]
    nets = {
        Method.PLAIN: _bare(plain),
        Method.MEAN_MASK: _bare(bnn) if small is None else small,
    }
    calls: dict[Method, Callable[[], object]] = {
        m: partial(outputs_of, n, batch) for m, n in nets.items()
    }
    calls[Method.MONTE_CARLO] = partial(
        predict, bnn, (batch, None), num_samples=num_samples, keep_samples=False
    )
    with torch.random.fork_rng(), evaluation_mode(*nets.values()):
        times = time_in_turns(list(calls.values()), device=batch.device, repeats=_REPEATS)
    return dict(zip(calls, times, strict=True))


def pass_latency(network: nn.Module, images: Inputs) -> float:
    """Return milliseconds a batch takes in one pass."""
    batch = images[:LATENCY_BATCH]
    net = _bare(network)
    return measure_latency(net, example_input=batch, batch_size=len(batch), repeats=_REPEATS)[0]


def _bare(network: nn.Module) -> nn.Module:
    # A BayesianNetwork is timed as the module it holds.
    return network.network if isinstance(network, Program) else network
