"""Which layers a user means, by name or by a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import nn

from bayesdrop.conversion.kinds import CONVOLUTIONS, DROPOUTS, RECURRENT
from bayesdrop.nn import BayesianWeights

Selection: TypeAlias = str | Sequence[str] | Callable[[str, nn.Module], bool]
"""Layers by name pattern (``"features.*"``), several patterns, or ``f(name, module) -> bool``."""


def patterns_of(selection: Selection | None) -> Sequence[str]:
    """Return the name patterns of a selection, if it is made of such."""
    if selection is None or callable(selection):
        return ()
    return (selection,) if isinstance(selection, str) else selection


def matches(selection: Selection, name: str, module: nn.Module) -> bool:
    """Return whether a layer is among those selected, by its name or by that of what it is in."""
    if callable(selection):
        return selection(name, module)
    steps = name.split(".")
    names = [".".join(steps[: end + 1]) for end in range(len(steps))]
    return any(fnmatchcase(n, pattern) for n in names for pattern in patterns_of(selection))


def plain_of(module: nn.Module) -> nn.Module:
    """Return the layer that says what a layer does: with random weights, the one it replaces."""
    return module.plain if isinstance(module, BayesianWeights) else module


def named_layers(modules: Mapping[str, nn.Module]) -> list[str]:
    """Return the names of the layers that a user can select, for messages."""
    kinds = (nn.Linear, *RECURRENT, nn.Embedding, *CONVOLUTIONS, *DROPOUTS)
    return [name for name, module in modules.items() if isinstance(plain_of(module), kinds)]
