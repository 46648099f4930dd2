"""Members of the posterior, each compacted, in one network."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from bayesdrop.compression.alignment import UngroupedError
from bayesdrop.compression.compaction import analysed, detached, emitted, verify
from bayesdrop.compression.counter import FixedMask, replaced
from bayesdrop.compression.grouping import Grouping
from bayesdrop.errors import CompactionError, ConfigError
from bayesdrop.nn import (
    PosteriorSample,
    named_dropout_layers,
    named_owners,
    named_weight_layers,
)
from bayesdrop.ops.seeding import seeded


def members_compacted(
    network: nn.Module,
    example: tuple[Tensor, ...],
    *,
    members: int,
    seed: int | None,
    multiple_of: int,
    check: bool,
) -> fx.GraphModule:
    """Return a network of several draws from the posterior, see ``compact``."""
    with torch.no_grad():
        work = detached(network, random=True)
        _check(work)
        with seeded(seed):
            parts = [_member(work, example) for _ in range(members)]
        _check_output(parts[0](*example))
        try:
            result = Grouping(parts, example, multiple_of).made()
        except UngroupedError:
            result = side_by_side(parts)
        if check:
            verify(torch.stack([part(*example) for part in parts]), result(*example))
    return result


def _check(network: nn.Module) -> None:
    if not list(named_owners(network)):
        raise ConfigError(
            "compact",
            expected="a network with Bayesian layers, for members of its posterior",
            got=f"a {type(network).__name__} without any",
            hint="bd.convert puts them in; without members compact takes the network as it is.",
        )
    for name, layer in named_dropout_layers(network):
        if layer.input_dependent:
            raise CompactionError(
                "compact",
                expected="masks that are the same for every input, for members of the posterior",
                got=f"{type(layer).__name__} {name!r}, whose mask depends on its input",
                hint="bd.compact(network, x) takes its mean mask along.",
            )


def _check_output(output: object) -> None:
    if not isinstance(output, Tensor):
        raise CompactionError(
            "compact",
            expected="a network whose output is one tensor, for members of its posterior",
            got=f"an output of type {type(output).__name__}",
            hint="Wrap it in a module that returns the tensor, or all joined by torch.cat.",
        )


def _member(network: nn.Module, example: tuple[Tensor, ...]) -> fx.GraphModule:
    """Draw masks and weights, as ``predict`` does, and return the compact network."""
    layers = [layer for _, layer in named_dropout_layers(network)]
    random = [layer for _, layer in named_weight_layers(network)]
    latents: dict[Any, Any] = {owner: owner.draw_latents() for owner in (*layers, *random)}
    sample = PosteriorSample(latents, shared=True)
    work = copy.deepcopy(network)
    names = {module: name for name, module in network.named_modules()}
    for layer in layers:
        fixed = FixedMask(layer)
        fixed.value = sample.masks[layer]
        work = replaced(work, names[layer], fixed)
    for owner in random:
        plain: Any = owner.to_plain(prune=False)
        plain.weight.copy_(latents[owner]["weight"])
        work = replaced(work, names[owner], plain)
    return emitted(analysed(work.eval(), example))


def side_by_side(parts: Sequence[fx.GraphModule]) -> fx.GraphModule:
    """Return a network that runs others one after the other, outputs ``(K, ...)``."""
    graph, modules = fx.Graph(), {f"member_{k}": part for k, part in enumerate(parts)}
    names = [n.name for n in parts[0].graph.nodes if n.op == "placeholder"]
    inputs = tuple(graph.placeholder(name) for name in names)
    outputs = [graph.call_module(name, inputs) for name in modules]
    graph.output(graph.call_function(torch.stack, (outputs,)))
    return fx.GraphModule(modules, graph, "Members").eval()
