"""The graph of a network in evaluation mode, written in fewer ways."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Collection, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from typing_extensions import override

from bayesdrop.compression.functional import as_layers
from bayesdrop.errors import CompactionError
from bayesdrop.networks.aliases import read_later
from bayesdrop.networks.operations import MOVES, operation
from bayesdrop.networks.shapes import Shapes
from bayesdrop.networks.tracing import changes_in_place, leaf_modules, shape_of, trace
from bayesdrop.nn import named_masked_inputs
from bayesdrop.program.explaining import explained
from bayesdrop.program.inputs import joined_inputs

_IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
               nn.FeatureAlphaDropout)  # fmt: skip
_OUT_OF_PLACE = {
    operator.iadd: operator.add,
    torch.relu_: torch.relu,
    F.relu_: F.relu,
    "add_": operator.add,
    "relu_": torch.relu,
}
_NAMES_OF_FIRST = ("input", "tensors")
_NOT_FIRST = {torch.where, torch.searchsorted}
_MOST_MOVES = 6
_FLATTENS = {torch.flatten, torch.reshape, "flatten", "reshape", "view"}


def traced(
    network: nn.Module, example: tuple[Tensor, ...], whole: Collection[str] = ()
) -> fx.GraphModule:
    """Return the traced network, with the shape of every tensor in its nodes' ``meta``.

    Operations that change a tensor in place are replaced by those that do not, flattening has one
    form, ``torch.flatten(x, 1)``, functions that are called with parameters are layers, and what
    evaluation mode passes through is gone.

    Args:
        network: A module in evaluation mode that may be changed.
        example: Its inputs.
        whole: Nodes at the end of moves that are no shuffle of units, and stay as they are.

    Raises:
        CompactionError: If the network cannot be traced.
        DataError: If the example has another dtype than the network.
        ShapeError: If the network does not take its shape.
    """
    inside = [name for name, _ in named_masked_inputs(network)]
    if inside:
        raise CompactionError(
            "compact",
            expected="masks between the layers of a graph",
            got=f"masks on heads or hidden units of {inside}, which a graph does not show",
            hint="Plain bd.compact(network, x) and bd.compression.measure_compression know them.",
        )
    graph = trace(network, "compact", CompactionError)
    module = fx.GraphModule(network, graph, type(network).__name__)
    graph = module.graph
    for node in graph.nodes:
        _by_place(node)
    _remove_in_place(module, graph)
    with torch.no_grad():
        with explained(
            "compact", module, joined_inputs(example)
        ):  # a propagation prints what it meets
            module(*example)
        _Propagation(module).propagate(*example)
    as_layers(module)
    for node in list(graph.nodes):
        _simplify(module, node)
    for node in list(graph.nodes):
        if node.name not in whole:
            _shorten(graph, node)
    graph.eliminate_dead_code()
    module.recompile()
    return module


class _Propagation(Shapes):
    """Notes the shapes, and which functions of the mode, such as dropout, return their input."""

    @override
    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if "tensor_meta" not in n.meta and isinstance(result, int | torch.Size):
            n.meta["value"] = result
        if n.op == "call_function" and n.all_input_nodes and _takes_mode(n.target):
            n.meta["passes"] = result is self.env[n.all_input_nodes[0]]
        return result


def _takes_mode(function: Any) -> bool:
    known = inspect.isfunction(function)
    return known and "training" in inspect.signature(function).parameters


def _by_place(node: fx.Node) -> None:
    """Give a layer or function of torch's its first argument by place, where it has a name."""
    named = dict(node.kwargs)
    first = [named.pop(name) for name in _NAMES_OF_FIRST if name in named]
    if first and not node.args and node.target not in _NOT_FIRST:
        node.args, node.kwargs = (first[0],), named


def _remove_in_place(module: fx.GraphModule, graph: fx.Graph) -> None:
    order = {node: position for position, node in enumerate(graph.nodes)}
    leaves = leaf_modules(module, graph)
    _check_views(graph, leaves)
    changing = [name for name, leaf in leaves.items() if getattr(leaf, "inplace", False) is True]
    for name in changing:  # of which some may be one module, called more than once
        leaves[name].inplace = False  # type: ignore[assignment]
    for node in list(graph.nodes):
        changes = operation(node) in _OUT_OF_PLACE or node.kwargs.get("inplace") is True
        changes = changes or (node.op == "call_module" and str(node.target) in changing)
        if not changes and not changes_in_place(node):
            continue
        source = node.all_input_nodes[0]
        for user in list(source.users):
            if order[user] > order[node]:
                user.replace_input_with(source, node)
        if operation(node) in _OUT_OF_PLACE:
            node.op, node.target = "call_function", _OUT_OF_PLACE[node.target]
        if "inplace" in node.kwargs:
            node.update_kwarg("inplace", False)


