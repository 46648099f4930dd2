"""One graph for both modes: tracing bakes ``self.training`` in, so what depends on it is found."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from bayesdrop.conversion.kinds import DROPOUT_FUNCTIONS
from bayesdrop.conversion.noise import mark_training
from bayesdrop.errors import ConversionError
from bayesdrop.networks.by_mode import ChoiceByMode, FunctionByMode, Slot
from bayesdrop.networks.tracing import LayerTracer, changes_in_place, trace

_OFF_BY_DEFAULT = (F.alpha_dropout, F.feature_alpha_dropout)


def graph_of_both_modes(work: nn.Module, *, keep_attention: bool = False) -> fx.Graph:
    """Return the graph of a network in which modules, not constants, know the mode.

    Every operation of either mode is in it. Where the modes differ, a module chooses: nn.Dropout
    for ``F.dropout`` and its like, ``FunctionByMode`` for other settings of a function,
    ``ChoiceByMode`` for another value, such as what is returned without an auxiliary output.

    Args:
        work: A copy of the network; the modules are added to it.
        keep_attention: Whether a block of attention is one operation, like torch's own.

    Raises:
        ConversionError: If it cannot be traced, draws random numbers while it is, or runs a layer
            in evaluation mode only.
    """
    _check_call(work, LayerTracer(keep_modes=True, keep_attention=keep_attention))
    before = {name: buffer.clone() for name, buffer in work.named_buffers()}
    versions = _versions(work)
    keep = {"keep_attention": keep_attention}
    graphs = [_trace(work, mode, before, **keep) for mode in (True, False)]
    touched = _versions(work) != versions  # a zero that decays stays zero
    if _restored(work, before) or touched:
        # What training does to a buffer has to become an operation of the graph.
        graphs = [_trace_with_buffers(work, mode, before, **keep) for mode in (True, False)]
    return _Merge(work, *graphs).run()


def _trace_with_buffers(
    work: nn.Module, training: bool, before: Mapping[str, Tensor], **options: bool
) -> fx.Graph:
    graph = _trace(work, training, before, keep_buffers=True, **options)
    end = next(reversed(graph.nodes))
    with graph.inserting_before(end):
        for name, value in work.named_buffers():
            if isinstance(value, fx.Proxy):  # forward assigns to it
                graph.call_method("copy_", (graph.get_attr(name), value.node))
    _restored(work, before)
    return graph


def _versions(work: nn.Module) -> dict[str, int]:
    named = work.named_buffers()
    return {name: buffer._version for name, buffer in named if not buffer.is_inference()}


@torch.no_grad()
def _restored(work: nn.Module, before: Mapping[str, Tensor]) -> bool:
    """Give the buffers back the values that they had; return whether one had another."""
    changed = False
    for name, buffer in list(work.named_buffers()):
        old = before.get(name)
        if old is None or old.is_meta:
            continue
        if isinstance(buffer, Tensor) and torch.equal(old, buffer):
            continue
        path, _, own = name.rpartition(".")
        work.get_submodule(path)._buffers[own] = old
        changed = True
    return changed


def free_name(root: nn.Module, name: str) -> str:
    """Return the name, with a number after it if something has it already."""
    parent, _, leaf = name.rpartition(".")
    holder = root.get_submodule(parent)
    candidate, number = leaf, 0
    while hasattr(holder, candidate):
        number += 1
        candidate = f"{leaf}_{number}"
    return f"{parent}.{candidate}" if parent else candidate


def drop_rate(node: fx.Node) -> float | None:
    """Return the rate at which a call of a dropout function drops; None if it is none, or off."""
    if node.op != "call_function" or node.target not in DROPOUT_FUNCTIONS:
        return None
    return _rate(node.target, node.args, node.kwargs)


def _trace(
    work: nn.Module, training: bool, before: Mapping[str, Tensor], **options: bool
) -> fx.Graph:
    options["keep_modes"] = True
    _check_mode(work.train(training))
    graph = trace(work, "convert", ConversionError, **options)
    constants = _constants(work, graph)
    if constants:
        _restored(work, before)  # else the second time may see what the first one has left there
        again = _constants(work, trace(work, "convert", ConversionError, **options))
        same = [torch.equal(a, b) for a, b in zip(constants, again, strict=False)]
        if len(constants) != len(again) or not all(same):
            raise ConversionError(
                "convert",
                expected="a forward that torch.fx can trace",
                got=f"{type(work).__name__}, which draws random numbers of a fixed shape, so that "
                "they would be the same for ever",
                hint="Draw them with torch.randn_like or rand_like, or in a module of its own.",
            )
    return graph


def _check_call(work: nn.Module, tracer: LayerTracer) -> None:
    for name in tracer.hooks_left_out(work):
        raise ConversionError(
            "convert",
            expected="a network that is called by its forward alone",
            got=f"{type(work).__name__} with a hook on {repr(name) if name else 'itself'}, which "
            "a graph leaves out",
            hint="Register it on a layer, or on what convert returns, or write it into forward.",
        )


def _check_mode(work: nn.Module) -> None:
    held = [name for name, m in work.named_modules() if m.training != work.training]
    if held:
        raise ConversionError(
            "convert",
            expected="a network all of which train() puts into training mode",
            got=f"a train() of its own that holds {held[0]!r} in evaluation mode, which a graph "
            "leaves out",
            hint=f"Take it out, convert, and call network.get_submodule({held[0]!r}).eval(): fit "
            "keeps that.",
        )


def _constants(work: nn.Module, graph: fx.Graph) -> list[Tensor]:
    """Return the tensors that tracing has made, in order."""
    names = [str(n.target) for n in graph.nodes if n.op == "get_attr"]
    return [getattr(work, name) for name in names if name.startswith("_tensor_constant")]


class _Merge:
    """The graph of training mode, into which that of evaluation mode is being worked."""

    def __init__(self, work: nn.Module, training: fx.Graph, evaluation: fx.Graph) -> None:
        self.work, self.graph, self.evaluation = work, training, evaluation
        self.nodes = list(training.nodes)
        self.position = 0  # of the first node of training mode that has no twin yet
        self.twin: dict[fx.Node, fx.Node] = {}
        self.matched: set[fx.Node] = set()

    def run(self) -> fx.Graph:
        for node in self.evaluation.nodes:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.twin.__getitem__)
            found = self._find(node, (args, kwargs))
            if found is None:
                self.twin[node] = self._copy(node, args, kwargs)
            else:
                self.position = found + 1
                self.matched.add(self.nodes[found])
                self.twin[node] = self._joined(self.nodes[found], args, kwargs)
        for node in self.nodes:
            if node not in self.matched:
                mark_training(node)
                if changes_in_place(node):
                    self._only_in_training(node)
        return self.graph

    def _find(self, node: fx.Node, arguments: Any) -> int | None:
        """Return the position of the same operation in training mode, if it is there."""
        for index in range(self.position, len(self.nodes)):
            other = self.nodes[index]
            if other.op != node.op:
                continue
            if node.op == "get_attr":
                if self._same_tensor(str(other.target), str(node.target)):
                    return index
            elif other.target == node.target:
                functional = node.op in ("call_function", "call_method")
                if not functional or _nodes(arguments) == _nodes((other.args, other.kwargs)):
                    return index
        return None

    def _same_tensor(self, first: str, second: str) -> bool:
        if first == second:
            return True
        made = first.startswith("_tensor_constant") and second.startswith("_tensor_constant")
        return made and torch.equal(getattr(self.work, first), getattr(self.work, second))

    def _copy(self, node: fx.Node, args: Any, kwargs: Any) -> fx.Node:
        if node.op == "call_module":
            module = self.work.get_submodule(str(node.target))
            if next(itertools.chain(module.parameters(), module.buffers()), None) is not None:
                raise self._refusal(node, "runs it in evaluation mode only")
        with self.graph.inserting_before(self.nodes[self.position]):
            new = self.graph.create_node(node.op, node.target, args, kwargs, node.name)
        if not changes_in_place(new):
            return new
        inputs = tuple(dict.fromkeys(_nodes((args, kwargs))))
        settings = _with_slots((args, kwargs), inputs)
        return self._replace(new, FunctionByMode(node.target, None, settings), inputs)

    def _joined(self, node: fx.Node, args: Any, kwargs: Any) -> fx.Node:
        """Return the node of training mode, made right for both."""
        if (node.args, node.kwargs) == (args, kwargs) or node.op == "placeholder":
            return node
        if node.op in ("call_function", "call_method"):
            return self._function(node, args, kwargs)
        if len(node.args) != len(args) or node.kwargs.keys() != kwargs.keys():
            raise self._refusal(node, "calls it with other arguments in evaluation mode")
        with self.graph.inserting_before(node):
            node.args = tuple(map(self._choice, node.args, args))
            node.kwargs = {k: self._choice(v, kwargs[k]) for k, v in node.kwargs.items()}
        return node

    def _choice(self, training: Any, evaluation: Any) -> Any:
        if training == evaluation:
            return training
        if isinstance(training, fx.Node) and training.args[:1] == (evaluation,):
            rate = drop_rate(training)
            if rate is not None:  # if self.training: x = F.dropout(x, p)
                return self._replace(
                    training, DROPOUT_FUNCTIONS[training.target](rate), (evaluation,)
                )
        name = free_name(self.work, "choice_by_mode")
        self.work.add_module(name, ChoiceByMode())
        return self.graph.call_module(name, (training, evaluation))

    def _only_in_training(self, node: fx.Node) -> None:
        """Let an operation that changes a tensor, such as a buffer, wait for training mode."""
        inputs = tuple(dict.fromkeys(_nodes((node.args, node.kwargs))))
        settings = _with_slots((node.args, node.kwargs), inputs)
        new = self._replace(node, FunctionByMode(node.target, settings), inputs)
        new.meta |= node.meta  # says where it is

    def _function(self, node: fx.Node, args: Any, kwargs: Any) -> fx.Node:
        return self._replace(node, *self._module_for(node, args, kwargs))

    def _replace(self, node: fx.Node, module: nn.Module, inputs: tuple[fx.Node, ...]) -> fx.Node:
        name = free_name(self.work, node.name)
        self.work.add_module(name, module)
        with self.graph.inserting_after(node):
            new = self.graph.call_module(name, inputs)
        node.replace_all_uses_with(new)
        self.graph.erase_node(node)
        return new

    def _module_for(
        self, node: fx.Node, args: Any, kwargs: Any
    ) -> tuple[nn.Module, tuple[fx.Node, ...]]:
        inputs = tuple(dict.fromkeys(_nodes((args, kwargs))))
        rate = drop_rate(node)
        if rate is not None and _rate(node.target, args, kwargs) is None:
            return DROPOUT_FUNCTIONS[node.target](rate), inputs[:1]
        training = _with_slots((node.args, node.kwargs), inputs)
        return FunctionByMode(node.target, training, _with_slots((args, kwargs), inputs)), inputs

    def _refusal(self, node: fx.Node, why: str) -> ConversionError:
        module = self.work.get_submodule(str(node.target)) if node.op == "call_module" else None
        kind = node.op if module is None else type(module).__name__
        return ConversionError(
            "convert",
            expected="a forward whose layers run in training mode as in evaluation mode",
            got=f"{type(self.work).__name__}, whose forward looks at self.training: the first "
            f"difference is at {str(node.target)!r} ({kind}): it {why}",
            hint="Let both modes run that layer, or convert the part without the branch.",
        )


def _with_slots(arguments: Any, inputs: Sequence[fx.Node]) -> Any:
    slots = {node: Slot(index) for index, node in enumerate(inputs)}
    return fx.node.map_arg(arguments, slots.__getitem__)  # type: ignore[arg-type]


def _nodes(arguments: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.node.map_arg(arguments, found.append)
    return found


def _rate(function: Any, args: Any, kwargs: Any) -> float | None:
    values = dict(zip(("input", "p", "training"), args, strict=False)) | kwargs
    on = values.get("training", values.get("train", function not in _OFF_BY_DEFAULT))
    rate = float(values.get("p", 0.5))
    return rate if on and rate > 0 else None
