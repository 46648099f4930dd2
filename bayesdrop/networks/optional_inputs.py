"""Inputs of a forward that may be None."""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
import typing
from typing import Any

from torch import nn


def by_default(network: nn.Module) -> list[str]:
    """Return the names of the inputs that are None if they are left out."""
    return [name for name, value in _parameters(network).items() if value.default is None]


def by_request(network: nn.Module) -> list[str]:
    """Return the names of other inputs that may be None: by their type, or as a forward asks."""
    forwards = {type(module): module for module in network.modules()}
    asked = set().union(*(_asked(module) for module in forwards.values()))
    return [
        name
        for name, value in _parameters(network).items()
        if value.default is not None and (name in asked or _admits_none(value.annotation))
    ]


def _parameters(network: nn.Module) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(network.forward).parameters)


def _admits_none(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return "Optional[" in annotation or "None" in [p.strip() for p in annotation.split("|")]
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return union and type(None) in typing.get_args(annotation)


def _asked(module: nn.Module) -> set[str]:
    """Return the names that a forward compares with None; none if its text is not to be had."""
    if type(module).__module__.startswith("torch."):
        return set()
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(module.forward)))
    except (OSError, TypeError, SyntaxError):
        return set()
    return {
        node.left.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        and isinstance(node.left, ast.Name)
        and isinstance(node.ops[0], ast.Is | ast.IsNot)
        and isinstance(node.comparators[0], ast.Constant)
        and node.comparators[0].value is None
    }
