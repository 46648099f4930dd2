"""Passes through a network that compute nothing but the open units of its masks.

A unit whose mask is 0 adds nothing to the layer behind it, and need not be computed by the layer
before it: of both layers' weights the rows and columns of open units are enough. What no mask
comes before is the same in every pass over the same inputs, and is computed once.

The graph is that of ``torch.fx``. Each tensor is followed along the dimension of its units: which
of them are known to be zero, which something behind them depends on, and which are computed. An
operation without a rule, and a layer with hooks, gets the whole tensor and runs as it is. A
network that cannot be traced, or that does more in a pass than its graph says, keeps its ordinary
passes.
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Mapping, Sequence, Sized
from functools import partial
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules import module as torch_module

from bayesdrop.inference.unit_choice import rule_for
from bayesdrop.inference.unit_rules import (
    Mask,
    Rule,
    Shelf,
    Step,
    Unary,
    Values,
    View,
    Weighted,
)
from bayesdrop.networks.shapes import Shapes
from bayesdrop.networks.tracing import LayerTracer, changes_in_place
from bayesdrop.nn import (
    BayesianDropout,
    BayesianWeights,
    LatentOwner,
    named_dropout_layers,
    named_weight_layers,
)
from bayesdrop.ops.seeding import draws_noise, seeded
from bayesdrop.program.inputs import Inputs, bound_inputs, described, outputs_of
from bayesdrop.program.network import PosteriorPass
from bayesdrop.program.program import Pass

_WORK_OF_PASS, _WORK_OF_GRAPH = 2.5e7, 6e8  # rows x weights, that cost what it costs to plan
_ROOM = 2**26  # bytes for the open weights of all passes
_FEWEST = 16  # below, the copy of the open weights costs more than the product saves
_OUT_OF_PLACE = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    torch.relu_: torch.relu,
    nn.functional.relu_: torch.relu,
    "add_": torch.add,
    "sub_": torch.sub,
    "mul_": torch.mul,
    "div_": torch.div,
    "relu_": torch.relu,
}
_Steps: TypeAlias = list[tuple[fx.Node, Step, tuple[fx.Node, ...]]]
"""Nodes with how to compute each, and the nodes whose values nothing needs any more after it."""


@torch.no_grad()
def open_passes(
    network: nn.Module, passes: Sequence[Pass], x: Inputs, num_rows: int
) -> list[Pass]:
    """Return passes with the same outputs, as far as they can be had for less.

    Args:
        network: The network of the passes, in evaluation mode.
        passes: The network itself, with its mean masks, or several of a ``PosteriorPass``; other
            ones stay what they are.
        x: A batch of inputs, of the size of those to come.
        num_rows: Number of inputs to come in all.
    """
    tensors = [*network.parameters(), *network.buffers()]
    work = num_rows * sum(tensor.numel() for tensor in tensors)
    known = all(_is_plain(run, network) or isinstance(run, PosteriorPass) for run in passes)
    if not known or work < _WORK_OF_PASS + _WORK_OF_GRAPH / len(passes) or _has_hooks(network):
        return list(passes)
    try:
        graph = OpenUnits(network, x[:2])
        slices = len(x) >= _FEWEST
        found = [_OpenPass(graph, run, *_draw(run, slices)) for run in passes]
        return list(found) if _agree(found[0], passes[0], x[:2]) else list(passes)
    except Exception:  # whatever a network does with what stands for its input
        return list(passes)


def _draw(
    run: Pass, slices: bool
) -> tuple[Mapping[BayesianDropout, Tensor], Mapping[BayesianWeights, Tensor]]:
    """Return the masks that all examples of a pass share, and its random weights."""
    if not slices:
        return {}, {}
    if isinstance(run, PosteriorPass):
        latents = run.sample.latents.items()
        weights = {o: v["weight"] for o, v in latents if isinstance(o, BayesianWeights)}
        return run.sample.masks, weights
    network = cast(partial[Tensor], run).args[0]
    layers = [layer for _, layer in named_dropout_layers(network) if not layer.input_dependent]
    random = [layer for _, layer in named_weight_layers(network)]
    return (
        {layer: layer.mean_mask() for layer in layers},
        {layer: layer.mean_weight() for layer in random},
    )


def _has_hooks(network: nn.Module) -> bool:
    # They see whole tensors, and count calls.
    return torch_module._has_any_global_hook() or any(
        module._forward_hooks or module._forward_pre_hooks for module in network.modules()
    )


def _agree(first: Pass, second: Pass, x: Inputs) -> bool:
    outputs = []
    for run in (first, second):
        with seeded(0):
            outputs.append(run(x))
    one, other = outputs
    tolerance = torch.finfo(other.dtype).eps ** 0.5
    return one.dtype == other.dtype and torch.allclose(one, other, tolerance, tolerance)


class _OpenPass:
    """A pass along the graph under one set of masks.

    Args:
        graph: The graph.
        run: The ordinary pass, for inputs of another shape.
        masks: The masks that all examples share.
        weights: The random weights.
    """

    def __init__(
        self,
        graph: OpenUnits,
        run: Pass,
        masks: Mapping[BayesianDropout, Tensor],
        weights: Mapping[BayesianWeights, Tensor],
    ) -> None:
        self.graph, self.run = graph, run
        self.steps = graph.steps(View(masks, weights, graph.shelf))

    def __call__(self, x: Inputs) -> Tensor:
        if not self.graph.takes(x):
            return self.run(x)
        if isinstance(self.run, PosteriorPass):
            return self.run.within(self._along_graph, x)
        return self._along_graph(x)

    def _along_graph(self, x: Inputs) -> Tensor:
        values = dict(self.graph.prefix(x))
        result = None
        for node, step, unused in self.steps:
            result = values[node] = step(values)
            for source in unused:
                del values[source]
        return cast(Tensor, result)


class OpenUnits:
    """The graph of a network in evaluation mode, with a rule for every node.

    Args:
        network: The network; it is not changed.
        x: A batch of inputs.

    Raises:
        Exception: If it cannot be traced, or its passes do more than the graph says.
    """

    def __init__(self, network: nn.Module, x: Inputs) -> None:
        self._network = network
        self._seen = described(x)
        self.shelf = Shelf(_ROOM)
        self._met: Inputs | None = None
        tensors = [*network.parameters(), *network.buffers()]
        work = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
        given = bound_inputs(network, x)
        module = _traced(work, given)
        self.nodes = list(module.graph.nodes)
        first = [node for node in self.nodes if node.op == "placeholder"]
        self._given = {str(node.target): node for node in first if node.target in given}
        in_order = [given[str(n.target)] if n.target in given else n.args[0] for n in first]
        if draws_noise(lambda: Shapes(module).propagate(*in_order)):
            raise RuntimeError("noise of its own")
        own = dict(network.named_modules(remove_duplicate=False))
        self.rules: dict[fx.Node, Rule] = {}
        dims: dict[fx.Node, int] = {}
        for node in self.nodes:
            call = _callable(node, own, module)
            rule = self.rules[node] = rule_for(node, call, dims)
            dims[node] = rule.dim
            before = all(self.rules[n].is_prefix for n in node.all_input_nodes)
            parts = call.modules() if isinstance(call, nn.Module) else ()
            latent = any(isinstance(part, LatentOwner) for part in parts)
            rule.is_prefix = before and not latent and node.op != "output"
        for rule in self.rules.values():
            if isinstance(rule, Mask):
                rule.gathers = self._feeds_weights(rule.node)
        self._first = self._steps(View({}, {}, self.shelf), prefix=True)

    def _feeds_weights(self, node: fx.Node) -> bool:
        """Return whether all that a tensor goes into can do with a part of it."""
        for user in node.users:
            rule = self.rules[user]
            if not isinstance(rule, Unary) or not rule.along:
                return False
            if not isinstance(rule, Weighted):
                if not rule.keeps_zeros or not self._feeds_weights(user):
                    return False
        return True

    def takes(self, x: Inputs) -> bool:
        """Return whether a batch's examples are like those that the graph was made for."""
        return described(x) == self._seen

    def prefix(self, x: Inputs) -> Values:
        """Return the values of all nodes that no mask comes before."""
        if self._met is not x:
            given = bound_inputs(self._network, x)
            self._met = x
            self._values = {node: given[name] for name, node in self._given.items()}
            for node, step, _ in self._first:
                self._values[node] = step(self._values)
        return self._values

    def steps(self, view: View) -> _Steps:
        """Return how to compute all other nodes under one set of masks."""
        return self._steps(view, prefix=False)

    def _steps(self, view: View, *, prefix: bool) -> _Steps:
        view.follow(self.rules)
        given = set(self._given.values())
        chosen = [node for node in self.nodes if self.rules[node].is_prefix == prefix]
        last = {source: node for node in chosen for source in node.all_input_nodes}
        unused: dict[fx.Node, list[fx.Node]] = {}
        for source, node in last.items():
            unused.setdefault(node, []).append(source)
        return [
            (node, self.rules[node].step(view, self.rules), tuple(unused.get(node, ())))
            for node in chosen
            if node not in given
        ]


