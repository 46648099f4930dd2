"""Layers that a forward calls twice on the same value."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from bayesdrop.conversion.kinds import CONVOLUTIONS
from bayesdrop.networks.tracing import changes_in_place, leaf_modules


def join_repeated_calls(work: nn.Module, graph: fx.Graph) -> None:
    """Let a Linear or convolution that is called twice on one value be called once.

    Nothing is done in a graph that changes a tensor in place, where the second call may see, or
    be, another value.

    Args:
        work: The network.
        graph: Its graph, which is changed.
    """
    modules = leaf_modules(work, graph)
    if any(_in_place(node, modules) for node in graph.nodes):
        return
    first: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(module, (nn.Linear, *CONVOLUTIONS)) or node.kwargs:
            continue
        known = first.setdefault((node.target, node.args), node)
        if known is not node:
            node.replace_all_uses_with(known)
            graph.erase_node(node)


def _in_place(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op != "call_module":
        return changes_in_place(node)
    parts = modules[str(node.target)].modules()
    return any(getattr(part, "inplace", False) is True for part in parts)
