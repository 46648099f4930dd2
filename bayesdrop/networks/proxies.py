"""Of what type a value is that ``torch.fx`` traces, for a forward that looks at types.

A forward may say ``if isinstance(h, tuple): h = h[0]``. What stands for the value while it is
traced is neither a tuple nor a tensor, so that it would go on as no value lets it.
"""

from __future__ import annotations

import operator
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import fx, nn
from torch.fx.proxy import TraceError

from bayesdrop.networks.kinds_of_values import kind_of, name_of

_CUTS = ("chunk", "split", "tensor_split")
_OF_TENSOR_SPLIT = ("indices_or_sections", "indices", "sections")
_KNOWN = ("torch.", "numpy.", "bayesdrop.")
_LOCK = threading.Lock()
_OPEN: Counter[tuple[int, str]] = Counter()


@contextmanager
def types_known(root: nn.Module) -> Iterator[None]:
    """Let the code of a network's classes see the types of values that are traced.

    As ``torch.fx`` puts its own functions into the global names of forwards, this puts an
    ``isinstance``, ``hasattr``, ``getattr`` and ``type`` there, and an ``isinstance`` into those
    of ``torch.is_tensor``.

    Args:
        root: What is traced meanwhile.
    """
    found = {(id(n), key): n for n in _global_names(root) for key in _ASKING}
    found[id(vars(torch)), "isinstance"] = vars(torch)
    places = {
        place: names
        for place, names in found.items()
        if names.get(place[1], _ASKING[place[1]]) is _ASKING[place[1]]
    }
    with _LOCK:
        for place, names in places.items():
            _OPEN[place] += 1
            names[place[1]] = _ASKING[place[1]]
    try:
        yield
    finally:
        with _LOCK:
            for place, names in places.items():
                _OPEN[place] -= 1
                if not _OPEN[place]:
                    del _OPEN[place], names[place[1]]


def asks_for_gradients(root: nn.Module) -> bool:
    """Return whether the code of a network's classes asks if gradients are on."""
    return any("is_grad_enabled" in _names_in(f.__code__) for f in _functions(root))


def opened(module: nn.Module, result: Any) -> Any:
    """Return what a module has returned, as a tuple if that is what it returns.

    Args:
        module: What was called.
        result: What stands for its result, if it is one operation of the graph.
    """
    several = isinstance(module, nn.RNNBase | nn.LSTMCell | nn.MultiheadAttention)
    if not several or not isinstance(result, fx.Proxy):
        return result
    parts: Any = result
    first, second = parts[0], parts[1]
    if isinstance(module, nn.RNNBase) and module.mode == "LSTM":
        second = (second[0], second[1])
    given = result.node
    asked = given.args[4] if len(given.args) > 4 else given.kwargs.get("need_weights", True)
    if isinstance(module, nn.MultiheadAttention) and asked is False:
        second = None
    return first, second


def in_pieces(result: fx.Proxy) -> Any:
    """Return the result of a chunk, or of a split by sizes, as a tuple of its pieces.

    Args:
        result: What stands for the result of any function or method.
    """
    node = result.node
    if node.op not in ("call_function", "call_method") or name_of(node) not in _CUTS:
        return result
    names = ("chunks", "split_size_or_sections", "split_size", *_OF_TENSOR_SPLIT)
    given = [*node.args[1:2], *(node.kwargs[name] for name in names if name in node.kwargs)]
    how: Any = given[0] if given else None
    between = name_of(node) == "tensor_split"  # a list says where, not how many
    number = len(how) + between if isinstance(how, list | tuple) else how
    if not isinstance(number, int) or (number is how and name_of(node) == "split"):
        return result
    parts: Any = result
    return tuple(parts[index] for index in range(number))


def without_unused_parts(graph: fx.Graph) -> None:
    """Take out what ``opened`` and ``in_pieces`` have put in and nobody reads."""
    for node in reversed(graph.nodes):
        if node.target is operator.getitem and not node.users:
            graph.erase_node(node)


def _global_names(root: nn.Module) -> list[dict[str, Any]]:
    """Return the global names of what a network's classes call, other than torch's and our own."""
    return list({id(f.__globals__): f.__globals__ for f in _functions(root)}.values())


def _functions(root: nn.Module) -> Iterator[FunctionType]:
    """Yield the functions of a network's classes, and those that they call by global names."""
    owners = {id(o): o for m in root.modules() for o in (m, *type(m).__mro__)}
    waiting = [value for owner in owners.values() for value in vars(owner).values()]
    seen: set[int] = set()
    while waiting:
        function = waiting.pop()
        function = getattr(function, "__func__", function)
        if not isinstance(function, FunctionType) or id(function.__code__) in seen:
            continue
        seen.add(id(function.__code__))
        home = str(function.__module__)
        if f"{home}.".startswith(_KNOWN) or home.split(".")[0] in sys.stdlib_module_names:
            continue
        yield function
        own, called = function.__globals__, _names_in(function.__code__)
        for name in called & own.keys():
            value = own[name]
            if isinstance(value, ModuleType):
                waiting += [vars(value)[other] for other in called & vars(value).keys()]
            else:
                waiting.append(value)


def _names_in(code: CodeType) -> set[str]:
    inner = (_names_in(value) for value in code.co_consts if isinstance(value, CodeType))
    return {*code.co_names}.union(*inner)


def _isinstance(value: Any, kinds: Any) -> bool:
    kinds = _with_type(kinds)
    if isinstance(value, kinds) or not isinstance(value, fx.Proxy):
        return isinstance(value, kinds)
    return issubclass(_kind_of(value, "the type of"), kinds)


def _with_type(kinds: Any) -> Any:
    if isinstance(kinds, tuple):
        return tuple(_with_type(kind) for kind in kinds)
    return type if kinds is _type else kinds


def _hasattr(value: Any, name: str) -> bool:
    if not isinstance(value, fx.Proxy):
        return hasattr(value, name)
    given = value.node.op == "placeholder"
    known = hasattr(_kind_of(value, f"whether {name!r} is in"), name)
    if given and not known:  # an object of any class may be passed
        raise TraceError(f"forward asks whether {name!r} is in an input")
    return known


def _getattr(value: Any, name: str, *default: Any) -> Any:
    if default and isinstance(value, fx.Proxy) and not _hasattr(value, name):
        return default[0]
    return getattr(value, name, *default)


def _type(value: Any, *args: Any, **kwargs: Any) -> Any:
    if args or not isinstance(value, fx.Proxy):
        return type(value, *args, **kwargs)
    return _kind_of(value, "the type of")


_ASKING: dict[str, Any] = {
    "isinstance": _isinstance,
    "hasattr": _hasattr,
    "getattr": _getattr,
    "type": _type,
}


def _kind_of(value: fx.Proxy, what: str) -> type:
    kind = kind_of(value.node, value.tracer)
    if kind is None:
        raise TraceError(f"forward asks for {what} {value.node.name!r}")
    return kind
