"""Noise that a forward draws itself: which operations of a graph draw it, and in which mode."""

from __future__ import annotations

import dis
from collections.abc import Callable, Mapping
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

from torch import fx, nn

from bayesdrop.conversion.kinds import DROPOUT_FUNCTIONS
from bayesdrop.networks.by_mode import ATTENTION
from bayesdrop.nn.arguments import is_real

IN_TRAINING = (
    "it draws noise in training only, and prediction does not sample it: write a dropout as "
    "F.dropout or nn.Dropout"
)
ALWAYS = "it is on in evaluation mode too: write training=self.training, or nn.Dropout"
OF_ATTENTION = "it is on in evaluation mode too: write dropout_p=p if self.training else 0.0"
_DROPS = {"bernoulli", "bernoulli_", "binomial", "native_dropout", "rand", "rand_like", "uniform_"}
"""What a dropout is written with."""
_DRAWS = {
    *_DROPS, "randn", "randn_like", "normal", "normal_", "randint_like", "randperm", "poisson",
    "multinomial", "exponential_", "log_normal_", "geometric_", "gumbel_softmax",
}  # fmt: skip
_DISTRIBUTION = "Bernoulli"
_LIBRARIES = ("torch", "torchvision", "timm", "transformers", "bayesdrop")
_MARK = "only_in_training"


def mark_training(node: fx.Node) -> None:
    """Note that an operation is there for training mode alone."""
    node.meta[_MARK] = True


def is_marked(node: fx.Node) -> bool:
    """Return whether an operation is there for training mode alone."""
    return _MARK in node.meta


def noise_of(node: fx.Node) -> tuple[str, bool] | None:
    """Return why the noise of an operation is told, and whether it is like a dropout's.

    None if it draws none, or in both modes what is no dropout: that is part of the network.

    Args:
        node: An operation of a graph of both modes.
    """
    name = _name_of(node.target)
    if attention_rate(node) is not None:
        return (IN_TRAINING if is_marked(node) else OF_ATTENTION) + place_of(node), True
    if node.op not in ("call_function", "call_method") or name not in _DRAWS:
        return None
    if is_marked(node):
        cls = _owner(node)[1]
        return IN_TRAINING + place_of(node), name in _DROPS and (cls is None or is_own(cls))
    return (ALWAYS + place_of(node), True) if name.startswith("bernoulli") else None


def attention_rate(node: fx.Node) -> float | None:
    """Return the rate of the dropout inside a function of attention; None if it has none."""
    if node.op != "call_function" or node.target not in ATTENTION:
        return None
    given = dict(zip(ATTENTION[node.target], node.args, strict=False)) | node.kwargs
    rate = given.get("dropout_p", 0.0)
    on = given.get("training", True) is not False
    return float(rate) if on and isinstance(rate, int | float) and rate > 0 else None


def draws(function: Callable[..., Any] | str) -> tuple[bool, bool]:
    """Return whether a function of torch draws noise, and whether that is like a dropout's."""
    name = _name_of(function)
    return name in _DRAWS, name in _DROPS


def is_own(cls: type) -> bool:
    """Return whether a class is none of torch's or of a library whose noise is known."""
    return cls.__module__.split(".")[0] not in _LIBRARIES


def own_dropout(module: nn.Module) -> str:
    """Return why a dropout in the code of a class of the user's own is told; nothing if none is.

    Looked at are forward and what it calls: methods, and functions of the user's own, also those
    that the module holds. A rate that is zero by all attributes that could be it is none.
    """
    code, number = _Code(), -1
    own = [vars(module), *(vars(cls) for cls in filter(is_own, type(module).__mro__))]
    while len(code.seen) > number:
        number = len(code.seen)
        for name in {"forward", *code.names}:
            found = [methods[name] for methods in own if name in methods]
            for value in found if "super" in code.names else found[:1]:
                code.read(value)
    by_mode = "training" in code.names
    called = any(function in DROPOUT_FUNCTIONS for function in code.called)
    inside = "dropout_p" in code.names and any(function in ATTENTION for function in code.called)
    if (called or inside) and _is_off(module):
        return ""
    if by_mode and (called or inside or not code.names.isdisjoint((*_DROPS, _DISTRIBUTION))):
        return IN_TRAINING
    return ALWAYS if called else ""


def _is_off(module: nn.Module) -> bool:
    rates = [v for k, v in vars(module).items() if ("drop" in k or k == "p") and is_real(v)]
    return bool(rates) and not any(rates)


class _Code:
    """The names in the code of functions, and the functions that it calls by global names."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.called: list[Any] = []
        self.seen: set[int] = set()

    def read(self, function: Any) -> None:
        function = getattr(function, "__func__", function)
        code = getattr(function, "__code__", None)
        if code is not None and id(code) not in self.seen:
            self.seen.add(id(code))
            self._read(code, function.__globals__)

    def _read(self, code: CodeType, names: Mapping[str, Any]) -> None:
        self.names |= {*code.co_names}
        for value in code.co_consts:
            if isinstance(value, CodeType):
                self._read(value, names)
            elif isinstance(value, tuple):  # keywords of a call
                self.names |= {name for name in value if isinstance(name, str)}
        found: Any = None
        for step in dis.get_instructions(code):
            if step.opname == "LOAD_GLOBAL":
                found = names.get(str(step.argval))
            elif step.opname in ("LOAD_ATTR", "LOAD_METHOD") and isinstance(found, ModuleType):
                found = getattr(found, str(step.argval), None)
            elif step.opname != "EXTENDED_ARG":
                found = None
            if isinstance(found, FunctionType | BuiltinFunctionType):
                self.called.append(found)
                if (
                    isinstance(found, FunctionType)
                    and "-packages" not in found.__code__.co_filename
                ):
                    self.read(found)


def _name_of(function: Any) -> str:
    return function if isinstance(function, str) else str(getattr(function, "__name__", ""))


def place_of(node: fx.Node) -> str:
    """Return the module in whose forward an operation is, in words."""
    path, cls = _owner(node)
    return "" if cls is None else f" (in the forward of {path!r}, {cls.__name__})"


def _owner(node: fx.Node) -> tuple[str, type | None]:
    stack: Mapping[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    path, cls = list(stack.values())[-1] if stack else ("", None)
    return path, cls if isinstance(cls, type) else None