def _check_views(graph: fx.Graph, leaves: Mapping[str, nn.Module]) -> None:
    """Refuse what changes a tensor of which a view is read later."""
    for node in graph.nodes:
        leaf = leaves.get(str(node.target)) if node.op == "call_module" else None
        if getattr(leaf, "inplace", False) is not True and not changes_in_place(node):
            continue
        if read_later(node, node.all_input_nodes[0], leaves)[1]:
            raise CompactionError(
                "compact",
                expected="operations in place on what no other name is read of",
                got=f"{node.name!r}, which changes a view of what is read later",
                hint="Write it out of place, as y = x * 2.",
            )


def _simplify(module: fx.GraphModule, node: fx.Node) -> None:
    leaf = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    passes = isinstance(leaf, _IDENTITIES) or node.meta.get("passes", False)
    picked = _picked(node)
    if picked is not None:
        with module.graph.inserting_after(node):
            new = module.graph.call_function(torch.select, picked)
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
    elif passes:
        node.replace_all_uses_with(node.all_input_nodes[0])
    elif isinstance(leaf, nn.Flatten) or operation(node) in _FLATTENS:
        source = node.all_input_nodes[0]
        before, after = shape_of(source), shape_of(node)
        if before is None or after is None:
            return
        if len(before) > 1 and tuple(after) == (before[0], prod(before[1:])):
            with module.graph.inserting_after(node):
                new = module.graph.call_function(torch.flatten, (source, 1))
            new.meta = dict(node.meta)
            node.replace_all_uses_with(new)


def _picked(node: fx.Node) -> tuple[Any, ...] | None:
    """Return the arguments of the selection that takes a piece of an unbind, if it does."""
    source = node.args[0] if node.target is operator.getitem else None
    if not isinstance(source, fx.Node) or operation(source) not in (torch.unbind, "unbind"):
        return None
    dim = source.args[1] if len(source.args) > 1 else source.kwargs.get("dim", 0)
    known = len(source.args) > 0 and isinstance(dim, int) and isinstance(node.args[1], int)
    return (source.args[0], dim, node.args[1]) if known else None


def reordered(x: Tensor, index: tuple[int, ...]) -> Tensor:
    """Return the units of dimension 1 in another order."""
    return x[:, list(index)]


def _shorten(graph: fx.Graph, end: fx.Node) -> None:
    """Write a channel shuffle, which is a view, a permutation and a view, as one operation."""
    shape, moves, start = shape_of(end), [end], end
    if operation(end) not in MOVES or shape is None or len(shape) < 3 or shape[1] < 2:
        return
    while len(moves) < _MOST_MOVES and operation(moves[-1]) in MOVES:
        start = moves[-1].all_input_nodes[0]
        found = shape_of(start)
        # A batch of one would not show that examples are mixed.
        if found is None or found[0] != shape[0] or moves[-1].args[0] is not start:
            return
        if found == shape and len(moves) > 1:
            break
        moves.append(start)
    else:
        return
    places = torch.arange(shape.numel()).reshape(shape)
    got = places
    for move in reversed(moves):
        arguments = concrete((move.args[1:], move.kwargs))
        if arguments is None:
            return
        got = called(move.target, got, *arguments)
    index = got[0].flatten(1)[:, 0] // max(1, shape[2:].numel())
    if torch.equal(got, places.index_select(1, index.clamp(max=shape[1] - 1))):
        with graph.inserting_after(end):
            new = graph.call_function(reordered, (start, tuple(index.tolist())))
        new.meta = {**end.meta, "end": end.name}
        end.replace_all_uses_with(new)


def concrete(arguments: Any) -> Any:
    """Return arguments with the sizes that their nodes had for the example; None if others are."""
    known = True

    def value(node: fx.Node) -> Any:
        nonlocal known
        known = known and "value" in node.meta
        return node.meta.get("value")

    found = fx.node.map_arg(arguments, value)
    return found if known else None


def called(target: Any, x: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """Return the result of a function, or of a method by its name."""
    if isinstance(target, str):
        result: Tensor = getattr(x, target)(*args, **kwargs)
        return result
    result = target(x, *args, **kwargs)
    return result
