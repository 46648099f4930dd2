"""Which rule an operation has."""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from bayesdrop.compression.arithmetic import OPERATIONS, Binary, units_of
from bayesdrop.compression.flow import Flow, Opaque, Rule
from bayesdrop.compression.gate import Gate
from bayesdrop.compression.graph import reordered, shape_of
from bayesdrop.compression.grouped import Grouped, GroupedNorm
from bayesdrop.compression.movement import (
    Choice,
    Join,
    Move,
    Shuffle,
    UnitCount,
    moved,
    piece,
    pieces,
)
from bayesdrop.compression.readers import recurrent_rule, takes
from bayesdrop.compression.recurrent import Recurrent
from bayesdrop.compression.rules import (
    Elementwise,
    Flatten,
    Mask,
    Norm,
    PaddedPool,
    Pool,
    Rectifier,
    ShapeQuery,
    Slope,
)
from bayesdrop.compression.weighted import Depthwise, Lookup, MaskedLookup, Transposed, Weighted
from bayesdrop.networks.operations import (
    CONVOLUTIONS,
    ELEMENTWISE,
    INSTANCE_NORMS,
    MOVES,
    NORMS,
    PADDED_POOLS,
    POOLS,
    RECTIFIERS,
    RESIZES,
    TRANSPOSED,
)
from bayesdrop.nn import BayesianDropout, DropoutEmbedding, InnerMasks

