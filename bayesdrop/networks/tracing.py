"""Symbolic tracing by ``torch.fx``, with errors that say what cannot be traced and where."""

from __future__ import annotations

import operator
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.fx.proxy import TraceError
from torch.nn.utils import rnn
from typing_extensions import override

from bayesdrop.errors import BayesdropError
from bayesdrop.networks.aliases import read_later
from bayesdrop.networks.blocks import attention_of
from bayesdrop.networks.by_mode import FunctionByMode
from bayesdrop.networks.operations import PACKED
from bayesdrop.networks.optional_inputs import by_default, by_request
from bayesdrop.networks.proxies import (
    asks_for_gradients,
    in_pieces,
    opened,
    types_known,
    without_unused_parts,
)
from bayesdrop.networks.raising import asked_at, only_answer
from bayesdrop.networks.side_effects import (
    check_constants,
    check_state,
    check_switches,
    contexts,
    generators,
    has_hooks,
    hides_gradients,
    state_of,
    told,
)
from bayesdrop.networks.subclasses import base_of, has_units_of
from bayesdrop.networks.traced_value import PLAIN_ARITHMETIC, TracedValue
from bayesdrop.nn import BayesianLayer, InnerMasks

_TRACED_HOOKS = ("torch.nn.", "bayesdrop.")  # operations like any, on what a graph goes through
_TIMES = 3  # other threads may draw random numbers meanwhile


class LayerTracer(fx.Tracer):
    """Tracer to which a Bayesian layer is one operation, like a layer of ``torch.nn``.

    While it traces, torch sends the modules of all threads through it: those of other threads go
    on as ever.

    Args:
        keep_modes: Whether a module that ``knows_its_mode`` is one too, and a subclass of a Linear
            or convolution that has the units of its base; else only if it cannot be traced.
        keep_attention: Whether a block of attention is one.
        keep_buffers: Whether what happens to a buffer alone is an operation, too; else it happens
            while the network is traced, once.
        gradients: Whether forward finds gradients on.
    """

    def __init__(
        self,
        *,
        keep_modes: bool = False,
        keep_attention: bool = False,
        keep_buffers: bool = False,
        gradients: bool = True,
    ) -> None:
        super().__init__(autowrap_functions=tuple(PACKED))
        self._autowrap_search.append(rnn)  # for those who write nn.utils.rnn.pad_packed_sequence
        self._subclasses: set[int] = set()
        self.keep_modes, self.keep_attention = keep_modes, keep_attention
        self.proxy_buffer_attributes = keep_buffers
        self._thread = threading.get_ident()
        self._contexts, self.gradients = contexts(), gradients
        self.refused: list[Exception] = []

    @override
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return TracedValue(node, self)

    @override
    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        return told(super().create_node(*args, **kwargs), self._contexts)

    @override
    def to_bool(self, obj: fx.Proxy) -> bool:
        frame = sys._getframe()
        answer = only_answer(frame)
        if answer is None:
            return self._noted(super().to_bool, obj)
        # "not" would ask a value again when what is made of the graph is traced.
        holds = (
            obj if answer else self.create_proxy("call_function", operator.eq, (obj, False), {})
        )
        self.create_proxy("call_function", torch._assert, (holds, asked_at(frame)), {})
        return answer

    @override
    def iter(self, obj: fx.Proxy) -> Any:
        return self._noted(super().iter, obj)

    def _noted(self, ask: Callable[[fx.Proxy], Any], value: fx.Proxy) -> Any:
        try:
            return ask(value)
        except TraceError as refusal:
            self.refused.append(refusal)
            raise

    @override
    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return opened(m, super().call_module(m, forward, args, kwargs))

    @override
    def create_proxy(self, *args: Any, **kwargs: Any) -> Any:
        return in_pieces(super().create_proxy(*args, **kwargs))

    @override
    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    @override
    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        self._note_subclasses(root)  # before the tracer puts its own calls in place of modules'
        with types_known(root), torch.set_grad_enabled(self.gradients):
            graph = self._traced(root, concrete_args)
        for node in graph.nodes:  # also where torch traces what it unpickles
            if node.target in PACKED:  # the code of a graph would wrap it under a name with dots
                node.meta.pop("is_wrapped", None)
        return graph

    def _note_subclasses(self, root: nn.Module) -> None:
        for module in root.modules():
            base = base_of(module)
            if base is not None and (self.keep_modes or not _is_traceable(module)):
                if has_units_of(module, base):
                    self._subclasses.add(id(module))

    def hooks_left_out(self, root: nn.Module) -> list[str]:
        """Return the modules with hooks of somebody's own that a graph would not call."""
        self._note_subclasses(root)
        found: list[str] = []
        inside: tuple[str, ...] = ()
        for name, module in root.named_modules():
            if name.startswith(inside):
                continue
            if name and self.is_leaf_module(module, name):
                inside += (f"{name}.",)
            elif has_hooks(module, but_of=_TRACED_HOOKS if name else ()):
                found.append(name)
        return found

    def _traced(self, root: nn.Module, concrete_args: dict[str, Any] | None) -> fx.Graph:
        if "forward" in vars(root):
            raise TraceError("its forward was set on the object")
        before, self._contexts = state_of(root), contexts()
        for _ in range(_TIMES):
            drawn = generators()
            graph = super().trace(root, concrete_args)
            if generators() == drawn:
                break
        else:
            raise TraceError(
                "forward draws random numbers of a fixed shape, or for a branch, which would be "
                "the same for ever"
            )
        if self.refused:  # and forward has caught that
            raise self.refused[0]
        check_state(root, before)
        check_constants(root, graph)
        check_switches(root, graph)
        _without_needless_changes(root, graph)
        return graph

    @override
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, BayesianLayer | InnerMasks) or (self.keep_modes and knows_its_mode(m)):
            return True
        if isinstance(m, nn.MultiheadAttention) or hides_gradients(m):
            return True
        if self.keep_attention and attention_of(module_qualified_name, m) is not None:
            return True
        if isinstance(m, FunctionByMode) and not m.is_of_torch:
            return True
        if id(m) in self._subclasses:
            return True
        return super().is_leaf_module(m, module_qualified_name)


