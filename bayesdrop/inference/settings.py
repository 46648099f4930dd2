"""What ``fit`` is asked for, checked before anything is changed."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterable
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from bayesdrop.errors import ConfigError
from bayesdrop.nn.arguments import is_real, is_whole
from bayesdrop.program.program import Program

_MONITORS = ("val_nll", "val_error", "val_rmse")


def check_trainable(bnn: Program) -> None:
    """Raise ``ConfigError`` unless gradients of the parameters can be computed."""
    if not torch.is_grad_enabled():
        raise ConfigError(
            "fit",
            expected="gradients",
            got="a call within torch.no_grad() or torch.inference_mode()",
            hint="Call it outside.",
        )
    for name, parameter in bnn.named_parameters():
        if is_lazy(parameter):
            raise ConfigError(
                "fit",
                expected="layers that know their sizes",
                got=f"{name!r}, which has none before its layer has seen an input",
                hint="Run the network once first, on a batch of its inputs: network(x).",
            )
        if parameter.is_inference():
            raise ConfigError(
                "fit",
                expected="parameters that can be trained",
                got=f"{name!r}, made within torch.inference_mode()",
                hint="Build the network outside.",
            )


def check_counts(**counts: Any) -> None:
    """Raise ``ConfigError`` unless each argument is a whole number of at least 1."""
    for name, value in counts.items():
        if not is_whole(value) or value < 1:
            raise ConfigError(
                "fit",
                expected=f"{name} >= 1, an int",
                got=f"{name}={value!r}",
                hint="Pass a whole number of at least 1.",
            )


def check_rates(clip_norm: Any, **rates: Any) -> None:
    """Raise ``ConfigError`` unless rates are finite and >= 0, and ``clip_norm`` > 0 or None."""
    for name, value in rates.items():
        if not is_real(value) or not (math.isfinite(value) and value >= 0):
            raise ConfigError(
                "fit",
                expected=f"{name} to be a number, finite and >= 0",
                got=f"{name}={value!r}",
                hint="0 leaves it out.",
            )
    if clip_norm is not None and (not is_real(clip_norm) or not clip_norm > 0):
        raise ConfigError(
            "fit",
            expected="clip_norm > 0",
            got=f"clip_norm={clip_norm!r}",
            hint="None does not clip.",
        )


def check_monitor(monitor: Any, patience: int | None, validation: Any) -> None:
    """Raise ``ConfigError`` unless there is something to monitor, and it has a known name."""
    if isinstance(validation, Integral):  # also a bool
        raise ConfigError(
            "fit",
            expected="validation data, or a fraction in (0, 1)",
            got=f"validation={validation!r}",
            hint="For example validation=(x, y) or validation=0.1.",
        )
    if patience is not None and validation is None:
        raise ConfigError(
            "fit",
            expected="validation data for early stopping",
            got=f"patience={patience} and validation=None",
            hint="Pass validation=(x, y) or a fraction such as validation=0.1.",
        )
    if monitor not in _MONITORS:
        raise ConfigError(
            "fit",
            expected="monitor to be val_nll, val_error or val_rmse",
            got=repr(monitor),
            hint="The default is val_nll.",
        )


def check_folders(**folders: Any) -> None:
    """Raise ``ConfigError`` unless each argument is None or a path."""
    for name, value in folders.items():
        if value is not None and (not isinstance(value, str | os.PathLike) or value == ""):
            raise ConfigError(
                "fit",
                expected=f"{name} to be None or the path of a folder",
                got=f"{name}={value!r}",
                hint="For example 'runs/first'.",
            )


def as_callbacks(callbacks: Any) -> tuple[Callable[..., object], ...]:
    """Return callbacks as a tuple; an iterator would be used up after one epoch.

    Raises:
        ConfigError: If they are no functions of the network and a record.
    """
    if callable(callbacks) or not isinstance(callbacks, Iterable) or isinstance(callbacks, str):
        raise ConfigError(
            "fit",
            expected="a list of callbacks",
            got=f"callbacks={callbacks!r}",
            hint="For one function pass callbacks=[function].",
        )
    functions = tuple(callbacks)
    for function in functions:
        require_function("callback", function, "callback(bnn, record)", 2)
    return functions


def is_true(answer: object) -> bool:
    """Return whether a callback has answered True, of Python, NumPy or torch; nothing else is."""
    if isinstance(answer, Tensor):
        return answer.dtype is torch.bool and answer.numel() == 1 and bool(answer)
    return isinstance(answer, bool | np.bool_) and bool(answer)


def require_function(name: str, value: Any, call: str, num_arguments: int) -> None:
    """Raise ``ConfigError`` unless ``value`` can be called with so many arguments.

    Args:
        name: What it is.
        value: Anything.
        call: How it is called, for the message.
        num_arguments: Number of positional arguments.
    """
    if not callable(value):
        raise ConfigError(
            "fit",
            expected=f"{name} to be a function, called as {call}",
            got=repr(value),
            hint="Pass the function itself.",
        )
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # some builtins do not tell
        return
    try:
        signature.bind(*[None] * num_arguments)
    except TypeError as error:
        raise ConfigError(
            "fit",
            expected=f"{name} to be a function, called as {call}",
            got=f"{getattr(value, '__name__', value)!s}{signature} ({error})",
            hint="Is it a function that returns one, to be called first?",
        ) from None