_FACTS = ("ndim", "dtype", "device", "is_cuda", "layout", "requires_grad")
_OTHER_QUERIES = {"dim", "ndimension", "get_device", "is_floating_point", torch.is_floating_point}


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
        elif node.op == "call_module":
            rule = self._recurrent(node, self.flow.source.get_submodule(str(node.target)))
        elif node.op in ("call_function", "call_method"):
            rule = recurrent_rule(self.flow, node)
            if rule is None:
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
            self._open(node, module)
            return None
        if kind is nn.Linear:
            return Weighted(self.flow, node, ndim - 1)
        if kind in CONVOLUTIONS:
            return self._convolution(node, module, ndim)
        if kind in TRANSPOSED and cast(Any, module).groups == 1:
            return Transposed(self.flow, node, ndim + 1 - cast(Any, module).weight.ndim)
        if kind in (nn.Embedding, nn.EmbeddingBag) and cast(Any, module).max_norm is None:
            return Lookup(self.flow, node, ndim - 1)
        if kind is DropoutEmbedding:
            return MaskedLookup(self.flow, node, ndim - 1)
        return self._by_unit(node, kind, cast(Any, module)) or self._unary(node, kind, module)

    def _recurrent(self, node: fx.Node, module: nn.Module) -> Rule | None:
        if not takes(module):
            return None
        hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
        shared = any(id(parameter) in self.shared for parameter in module.parameters())
        if hooks:
            self._open(node, module)
            return None
        whole = self.calls[str(node.target)] > 1 or shared
        if whole and not isinstance(module, InnerMasks):
            return None
        return Recurrent(self.flow, node, whole=whole)

    def _open(self, node: fx.Node, module: nn.Module) -> None:
        """Make a layer that stays whole a plain one, with its mean masks in its weights."""
        plain = module.with_mean_masks() if isinstance(module, InnerMasks) else None
        if plain is not None:
            self.flow.source.set_submodule(str(node.target), plain)

    def _by_unit(self, node: fx.Node, kind: type[nn.Module], module: Any) -> Rule | None:
        """Return the rule of a norm, or of an activation with parameters."""
        dim, ndim = self._tracked(node), len(shape_of(node) or ())
        if not self._sliceable(node, module):
            return None
        if kind in INSTANCE_NORMS and ndim == 3 + INSTANCE_NORMS.index(kind):
            return Norm(self.flow, node, 1)
        if kind in NORMS and isinstance(module.running_mean, Tensor):
            return Norm(self.flow, node, 1)
        if kind is nn.GroupNorm and dim == 1:
            return GroupedNorm(self.flow, node, 1)
        if kind is nn.PReLU and (module.num_parameters == 1 or dim == 1):
            return Slope(self.flow, node, dim)
        return None

    def _convolution(self, node: fx.Node, module: Any, ndim: int) -> Rule | None:
        dim = ndim + 1 - module.weight.ndim
        if module.groups == 1:
            return Weighted(self.flow, node, dim)
        source = node.all_input_nodes[0]
        if module.groups == module.in_channels == module.out_channels:
            # Where the source has other units than channels, there is none to leave out.
            if self._tracked(node) == dim and (shape_of(source) or ())[dim] == module.groups:
                return Depthwise(self.flow, node, dim)
        return Grouped(self.flow, node, dim)

    def _sliceable(self, node: fx.Node, module: nn.Module) -> bool:
        hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
        shared = any(id(parameter) in self.shared for parameter in module.parameters())
        single = len(node.args) == 1 and not node.kwargs
        return single and self.calls[str(node.target)] == 1 and not hooks and not shared

    def _operation(self, node: fx.Node) -> Rule | None:
        flow = self.flow
        if node.target in OPERATIONS:
            dim = units_of(flow, node)
            return None if dim is None else Binary(flow, node, dim)
        if node.target in (torch.cat, torch.concat):
            return self._join(node)
        if node.target is reordered:
            index = torch.tensor(node.args[1])
            source = node.all_input_nodes[0]
            kept = self._tracked(node) == 1 and flow.rules[source].counted
            return Choice(flow, node, 1, source, index) if kept else None
        if node.target in RESIZES or node.target is F.pad:
            return self._resize(node, node.target)
        rule = self._unary(node, node.target, None)
        if rule is not None or node.target not in MOVES or not node.all_input_nodes:
            return rule
        return piece(flow, node) or moved(flow, node)

    def _join(self, node: fx.Node) -> Rule | None:
        arguments = dict(zip(("tensors", "dim"), node.args, strict=False)) | node.kwargs
        parts, along = arguments.get("tensors"), arguments.get("dim", 0)
        shape = shape_of(node) or ()
        if (
            len(node.args) == 0
            or not isinstance(along, int)
            or not isinstance(parts, list | tuple)
        ):
            return None
        dim = along % len(shape)
        rules = [self.flow.rules[part] for part in parts if isinstance(part, fx.Node)]
        if any(rule.dim == dim and rule.counted for rule in rules):
            return Join(self.flow, node, dim)
        return None

    def _resize(self, node: fx.Node, kind: Any) -> Rule | None:
        """Return the rule of what changes the places of units, and keeps zero units zero."""
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or shape_of(node) is None:
            return None
        dim, ndim = self._tracked(node), len(shape_of(node) or ())
        if kind is F.pad:
            padding = node.args[1] if len(node.args) > 1 else node.kwargs.get("pad")
            value = node.kwargs.get("value", node.args[3] if len(node.args) > 3 else None)
            if not isinstance(padding, list | tuple) or value not in (None, 0):
                return None
            inside = dim < ndim - len(padding) // 2
        else:
            inside = dim == 1
        tensors = [n for n in node.all_input_nodes if shape_of(n) is not None]
        return PaddedPool(self.flow, node, dim) if inside and tensors == [source] else None

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
        if kind in RESIZES and module is not None:
            return self._resize(node, kind)
        if kind in (nn.PixelShuffle, F.pixel_shuffle):
            return Shuffle(flow, node, 1) if dim == 1 and len(before) == 4 else None
        if kind in (nn.PixelUnshuffle, F.pixel_unshuffle):
            return Flatten(flow, node, 1) if dim == 1 and len(before) == 4 else None
        spatial = {**POOLS, **PADDED_POOLS}.get(kind)
        if spatial is not None:
            return self._pool(node, dim, spatial, kind, module)
        if kind in (torch.mean, "mean"):
            return self._mean(node, dim, len(before), len(after))
        return None

    def _mean(self, node: fx.Node, dim: int, before: int, after: int) -> Rule | None:
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        dims = (dims,) if isinstance(dims, int) else dims
        if not isinstance(dims, tuple | list) or not all(isinstance(d, int) for d in dims):
            return None
        places = [d % before for d in dims]
        if not places or dim in places:
            return None
        gone = sum(d < dim for d in places) if after < before else 0
        return Move(self.flow, node, dim - gone, dim) if gone else Pool(self.flow, node, dim)

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
        if source is None:
            return None
        shape = shape_of(source)
        if shape is None:
            return self._size(node, source)
        if node.target in _OTHER_QUERIES or (node.target is getattr and node.args[1] in _FACTS):
            return ShapeQuery(self.flow, node, 0)
        if node.target == "size" and len(node.args) == 2:
            return self._asked(node, source, [node.args[1]])
        if node.target == "size" or (node.target is getattr and node.args[1] == "shape"):
            users = list(node.users)
            if all(user.target is operator.getitem for user in users):
                return self._asked(node, source, [user.args[1] for user in users])
            return None
        return pieces(self.flow, node)

    def _asked(self, node: fx.Node, source: fx.Node, asked: list[Any]) -> Rule | None:
        """Return the rule of a query of sizes, which knows the number of units."""
        rule, ndim = self.flow.rules[source], len(shape_of(source) or ())
        if node.target == "size" and len(node.args) == 2 and isinstance(asked[0], int):
            if asked[0] % ndim == rule.dim:
                return UnitCount(self.flow, node, 0) if rule.counted else None
        for index in asked:
            if isinstance(index, slice):
                ends = (index.start, index.stop, index.step)
                if any(isinstance(end, fx.Node) for end in ends) or rule.dim in range(ndim)[index]:
                    return None
            elif not isinstance(index, int) or (index % ndim == rule.dim and not rule.counted):
                return None
        return ShapeQuery(self.flow, node, 0)

    def _size(self, node: fx.Node, query: fx.Node) -> Rule | None:
        """Return the rule of one of the sizes that a query has found."""
        if not isinstance(self.flow.rules[query], ShapeQuery) or not query.all_input_nodes:
            return None
        source, index = query.all_input_nodes[0], node.args[1] if len(node.args) > 1 else None
        rule, ndim = self.flow.rules[source], len(shape_of(source) or ())
        if node.target is operator.getitem and isinstance(index, int) and ndim:
            return UnitCount(self.flow, node, 0) if index % ndim == rule.dim else None
        return None