def _without_needless_changes(root: nn.Module, graph: fx.Graph) -> None:
    """Write ``x += y`` as a sum where nothing else reads what it has changed."""
    modules = leaf_modules(root, graph)
    for node in graph.nodes:
        if node.target not in PLAIN_ARITHMETIC or not isinstance(node.args[0], fx.Node):
            continue
        if not any(read_later(node, node.args[0], modules)):
            node.target = PLAIN_ARITHMETIC[node.target]


def _is_traceable(layer: nn.Module) -> bool:
    try:
        fx.Tracer().trace(layer)
    except Exception:  # whatever forward does with what stands for its input
        return False
    return True


def knows_its_mode(module: nn.Module) -> bool:
    """Return whether a module without parameters or children looks at ``self.training``.

    Stochastic depth is such a module. One operation of a graph, it goes on looking; traced, it
    would do for ever what it does in the present mode.
    """
    if next(module.parameters(), None) is not None or next(module.children(), None) is not None:
        return False
    own = type(module).__mro__[: type(module).__mro__.index(nn.Module)]
    codes = [getattr(f, "__code__", None) for cls in own for f in vars(cls).values()]
    return any(code is not None and "training" in code.co_names for code in codes)


def trace(network: nn.Module, who: str, error: type[BayesdropError], **options: bool) -> fx.Graph:
    """Return the graph of operations of ``network`` in its present mode.

    Args:
        network: The module to trace; it is not changed.
        who: The function that complains if that fails.
        error: Its class of error.
        **options: Those of ``LayerTracer``.

    Raises:
        BayesdropError: Of the given class, if the control flow depends on the data, say.
    """
    try:
        graph = LayerTracer(**options).trace(network)
        _check_attributes(network, graph)
        _check_graph(graph)
        _check_optional(network, graph, options)
        _check_gradients(network, graph, options)
    except Exception as cause:  # whatever forward does with what stands for its input
        raise error(
            who,
            expected="a network that torch.fx can trace: control flow that does not depend on the "
            "data",
            got=f"{type(network).__name__}: {type(cause).__name__} {_location(cause)}: {cause}",
            hint="Move that code into a module of its own outside the converted part, or put "
            "the dropout layers into the network by hand.",
        ) from cause
    without_unused_parts(graph)
    return graph