def _traced(work: nn.Module, given: Mapping[str, Tensor]) -> fx.GraphModule:
    """Return the traced network, without operations that change a tensor in place."""
    before = _state(work)
    parameters = inspect.signature(work.forward).parameters.values()
    others = [p for p in parameters if p.name not in given]
    # What the pass leaves at its default decides which way it goes.
    default = {p.name: p.default for p in others if p.default is not inspect.Parameter.empty}
    graph = LayerTracer(keep_modes=True, keep_buffers=True).trace(work, default or None)
    if _state(work) != before:
        raise RuntimeError("a pass that leaves something behind")
    module = fx.GraphModule(work, graph)
    for node in module.graph.nodes:
        if "out" in node.kwargs:
            raise RuntimeError("a tensor that changes")
        leaf = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if getattr(leaf, "inplace", False) is not True and not changes_in_place(node):
            continue
        if any(len(source.users) > 1 for source in node.all_input_nodes):
            raise RuntimeError("a tensor that changes after it was read")
        if leaf is not None:
            leaf.inplace = False  # type: ignore[assignment]
        elif node.target in _OUT_OF_PLACE:
            node.op, node.target = "call_function", _OUT_OF_PLACE[node.target]
        elif node.kwargs.get("inplace") is True:
            node.update_kwarg("inplace", False)
        else:
            raise RuntimeError("a tensor that changes")
    module.recompile()
    return module


