"""A smaller plain network with the outputs of the mean-masked one.

Own analysis on the torch.fx graph, since torch-pruning cannot remove network inputs (such as
pixels), and prunes coupled layers together without asking whether the result is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from bayesdrop.compression.chooser import Chooser
from bayesdrop.compression.flow import Flow, Opaque, Rule
from bayesdrop.compression.folding import fold
from bayesdrop.compression.gate import Gate
from bayesdrop.compression.graph import reordered, traced
from bayesdrop.compression.heads import cut_blocks
from bayesdrop.compression.lora import cut_adapters
from bayesdrop.compression.parts import compact_parts, open_leaves
from bayesdrop.compression.report import note
from bayesdrop.compression.rounding import Rounded
from bayesdrop.compression.rules import Mask
from bayesdrop.compression.tolerance import TOLERANCE
from bayesdrop.errors import CompactionError
from bayesdrop.networks.computed_weights import bake, copy_of
from bayesdrop.networks.operations import PACKED
from bayesdrop.networks.side_effects import has_hooks
from bayesdrop.networks.tracing import LayerTracer
from bayesdrop.nn import named_dropout_layers, with_plain_weights, without_fused_kernels
from bayesdrop.program.explaining import explained
from bayesdrop.program.inputs import joined_inputs
from bayesdrop.program.program import Program


def mean_compacted(
    network: nn.Module,
    example: tuple[Tensor, ...],
    *,
    per_input: bool = False,
    multiple_of: int = 1,
    check: bool = True,
) -> nn.Module:
    """Return a plain network with the outputs of the mean-masked one, see ``compact``."""
    with torch.no_grad():
        work = detached(network)
    with torch.no_grad(), explained("compact", work, joined_inputs(example)):
        expected = work(*example) if check else None
        chooser = partial(Rounded, multiple_of=multiple_of)

        def by_graph(part: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
            return emitted(analysed(part, inputs, chooser), per_input=per_input)

        cuts = cut_adapters(work) + cut_blocks(work, example, multiple_of) + open_leaves(work)
        try:
            _check_call(work)
            result = by_graph(work, example)
        except CompactionError:
            cuts += compact_parts(work, example, by_graph)
            result = work
        note(result, cuts)
        if check:
            verify(expected, result(*example))
    return result


def detached(network: nn.Module, *, random: bool = False) -> nn.Module:
    """Return a copy in evaluation mode with plain weights, if its masks are of known kinds.

    Args:
        network: As for ``compact``.
        random: Whether masks and weights stay random, of whatever kind they are.

    Raises:
        CompactionError: If a mask of an unknown kind depends on the input, or if examples have
            latents of their own.
    """
    if isinstance(network, Program) and network.has_local_latents:
        raise CompactionError(
            "compact",
            expected="a network whose masks are drawn for all examples",
            got=f"a {type(network).__name__}, each example of which keeps features of its own",
            hint="Features that keep_prob() says no example uses go with a smaller latent_size.",
        )
    work = copy_of(network.network if isinstance(network, Program) else network)
    without_fused_kernels(work)
    if random:
        return work.eval()
    _refuse_input_dependent(work)
    return with_plain_weights(work).eval()


def analysed(
    network: nn.Module,
    example: tuple[Tensor, ...],
    chooser: Callable[[Flow], Callable[[fx.Node], Rule]] = Chooser,
) -> Flow:
    """Return what is known about every tensor of a network and what is needed of it.

    Args:
        network: What ``detached`` returned; it may be changed.
        example: Its inputs.
        chooser: Makes what finds the rule of a node.

    Raises:
        CompactionError: If the network cannot be traced.
    """
    bake(network)
    flow = _with_rules(traced(network, example), example, chooser)
    whole: set[str] = set()
    while found := _lengths_reordered(flow):
        whole |= found
        flow = _with_rules(traced(network, example, whole), example, chooser)
    nodes = list(flow.source.graph.nodes)
    for node in reversed(nodes):
        needed = flow.needed[node]
        if len(needed) and not needed.any():
            needed[0] = True  # Layers without units are legal in torch but not elsewhere.
        flow.rules[node].request(needed)
    return flow


def _with_rules(
    module: fx.GraphModule,
    example: tuple[Tensor, ...],
    chooser: Callable[[Flow], Callable[[fx.Node], Rule]],
) -> Flow:
    flow = Flow(module, example[0].device)
    choose = chooser(flow)
    for node in module.graph.nodes:
        rule = flow.rules[node] = choose(node)
        flow.constant[node] = rule.constant().double()  # whatever torch's default
        flow.needed[node] = torch.zeros(rule.size, dtype=torch.bool)
    return flow


def _check_call(network: nn.Module) -> None:
    # The hooks of a graph may only look on; if they do not, the check of the outputs says so.
    if has_hooks(network) and not isinstance(network, fx.GraphModule):
        raise CompactionError(
            "compact",
            expected="a network that is called by its forward alone",
            got=f"{type(network).__name__} with a hook on itself, which a graph leaves out",
            hint="Register the hook on what compact returns.",
        )


def _lengths_reordered(flow: Flow) -> set[str]:
    """Return the ends of moves that reorder other things than units, such as as many steps."""
    rules = flow.rules.items()
    return {n.meta["end"] for n, r in rules if n.target is reordered and type(r) is Opaque}


def emitted(flow: Flow, *, per_input: bool = False) -> fx.GraphModule:
    """Return the compact network of an analysis, once.

    Args:
        flow: What ``analysed`` returned.
        per_input: As for ``compact``.
    """
    for rule in list(flow.rules.values()):
        if isinstance(rule, Mask):
            fold(flow, rule)
        elif isinstance(rule, Gate):
            rule.selects = per_input and rule.gatherable
    for node in flow.source.graph.nodes:
        flow.made[node], flow.kept[node] = flow.rules[node].emit()
    flow.drop_unused()
    if any(node.target in PACKED for node in flow.graph.nodes):
        flow.graph._tracer_cls = LayerTracer  # which does not look inside when it is unpickled
    result = fx.GraphModule(flow.parts, flow.graph, type(flow.source).__name__)
    return result.eval()


def _refuse_input_dependent(network: nn.Module) -> None:
    for name, layer in named_dropout_layers(network):
        if layer.input_dependent and layer.mean_gate() is None:
            raise CompactionError(
                "compact",
                expected="masks that are the same for every input, or that have a mean_gate()",
                got=f"{type(layer).__name__} {name!r}, whose mask depends on its input",
                hint="Take it out first, or replace it by a layer with a fixed mask.",
            )


def verify(expected: Any, got: Any) -> None:
    """Raise ``CompactionError`` unless outputs are equal, to rounding."""
    for a, b in zip(tree_leaves(expected), tree_leaves(got), strict=True):
        if not isinstance(a, Tensor) or not a.is_floating_point():
            continue
        size = max(1.0, float(a.abs().max()) if a.numel() else 0.0)
        error = float((a - b).abs().max()) if a.numel() else 0.0
        if a.shape != b.shape or not error <= TOLERANCE[a.dtype] * size:
            raise CompactionError(
                "compact",
                expected=f"outputs within {TOLERANCE[a.dtype] * size:.1e} of the mean-masked "
                "network's on the example input",
                got=f"a difference of {error:.1e}",
                hint="Does the network draw random numbers in evaluation mode, hold numbers "
                "that are not finite, or change a tensor in place? Report it otherwise.",
            )
