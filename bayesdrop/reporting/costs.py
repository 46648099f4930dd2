"""What the networks of a report cost: parameters, FLOPs, time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bayesdrop.compression import (
    compact,
    count_bytes,
    count_flops,
    count_params,
    measure_per_input,
    measure_sparsity,
)
from bayesdrop.conversion import without_dropout
from bayesdrop.errors import CompactionError
from bayesdrop.inference.predict import predict
from bayesdrop.program.network import BayesianNetwork
from bayesdrop.program.program import Program

LATENCY_BATCH = 100
"""Examples of a timed batch."""

_REPEATS = 15


@torch.no_grad()
def compact_figures(
    bnn: BayesianNetwork, images: Tensor
) -> tuple[dict[str, Any], nn.Module | None]:
    """Return parameters, bytes and FLOPs before and after, and the compact network.

    Numbers of a compact network that could not be made are None, with the reason under
    ``compact_error``.
    """
    original = without_dropout(bnn).eval()
    example = images[:1]
    totals: dict[str, Any] = {
        "params_total": count_params(original),
        "bytes_total": count_bytes(original),
        "flops_total": count_flops(original, example),
    }
    if bnn.named_weight_layers() and not bnn.named_dropout_layers():
        totals["sparsity"] = measure_sparsity(bnn).to_dict()
    try:
        small = compact(bnn, example)
    except CompactionError as error:
        nothing = dict.fromkeys(
            ("flops_speedup", "params", "bytes", "flops", "compact_max_abs_diff")
        )
        return {**nothing, **totals, "compact_error": str(error)}, None
    some = images[:1000]
    bnn.eval()
    flops = count_flops(small, example)
    return {
        "flops_speedup": totals["flops_total"] / max(1, flops),
        "params": count_params(small),
        "bytes": count_bytes(small),
        "flops": flops,
        "compact_max_abs_diff": float((small(some) - bnn(some)).abs().max()),
        **totals,
    }, small


def per_input_figures(bnn: BayesianNetwork, images: Tensor) -> dict[str, Any] | None:
    """Return active units and FLOPs per image, if masks depend on it and can be followed."""
    if not any(layer.input_dependent for _, layer in bnn.named_dropout_layers()):
        return None
    try:
        return measure_per_input(bnn, images).to_dict()
    except CompactionError:
        return None


def measure_latencies(
    plain: BayesianNetwork,
    bnn: BayesianNetwork,
    small: nn.Module | None,
    images: Tensor,
    num_samples: int,
) -> dict[str, float]:
    """Return milliseconds a batch takes by each method."""
    batch = images[:LATENCY_BATCH]
    return _time(
        {
            "plain": _evaluation(plain, images),
            "mean_mask": _evaluation(bnn if small is None else small, images),
            "monte_carlo": lambda: predict(
                bnn, batch, num_samples=num_samples, keep_samples=False
            ),
        }
    )


def measure_latency(network: nn.Module, images: Tensor) -> float:
    """Return milliseconds a batch takes in one pass."""
    return _time({"": _evaluation(network, images)})[""]


def _evaluation(network: nn.Module, images: Tensor) -> Callable[[], object]:
    # A BayesianNetwork without Bayesian dropout is timed as the plain module it holds.
    network = network.network if isinstance(network, Program) else network
    network = network.eval()
    return lambda: network(images[:LATENCY_BATCH])


@torch.no_grad()
def _time(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return median milliseconds per call, the calls made in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with torch.random.fork_rng():
        for repeat in range(_REPEATS + 2):
            for name, call in calls.items():
                started = time.perf_counter()
                call()
                if repeat >= 2:
                    seconds[name].append(time.perf_counter() - started)
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