def _is_plain(run: Pass, network: nn.Module) -> bool:
    return isinstance(run, partial) and run.func is outputs_of and run.args[0] is network


def _state(network: nn.Module) -> list[Any]:
    """Return what tells whether a pass has changed an attribute of a module."""
    return [
        (name, id(value), len(value) if isinstance(value, Sized) else 0)
        for module in network.modules()
        for name, value in vars(module).items()
        if not name.startswith("_tensor_constant")
    ]


def _callable(node: fx.Node, own: Mapping[str, nn.Module], module: fx.GraphModule) -> Any:
    """Return what a node calls: of the network itself, or of a copy where that is changed."""
    target = str(node.target)
    if node.op == "call_module":
        layer, copied = own[target], module.get_submodule(target)
        return copied if getattr(layer, "inplace", False) is True else layer
    if node.op == "get_attr":
        owner, _, name = target.rpartition(".")
        holder = own[owner] if hasattr(own[owner], name) else module.get_submodule(owner)
        return lambda: getattr(holder, name)
    if node.op == "call_method":
        return lambda x, *args, **kwargs: getattr(x, target)(*args, **kwargs)
    if node.op in ("placeholder", "output"):
        return _first
    return node.target


def _first(value: Any) -> Any:
    # With default arguments torch.fx returns a list of the outputs.
    return value[0] if isinstance(value, list) and len(value) == 1 else value
