"""What the networks of a report cost: parameters, FLOPs, time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bayesdrop.compression import (
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
    """Return the units kept and FLOPs per image, if masks depend on it and can be followed."""
    if not any(layer.input_dependent for _, layer in bnn.named_dropout_layers()):
        return None
    try:
        return measure_per_input(bnn, images).to_dict()
    except CompactionError:
        return None


@torch.no_grad()
def latency_figures(
    plain: BayesianNetwork,
    bnn: BayesianNetwork,
    small: nn.Module | None,
    images: Tensor,
    num_samples: int,
) -> dict[str, float]:
    """Return milliseconds a batch takes by each method."""
    batch = images[:LATENCY_BATCH]
    nets = {"plain": _bare(plain), "mean_mask": _bare(bnn) if small is None else small}
    calls: dict[str, Callable[[], object]] = {n: partial(net, batch) for n, net in nets.items()}
    calls["monte_carlo"] = partial(
        predict, bnn, batch, num_samples=num_samples, keep_samples=False
    )
    with torch.random.fork_rng(), evaluation_mode(*nets.values()):
        times = time_in_turns(list(calls.values()), device=batch.device, repeats=_REPEATS)
    return dict(zip(calls, times, strict=True))


def pass_latency(network: nn.Module, images: Tensor) -> float:
    """Return milliseconds a batch takes in one pass."""
    batch = images[:LATENCY_BATCH]
    net = _bare(network)
    return measure_latency(net, example_input=batch, batch_size=len(batch), repeats=_REPEATS)[0]


def _bare(network: nn.Module) -> nn.Module:
    # A BayesianNetwork is timed as the module it holds.
    return network.network if isinstance(network, Program) else network
