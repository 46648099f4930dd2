"""Which rule of ``unit_rules`` a node of a graph has."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from bayesdrop.inference.unit_rules import (
    Flatten,
    Mask,
    Norm,
    Opaque,
    Rule,
    Unary,
    Weighted,
    Zeros,
)
from bayesdrop.networks.operations import (
    CONVOLUTIONS,
    ELEMENTWISE,
    NORMS,
    PADDED_POOLS,
    POOLS,
    RECTIFIERS,
)
from bayesdrop.networks.tracing import shape_of
from bayesdrop.nn import BayesianDropout, BayesianWeights, BernoulliDropout

_PASSES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
           nn.FeatureAlphaDropout)  # fmt: skip
_FLATTENS = {torch.flatten, torch.reshape, "flatten", "reshape", "view"}
_FORWARDS = {BayesianDropout.forward, BernoulliDropout.forward}


def rule_for(node: fx.Node, call: Any, dims: Mapping[fx.Node, int]) -> Rule:
    """Return the rule for a node.

    Args:
        node: A node with the shape of its value.
        call: What it calls: a module, a function, or a method's name as a function.
        dims: The dimension of the units of each node before it.
    """
    shape = shape_of(node)
    one = len(node.all_input_nodes) == 1 and node.args[:1] == tuple(node.all_input_nodes)
    found = None
    if shape is not None and one and shape_of(node.all_input_nodes[0]) is not None:
        dim = dims[node.all_input_nodes[0]]
        found = _layer(node, call, dim) if isinstance(call, nn.Module) else None
        if found is None:
            kind = type(call) if node.op == "call_module" else node.target
            found = _unary(node, call, kind, dim)
    return found or Opaque(node, call, 1 if shape is not None and len(shape) > 1 else 0)


def _layer(node: fx.Node, layer: Any, dim: int) -> Rule | None:
    ndim = len(shape_of(node) or ())
    if "forward" in vars(layer) or len(node.args) > 1 or node.kwargs:
        return None
    if isinstance(layer, BayesianDropout):
        plain = type(layer).forward in _FORWARDS
        plain = plain and type(layer).sample_mask is BayesianDropout.sample_mask
        own = ndim + layer.unit_dim
        return Mask(node, layer, own, own == dim) if plain else None
    if isinstance(layer, BayesianWeights):
        plain = type(layer).forward is BayesianWeights.forward
        plain = plain and type(layer).operate is BayesianWeights.operate
        one = getattr(layer.plain, "groups", 1) == 1
        own = ndim + layer.kind.unit_dim
        return Weighted(node, layer, own, own == dim) if plain and one else None
    if type(layer) is nn.Linear and {"weight", "bias"} == set(layer._parameters):
        return Weighted(node, layer, ndim - 1, ndim - 1 == dim)
    if type(layer) in CONVOLUTIONS and {"weight", "bias"} == set(layer._parameters):
        own = ndim + 1 - layer.weight.ndim
        return Weighted(node, layer, own, own == dim) if layer.groups == 1 else None
    if type(layer) in NORMS and isinstance(layer.running_mean, Tensor) and dim == 1:
        return Norm(node, layer, 1)
    return None


def _unary(node: fx.Node, call: Any, kind: Any, dim: int) -> Rule | None:
    source = node.all_input_nodes[0]
    before, after = shape_of(source) or torch.Size(), shape_of(node) or torch.Size()
    if kind in RECTIFIERS or kind in ELEMENTWISE:
        zero = torch.zeros(1)
        value = call(zero, *node.args[1:], **node.kwargs)
        return (Zeros if bool(value == 0) else Unary)(node, call, dim)
    if isinstance(kind, type) and issubclass(kind, _PASSES):
        return Zeros(node, call, dim)
    pooled = {**POOLS, **PADDED_POOLS}.get(kind)
    if pooled is not None:
        return Zeros(node, call, dim) if dim < len(after) - pooled else None
    if kind is nn.Flatten or kind in _FLATTENS:
        flat = len(before) > 1 and tuple(after) == (before[0], prod(before[1:]))
        return Flatten(node, call, 1) if flat and dim == 1 else None
    if kind in (torch.mean, "mean"):
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        dims = (dims,) if isinstance(dims, int) else dims
        if isinstance(dims, tuple | list) and dims:
            inside = all(isinstance(d, int) and d % len(before) > dim for d in dims)
            return Zeros(node, call, dim) if inside else None
    return None
