"""Of what type a value is that ``torch.fx`` traces, for a forward that looks at types.

A forward may say ``if isinstance(h, tuple): h = h[0]``. What stands for the value while it is
traced is neither a tuple nor a tensor, so that it would go on as no value lets it.
"""

from __future__ import annotations

import inspect
import operator
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError

from bayesdrop.networks.operations import PACKED
from bayesdrop.nn import BayesianLayer

_LISTS = {"chunk", "split", "tensor_split", "unbind"}
_CUTS = ("chunk", "split", "tensor_split")
_OF_TENSOR_SPLIT = ("indices_or_sections", "indices", "sections")
_NUMBERS = {"size", "dim", "ndimension", "numel", "item", "tolist"}
_VIEWS = {"T", "mT", "H", "mH", "data", "grad", "real", "imag"}
_KNOWN = ("torch.nn.", "bayesdrop.")
_LOCK = threading.Lock()
_OPEN: Counter[int] = Counter()


@contextmanager
def types_known(root: nn.Module) -> Iterator[None]:
    """Let the code of a network's classes see the types of values that are traced.

    As ``torch.fx`` puts its own functions into the global names of forwards, this puts an
    ``isinstance`` there, and into those of ``torch.is_tensor``.

    Args:
        root: What is traced meanwhile.
    """
    found = (vars(torch), *_global_names(root))
    places = {id(n): n for n in found if n.get("isinstance", _isinstance) is _isinstance}
    with _LOCK:
        for key, names in places.items():
            _OPEN[key] += 1
            names["isinstance"] = _isinstance
    try:
        yield
    finally:
        with _LOCK:
            for key, names in places.items():
                _OPEN[key] -= 1
                if not _OPEN[key]:
                    del _OPEN[key], names["isinstance"]


def opened(module: nn.Module, result: Any) -> Any:
    """Return what a module has returned, as a tuple if that is what it returns.

    Args:
        module: What was called.
        result: What stands for its result, if it is one operation of the graph.
    """
    several = isinstance(module, nn.RNNBase | nn.LSTMCell | nn.MultiheadAttention)
    if not several or type(result) is not fx.Proxy:
        return result
    parts: Any = result
    first, second = parts[0], parts[1]
    if isinstance(module, nn.RNNBase) and module.mode == "LSTM":
        second = (second[0], second[1])
    return first, second


def in_pieces(result: fx.Proxy) -> Any:
    """Return the result of a chunk, or of a split by sizes, as a tuple of its pieces.

    Args:
        result: What stands for the result of any function or method.
    """
    node = result.node
    if node.op not in ("call_function", "call_method") or _name(node) not in _CUTS:
        return result
    names = ("chunks", "split_size_or_sections", "split_size", *_OF_TENSOR_SPLIT)
    given = [*node.args[1:2], *(node.kwargs[name] for name in names if name in node.kwargs)]
    how: Any = given[0] if given else None
    between = _name(node) == "tensor_split"  # a list says where, not how many
    number = len(how) + between if isinstance(how, list | tuple) else how
    if not isinstance(number, int) or (number is how and _name(node) == "split"):
        return result
    parts: Any = result
    return tuple(parts[index] for index in range(number))


def without_unused_parts(graph: fx.Graph) -> None:
    """Take out what ``opened`` and ``in_pieces`` have put in and nobody reads."""
    for node in reversed(graph.nodes):
        if node.target is operator.getitem and not node.users:
            graph.erase_node(node)


def _global_names(root: nn.Module) -> Iterator[dict[str, Any]]:
    """Yield the global names of what a network's classes, other than torch's and our own, call."""
    for module in root.modules():
        owners = (module, *type(module).__mro__)
        for function in (value for owner in owners for value in vars(owner).values()):
            if inspect.isfunction(function) and not f"{function.__module__}.".startswith(_KNOWN):
                yield function.__globals__


def _isinstance(value: Any, kinds: Any) -> bool:
    if isinstance(value, kinds):
        return True
    if type(value) is not fx.Proxy or not _is_tensor(value.node, value.tracer):
        return False
    return issubclass(Tensor, kinds)


def _is_tensor(node: fx.Node, tracer: Any) -> bool:
    """Return whether the value of a node is known to be a tensor."""
    if node.op == "call_module":
        module = tracer.root.get_submodule(str(node.target))
        if not f"{type(module).__module__}.".startswith("torch.nn.") and not isinstance(
            module, BayesianLayer
        ):
            raise TraceError(f"forward looks at the type of what {str(node.target)!r} returns")
        return not getattr(module, "return_indices", False)
    if node.op not in ("call_function", "call_method"):
        return not str(node.target).startswith("*")
    if node.target is getattr:
        return node.args[1] in _VIEWS
    if _name(node) in _LISTS | _NUMBERS or node.target in PACKED:
        return False
    plain = str(getattr(node.target, "__module__", None)) in ("_operator", "math", "builtins")
    if node.op == "call_function" and not plain:
        return True
    sources = node.all_input_nodes
    return any(_name(source) in _LISTS or _is_tensor(source, tracer) for source in sources)


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))
