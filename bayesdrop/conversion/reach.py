"""What of a graph is the network's own output: values with no layer between them and the end."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from bayesdrop.conversion.kinds import NORMALISATIONS
from bayesdrop.networks.operations import operation
from bayesdrop.nn import BayesianDropout

MIXES: set[Any] = {
    F.linear, F.bilinear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d,
    F.conv_transpose3d, F.embedding, F.multi_head_attention_forward,
    F.scaled_dot_product_attention, torch.conv1d, torch.conv2d, torch.conv3d, torch.matmul,
    torch.mm, torch.bmm, torch.mv, torch.addmm, torch.baddbmm, torch.einsum, torch.tensordot,
    operator.matmul, "matmul", "mm", "bmm", "mv", "addmm", "baddbmm",
}  # fmt: skip
"""Operations whose outputs mix the units of an input, by weights or by other values."""
_ASKS_FOR_SHAPE: set[Any] = {
    torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like, torch.rand_like,
    torch.randn_like, torch.numel, len, "size", "dim", "ndimension", "numel", "nelement",
    "stride", "new_zeros", "new_ones", "new_full", "new_empty", "new_tensor", "get_device",
}  # fmt: skip
_SHAPE_OF_SECOND = {"view_as", "reshape_as", "expand_as", "type_as"}
_OF_ONE_SHAPE = {
    torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like, torch.rand_like,
    torch.randn_like, "view_as", "reshape_as", "expand_as",
}  # fmt: skip
_VIEWS = ("T", "mT", "H", "mH", "data", "real", "imag")


def reaches_output(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Return whether a value is what the network returns, up to operations without weights.

    Flattening, means, softmax, interpolation, sums with other values and norms are such
    operations; a layer whose weights mix units is not.

    Args:
        node: The value.
        modules: The modules that the graph calls, by name.
    """
    seen, waiting = {node}, [node]
    while waiting:
        value = waiting.pop()
        for user in value.users:
            if user.op == "output":
                return True
            if user not in seen and _passes(user, value, modules):
                seen.add(user)
                waiting.append(user)
    return False


def asks_for_shape(node: fx.Node) -> bool:
    """Return whether an operation looks at a tensor's shape or type, not at its values."""
    if node.target is getattr:
        return node.args[1] in ("shape", "ndim", "dtype", "device", "is_cuda", "layout")
    return operation(node) in _ASKS_FOR_SHAPE


def sees_examples(node: fx.Node) -> bool:
    """Return whether a value depends on the network's input, or on the number of its examples.

    One that takes nothing of the input but other sizes, such as the table of positions of a
    sequence, is the same for all examples.

    Args:
        node: The value.
    """
    seen, waiting = set(), [node]
    while waiting:
        value = waiting.pop()
        if value.op == "placeholder" or operation(value) in (len, *_OF_ONE_SHAPE):
            return True
        if value not in seen:
            seen.add(value)
            sources = _sources(value)
            if sources is None:
                return True
            waiting += sources
    return False


def _sources(value: fx.Node) -> list[fx.Node] | None:
    """Return the values that one depends on; None if it may depend on the number of examples."""
    target, args = operation(value), value.args
    asked = args[0] if target is operator.getitem else None
    if isinstance(asked, fx.Node) and _is_shape(asked):
        return [] if _is_other(args[1]) else None
    if _is_shape(value):
        return None
    if target == "size":
        return [] if _is_other(args[-1]) else None
    if asks_for_shape(value) and not str(target).startswith("new_"):
        return []
    if str(target).startswith("new_"):
        args = args[1:]
    elif target in ("to", "type_as"):
        args = args[:1]
    found: list[fx.Node] = []
    fx.node.map_arg(args, found.append)
    return found + [node for node in value.kwargs.values() if isinstance(node, fx.Node)]


def _is_shape(value: fx.Node) -> bool:
    if value.target is getattr:
        return bool(value.args[1] == "shape")
    return operation(value) == "size" and len(value.args) + len(value.kwargs) == 1


def _is_other(dim: object) -> bool:
    """Return whether a dimension is not that of the examples."""
    return isinstance(dim, int) and (dim > 0 or dim == -1)


def _passes(user: fx.Node, value: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    if user.op == "call_module":
        module = modules[str(user.target)]
        if isinstance(module, (*NORMALISATIONS, BayesianDropout)):
            return True
        return all(parameter.ndim < 2 for parameter in module.parameters())
    if user.target in MIXES or user.target in _ASKS_FOR_SHAPE:
        return False
    if user.target is getattr:
        return user.args[1] in _VIEWS
    if user.target in _SHAPE_OF_SECOND:
        return user.args[0] is value
    return True