def _check_attributes(network: nn.Module, graph: fx.Graph) -> None:
    """Refuse a forward that sets weights of a layer, which would keep what stood for them."""
    for name, layer in leaf_modules(network, graph).items():
        for module in layer.modules():
            found = [own for own, value in vars(module).items() if isinstance(value, fx.Proxy)]
            if found:
                raise TraceError(f"forward sets {found[0]!r} of {name!r}")


def _check_graph(graph: fx.Graph) -> None:
    """Refuse a forward that has kept a value of an earlier trace, as in a cache by a text."""
    if any(source.graph is not graph for n in graph.nodes for source in n.all_input_nodes):
        raise TraceError("forward keeps a value of an earlier pass")


def _check_optional(network: nn.Module, graph: fx.Graph, options: dict[str, bool]) -> None:
    """Refuse a forward that does something else where an input is None, as it may be."""
    for names in (by_default(network), *([name] for name in by_request(network))):
        given = dict.fromkeys(names)
        if not given:
            continue
        try:
            other = LayerTracer(**options).trace(network, concrete_args=given)
        except Exception:  # whatever a forward does that cannot do without
            continue
        if _calls(graph, names) != _calls(other, names):
            raise TraceError(f"forward asks whether {' or '.join(map(repr, given))} is None")


def _check_gradients(network: nn.Module, graph: fx.Graph, options: dict[str, bool]) -> None:
    """Refuse a forward that does something else where gradients are off."""
    if not asks_for_gradients(network):
        return
    other = LayerTracer(gradients=False, **options).trace(network)
    if _calls(graph) != _calls(other):
        raise TraceError("forward asks whether gradients are on")


def _calls(graph: fx.Graph, optional: Sequence[str] = ()) -> list[Any]:
    """Return what a graph does without some of its inputs, to be compared with another one."""
    told = [n for n in graph.nodes if getattr(n.target, "__name__", "") == "_assert_is_none"]
    absent = {n for check in told for n in check.all_input_nodes}
    absent |= {n for n in graph.nodes if n.op == "placeholder" and n.target in optional}
    place: dict[fx.Node, Any] = dict.fromkeys(absent)
    found: list[Any] = []
    for node in graph.nodes:
        if node in absent or node in told:
            continue
        place[node] = f"%{len(found)}"
        target = str(node.target)
        if target.startswith("_tensor_constant"):  # each graph has its own
            target = ""
        arguments = fx.node.map_arg((node.args, node.kwargs), place.__getitem__)
        found.append((node.op, target, repr(arguments)))
    return found


def _location(cause: Exception) -> str:
    """Return the last line of the user's code that the error passed through."""
    torch_root = Path(torch.__file__).parent
    frames = traceback.extract_tb(cause.__traceback__)
    own = [
        frame
        for frame in frames
        if torch_root not in Path(frame.filename).parents and frame.filename != __file__
    ]
    if not own or own[-1].filename.startswith("<"):
        return "while tracing"
    frame = own[-1]
    return f"in {Path(frame.filename).name}, line {frame.lineno}, `{frame.line}`"


def leaf_modules(network: nn.Module, graph: fx.Graph) -> dict[str, nn.Module]:
    """Return the modules that the graph calls, by name."""
    modules = dict(network.named_modules(remove_duplicate=False))
    return {str(n.target): modules[str(n.target)] for n in graph.nodes if n.op == "call_module"}


def shape_of(node: fx.Node) -> torch.Size | None:
    """Return the shape of a node's value if that is a tensor with at least one dimension.

    Args:
        node: One that ``torch.fx.passes.shape_prop`` has met.
    """
    meta = node.meta.get("tensor_meta")
    shape = getattr(meta, "shape", None)
    return shape if isinstance(shape, torch.Size) and len(shape) > 0 else None


def changes_in_place(node: fx.Node) -> bool:
    """Return whether a call of a function or method changes one of its inputs."""
    if node.op not in ("call_function", "call_method"):
        return False
    if node.kwargs.get("inplace") is True or node.target in _IN_PLACE:
        return True
    if getattr(node.target, "__module__", None) == "_operator":  # and_, or_, not_
        return False
    name = getattr(node.target, "__name__", str(node.target))
    return name.endswith("_") and not name.endswith("__")


_IN_PLACE = {
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv,
    operator.ipow, operator.imod, operator.imatmul, operator.iand, operator.ior, operator.ixor,
    operator.setitem,
}  # fmt: skip
