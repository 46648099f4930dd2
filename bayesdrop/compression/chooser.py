"""Which rule an operation has."""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn

from bayesdrop.compression.flow import Flow, Opaque, Rule
from bayesdrop.compression.gate import Gate
from bayesdrop.compression.graph import shape_of
from bayesdrop.compression.rules import (
    Add,
    Depthwise,
    Elementwise,
    Flatten,
    Mask,
    Norm,
    PaddedPool,
    Pool,
    Rectifier,
    ShapeQuery,
    Weighted,
)
from bayesdrop.networks.operations import (
    CONVOLUTIONS,
    ELEMENTWISE,
    NORMS,
    PADDED_POOLS,
    POOLS,
    RECTIFIERS,
)
from bayesdrop.nn import BayesianDropout


class Chooser:
    """Finds the rule for a node.

    Args:
        flow: The analysis, of which the rules of the nodes before are known.
    """

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        nodes = flow.source.graph.nodes
        self.calls = Counter(str(n.target) for n in nodes if n.op == "call_module")
        read = [str(n.target) for n in nodes if n.op == "get_attr"]
        owners = Counter(
            id(parameter)
            for name in self.calls
            for parameter in flow.source.get_submodule(name).parameters()
        )
        owners.update(id(operator.attrgetter(name)(flow.source)) for name in read)
        self.shared = {key for key, count in owners.items() if count > 1}

    def __call__(self, node: fx.Node) -> Rule:
        """Return the rule of a node."""
        shape = shape_of(node)
        if node.op == "call_module" and shape is not None:
            rule = self._layer(node, self.flow.source.get_submodule(str(node.target)))
        elif node.op in ("call_function", "call_method"):
            rule = self._shape_query(node) if shape is None else self._operation(node)
        else:
            rule = None
        if rule is not None:
            return rule
        return Opaque(self.flow, node, 1 if shape is not None and len(shape) > 1 else 0)

    def _layer(self, node: fx.Node, module: nn.Module) -> Rule | None:
        ndim = len(shape_of(node) or ())
        if isinstance(module, BayesianDropout):
            rule = Gate if module.input_dependent else Mask
            return rule(self.flow, node, ndim + module.unit_dim)
        kind = type(module)
        if next(module.parameters(), None) is not None and not self._sliceable(node, module):
            return None
        if kind is nn.Linear:
            return Weighted(self.flow, node, ndim - 1)
        if kind in CONVOLUTIONS:
            return self._convolution(node, module, ndim)
        if kind in NORMS and isinstance(module.running_mean, Tensor):
            return Norm(self.flow, node, 1) if self._sliceable(node, module) else None
        return self._unary(node, kind, module)

    def _convolution(self, node: fx.Node, module: Any, ndim: int) -> Rule | None:
        dim = ndim + 1 - module.weight.ndim
        if module.groups == 1:
            return Weighted(self.flow, node, dim)
        channels = shape_of(node.all_input_nodes[0]) or ()
        if module.groups == module.in_channels == module.out_channels:
            if self._tracked(node) == dim and channels[dim] == module.groups:
                return Depthwise(self.flow, node, dim)
        return None

    def _sliceable(self, node: fx.Node, module: nn.Module) -> bool:
        hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
        shared = any(id(parameter) in self.shared for parameter in module.parameters())
        single = len(node.args) == 1 and not node.kwargs
        return single and self.calls[str(node.target)] == 1 and not hooks and not shared

    def _operation(self, node: fx.Node) -> Rule | None:
        if node.target in (operator.add, torch.add) and len(node.args) == 2 and not node.kwargs:
            shapes = [shape_of(n) for n in node.args if isinstance(n, fx.Node)]
            if len(shapes) == 2 and shapes[0] == shapes[1] == shape_of(node):
                return Add(self.flow, node, self._tracked(node))
            return None
        return self._unary(node, node.target, None)

    def _unary(self, node: fx.Node, kind: Any, module: nn.Module | None) -> Rule | None:
        if len(node.all_input_nodes) != 1 or node.args[:1] != tuple(node.all_input_nodes):
            return None
        source = node.all_input_nodes[0]
        before, after = shape_of(source), shape_of(node)
        if before is None or after is None:
            return None
        dim, flow = self._tracked(node), self.flow
        if kind in RECTIFIERS or kind in ELEMENTWISE:
            return (Rectifier if kind in RECTIFIERS else Elementwise)(flow, node, dim)
        if kind is torch.flatten:
            return Flatten(flow, node, 1) if node.args[1:] == (1,) and dim == 1 else None
        spatial = {**POOLS, **PADDED_POOLS}.get(kind)
        if spatial is not None:
            return self._pool(node, dim, spatial, kind, module)
        if kind in (torch.mean, "mean"):
            dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
            dims = (dims,) if isinstance(dims, int) else dims
            inside = isinstance(dims, (tuple, list)) and all(
                isinstance(d, int) and d % len(before) > dim for d in dims
            )
            return Pool(flow, node, dim) if inside and dims else None
        return None

    def _pool(
        self, node: fx.Node, dim: int, spatial: int, kind: Any, module: nn.Module | None
    ) -> Rule | None:
        if dim >= len(shape_of(node) or ()) - spatial:
            return None
        # The arguments of the functions are not looked at.
        plain = (
            module is not None
            and getattr(module, "padding", 0) in (0, (0,), (0, 0), (0, 0, 0))
            and getattr(module, "divisor_override", None) is None
        )
        pads = kind in PADDED_POOLS and not plain
        return (PaddedPool if pads else Pool)(self.flow, node, dim)

    def _tracked(self, node: fx.Node) -> int:
        return self.flow.rules[node.all_input_nodes[0]].dim

    def _shape_query(self, node: fx.Node) -> Rule | None:
        source = node.all_input_nodes[0] if node.all_input_nodes else None
        shape = None if source is None else shape_of(source)
        if source is None or shape is None:
            return None
        if node.target == "size" and len(node.args) == 2:
            asked = [node.args[1]]
        elif node.target == "size" or node.target is getattr:
            asked = [
                user.args[1] if user.target is operator.getitem else None for user in node.users
            ]
        else:
            return None
        units = self.flow.rules[source].dim
        if all(isinstance(i, int) and i % len(shape) != units for i in asked):
            return ShapeQuery(self.flow, node, 0)
        return None
