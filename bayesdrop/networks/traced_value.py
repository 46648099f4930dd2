"""What stands for a value while ``torch.fx`` traces, where fx's own goes on as no value lets it.

A forward that catches the error of an ``if`` on a value, or of its length, would go on in its
``except``; ``x += y`` would leave other names of ``x`` as they were; NumPy would look for its
functions among the methods of a tensor.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from torch import fx
from torch.fx.proxy import Attribute, TraceError

PLAIN_ARITHMETIC: dict[Callable[..., Any], Callable[..., Any]] = {
    operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul,
    operator.itruediv: operator.truediv, operator.ifloordiv: operator.floordiv,
    operator.imod: operator.mod, operator.ipow: operator.pow, operator.imatmul: operator.matmul,
    operator.iand: operator.and_, operator.ior: operator.or_, operator.ixor: operator.xor,
}  # fmt: skip
"""Arithmetic in place, and the same that makes a new value."""


class TracedValue(fx.Proxy):
    """A value that is traced, which tells its tracer of what it cannot do."""

    def __getattr__(self, k: str) -> Attribute:
        return _TracedAttribute(self, k)

    def __len__(self) -> int:
        self._refuse("asks for the length of a value")

    def __int__(self) -> int:
        self._refuse("makes a number of a value")

    def __float__(self) -> float:
        self._refuse("makes a number of a value")

    def __hash__(self) -> int:
        if str(sys._getframe(1).f_globals.get("__name__")).split(".")[0] == "torch":
            return id(self)
        self._refuse("looks a value up in a set or dictionary")

    def __setitem__(self, key: object, value: object) -> None:
        self._refuse("sets elements of a value")

    def __array__(self, *args: object, **kwargs: object) -> NoReturn:
        self._refuse("hands a value to NumPy")

    __array_ufunc__ = None

    def __array_function__(self, *args: object) -> NoReturn:
        self._refuse("hands a value to NumPy")

    def _refuse(self, why: str) -> NoReturn:
        tracer: Any = self.tracer
        refused = getattr(tracer, "refused", None)
        error = TraceError(f"forward {why}")
        if refused is not None:
            refused.append(error)
        raise error


class _TracedAttribute(Attribute, TracedValue):
    """An attribute of a value, or a method of it that is about to be called."""


def _in_place(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def method(self: TracedValue, other: object) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {}, name)

    return method


for _function, _plain in PLAIN_ARITHMETIC.items():
    setattr(TracedValue, f"__{_function.__name__}__", _in_place(_function, _plain.__name__))
