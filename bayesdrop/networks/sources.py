"""The text of functions that torch.fx compiles, which it keeps as long as a process runs."""

from __future__ import annotations

import functools
import linecache
import weakref
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch import fx, nn

P = ParamSpec("P")
R = TypeVar("R")

_PREFIX = "<eval_with_key>"


def releases_sources(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that no text stays behind of the graphs that it compiles.

    That of the module it returns is kept until the module is gone: tracebacks show it.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        before = _keys()
        result = function(*args, **kwargs)
        modules = result.modules() if isinstance(result, nn.Module) else ()
        returned = {_key_of(m): m for m in modules if isinstance(m, fx.GraphModule)}
        for key in _keys() - before:
            if key in returned:
                weakref.finalize(returned[key], _release, key).atexit = False
            else:
                _release(key)
        return result

    return wrapped


def _key_of(module: fx.GraphModule) -> str:
    return str(type(module).forward.__code__.co_filename)


def _keys() -> set[str]:
    return {name for name in linecache.cache if str(name).startswith(_PREFIX)}


def _release(key: str) -> None:
    linecache.cache.pop(key, None)
    loader = getattr(fx.graph_module, "_loader", None)
    getattr(loader, "eval_cache", {}).pop(key, None)
