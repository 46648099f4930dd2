"""Evaluation mode for as long as a block of code needs it, and threads that take turns."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch
from torch import nn

_P = ParamSpec("_P")
_R = TypeVar("_R")

_TURN = threading.RLock()


@contextmanager
def evaluation_mode(*networks: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode, and back into its own mode afterwards.

    A module has one mode for all threads. So there is one such block at a time in a process, and
    meanwhile no pass of a Bayesian network by another thread (``in_turn``).

    Args:
        *networks: Any modules, also what ``torch.export`` made, which refuses ``eval()``.

    Example:
        >>> net = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5).eval())
        >>> with evaluation_mode(net):
        ...     inside = [module.training for module in net]
        >>> inside, [module.training for module in net]
        ([False, False], [True, False])
    """
    with _TURN:
        modes = [(module, module.training) for network in networks for module in network.modules()]
        for module, _ in modes:
            module.training = False
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run what ``torch.compile`` has made as Python would, within the context.

    What observes a pass by hooks would otherwise be compiled with it, and once more without it.
    """
    if "torch._dynamo" not in sys.modules:  # its import takes seconds; nothing is compiled
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def in_turn(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a function wait until no other thread has networks in a mode that is not their own.

    ``evaluation_mode`` lends modules a mode; what passes through them, or sets their mode, waits
    for its end, unless it is in the same thread. A compiled pass does not wait.
    """

    @functools.wraps(function)
    def waiting(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        with _TURN:
            return function(*args, **kwargs)

    return waiting
