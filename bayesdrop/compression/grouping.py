"""Plain networks of one origin that run as one: a matrix of blocks, products in a batch.

The networks' graphs are walked side by side. A tensor of all of them is one of three:

* *shared*: the same for all, ``(N, ...)``;
* *selected*: of a shared one, other units for each network. What is done to single units is done
  to the shared one;
* *grouped*: each network has its own numbers. Features are ``(K, N, ..., F)``; maps are
  ``(N, K F, ...)``, since a convolution in groups takes those. ``F`` is the number of units of the
  widest network; what the others lack has weights of 0.

A layer on shared inputs has the weights of all networks below each other, rows that several have
once; a layer on grouped ones multiplies in a batch, or in groups.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from bayesdrop.compression.alignment import UngroupedError, identity, rows_of, source_of
from bayesdrop.compression.blocks import bias_of, joined, like, padded, placed
from bayesdrop.compression.graph import shape_of
from bayesdrop.networks.operations import (
    CONVOLUTIONS,
    ELEMENTWISE,
    NORMS,
    PADDED_POOLS,
    POOLS,
    RECTIFIERS,
)
from bayesdrop.networks.shapes import Shapes

_UNITWISE = RECTIFIERS | ELEMENTWISE | {nn.Identity}
# Of the union of all networks' inputs to those of one: above it, each takes its own.
_MOST_OF_UNION = {nn.Linear: 3.0} | dict.fromkeys(CONVOLUTIONS, 1.5)
_LEAST_IN_COMMON = 0.75  # rows that differ, of all: above it, there is little to share


@dataclass(frozen=True)
class _Value:
    """A tensor of all networks.

    Args:
        node: What computes it.
        ndim: Number of dimensions of one network's.
        dim: The dimension of the units, in one network's; None if shared.
        units: Selected: each network's units.
        total: Selected: number of units of the shared one.
        sizes: Grouped: each network's number of units.
        width: Grouped: the number of units that all have, with those of no effect.
    """

    node: fx.Node
    ndim: int
    dim: int | None = None
    units: tuple[Tensor, ...] = ()
    total: int = 0
    sizes: tuple[int, ...] = ()
    width: int = 0

    @property
    def is_map(self) -> bool:
        """Whether a grouped tensor has its networks in the dimension of the units."""
        return bool(self.sizes) and self.dim == 1 and self.ndim > 2


class Grouping:
    """Makes one network of several.

    Args:
        members: What ``compact`` made of one network, with other masks each.
        example: Inputs.
        multiple_of: What the widest number of units is rounded up to a multiple of.
    """

    def __init__(
        self, members: Sequence[fx.GraphModule], example: tuple[Tensor, ...], multiple_of: int
    ) -> None:
        self.members, self.multiple_of = members, multiple_of
        self.graph = fx.Graph()
        self.parts: dict[str, Any] = {}
        self.values: dict[fx.Node, _Value] = {}
        self.device = example[0].device
        self.together: dict[fx.Node, tuple[fx.Node, ...]] = {}
        for member in members:
            Shapes(member).propagate(*example)

    def made(self) -> fx.GraphModule:
        """Return the network: outputs ``(K, N, ...)``.

        Raises:
            UngroupedError: If it cannot be made.
        """
        for nodes in rows_of([member.graph for member in self.members]):
            first = next(node for node in nodes if node is not None)
            if first.op == "output":
                self._finish(first)
                break
            places = self._places(first, nodes)
            value = self._value(first, nodes, places)
            for place in places:
                self.values[place] = value
                self.together[place] = places
        return fx.GraphModule(self.parts, self.graph, type(self.members[0]).__name__).eval()

    def _places(self, first: fx.Node, nodes: tuple[fx.Node | None, ...]) -> tuple[fx.Node, ...]:
        """Return the nodes after which each network has the value."""
        if None not in nodes:
            return tuple(node for node in nodes if node is not None)
        before = self.together[source_of(first)]
        places = tuple(n or b for n, b in zip(nodes, before, strict=True))
        without = [b for n, b in zip(nodes, before, strict=True) if n is None]
        if any(len(b.users) > 1 for b in without):
            raise UngroupedError("a tensor that goes elsewhere too")
        return places

    # -- operations ----------------------------------------------------------------------------

    def _value(
        self, first: fx.Node, nodes: tuple[fx.Node | None, ...], places: tuple[fx.Node, ...]
    ) -> _Value:
        ndim = len(shape_of(first) or ())
        if first.op == "placeholder":
            return _Value(self.graph.placeholder(first.name), ndim)
        pairs = list(zip(self.members, nodes, strict=True))
        if first.op == "call_module":
            modules = [m.get_submodule(str(n.target)) for m, n in pairs if n is not None]
            return replace(self._layer(first, modules), ndim=ndim)
        tensors = [[] if n is None else self._tensors(m, n) for m, n in pairs]
        known = next(of for n, of in zip(nodes, tensors, strict=True) if n is not None)
        for k, (node, place) in enumerate(zip(nodes, places, strict=True)):
            if node is None:
                tensors[k] = [identity(first, known, shape_of(place) or torch.Size())]
        return replace(self._operation(first, tensors), ndim=ndim)

    def _layer(self, node: fx.Node, modules: list[Any]) -> _Value:
        x, kind = self._input(node), type(modules[0])
        if kind is nn.Linear:
            return self._weighted(node, x, modules, x.ndim - 1)
        if kind in CONVOLUTIONS and modules[0].groups == 1:
            return self._weighted(node, x, modules, 1)
        if kind in NORMS:
            return self._norm(node, x, modules)
        pooled = {**POOLS, **PADDED_POOLS}.get(kind)
        if kind in _UNITWISE or pooled is not None:
            if pooled is not None and (x.sizes or x.units) and x.dim != 1:
                raise UngroupedError("pooling over units")
            self.parts[str(node.target)] = modules[0]
            return replace(x, node=self.graph.call_module(str(node.target), (x.node,)))
        raise UngroupedError(str(modules[0]))

    def _operation(self, node: fx.Node, tensors: list[list[Tensor]]) -> _Value:
        target, count = node.target, len(tensors[0])
        sources = [n for n in node.all_input_nodes if n.op != "get_attr"]
        x = self.values[source_of(node)]
        if target is torch.index_select and count == 1:
            return self._selected(node, x, [of[0].cpu() for of in tensors])
        binary = node.args[0] is sources[0] and len(node.args) == 2
        if target in (torch.mul, torch.add) and binary and count == 1:
            vectors = [of[0].flatten() for of in tensors]
            return self._with_vectors(f"{node.name}_vector", target, node, x, vectors)
        if target in (torch.add, operator.add) and len(sources) == 2 and not count:
            return self._sum(node, x, self.values[sources[1]])
        if count or len(sources) != 1 or node.args[:1] != (sources[0],):
            raise UngroupedError(str(target))
        if target is torch.flatten and node.args[1:] == (1,):
            return self._flat(node, x)
        pools = target in POOLS or target in PADDED_POOLS
        if target not in _UNITWISE and not (pools and x.dim in (None, 1)):
            raise UngroupedError(str(target))
        if node.op == "call_method":
            return replace(x, node=self.graph.call_method(str(target), (x.node,)))
        arguments = (x.node, *node.args[1:])
        return replace(x, node=self._call(target, *arguments, **node.kwargs))

    def _sum(self, node: fx.Node, x: _Value, y: _Value) -> _Value:
        if x.dim is not None or y.dim is not None:
            dim = x.dim if y.dim is None else y.dim
            left, right = node.all_input_nodes
            x, y = self._grouped(x, left, dim), self._grouped(y, right, dim)
        if (x.sizes, x.width, x.dim) != (y.sizes, y.width, y.dim):
            raise UngroupedError("a sum of other units")
        return replace(x, node=self._call(torch.add, x.node, y.node))

    def _call(self, function: Any, *args: Any, **kwargs: Any) -> fx.Node:
        return self.graph.call_function(function, args, kwargs)

    def _apart(self, x: fx.Node, dim: int, sizes: tuple[int, ...], width: int) -> fx.Node:
        """Return a tensor whose networks come first instead of side by side."""
        return self._call(
            torch.movedim, self._call(torch.unflatten, x, dim, (len(sizes), width)), dim, 0
        )

    def _weighted(self, node: fx.Node, x: _Value, modules: list[Any], dim: int) -> _Value:
        first = modules[0]
        if getattr(first, "padding_mode", "zeros") != "zeros":
            raise UngroupedError("padding that is not zero")
        weights = [m.weight.detach() for m in modules]
        biases = [bias_of(m) for m in modules]
        if x.dim is not None and x.dim != dim:
            raise UngroupedError("units in another dimension")
        if x.units:
            union = torch.cat(x.units).unique()
            if len(union) > _MOST_OF_UNION[type(first)] * max(map(len, x.units)):
                x = self._grouped(x, node.all_input_nodes[0], dim)
            else:
                weights = [
                    placed(w, torch.searchsorted(union, units), len(union))
                    for w, units in zip(weights, x.units, strict=True)
                ]
                source = x.node
                if len(union) < x.total:
                    source = self._taken(f"{node.name}_inputs", source, dim, union)
                x = _Value(source, x.ndim)
        if not x.sizes:
            return self._on_shared(node, x, first, weights, biases)
        return self._on_grouped(node, x, first, weights, biases)

    def _on_grouped(
        self, node: fx.Node, x: _Value, first: Any, weights: list[Tensor], biases: list[Tensor]
    ) -> _Value:
        """Return products in a batch, or a convolution in groups."""
        sizes, name = tuple(map(len, weights)), str(node.target)
        out = self._width(sizes)
        weight = torch.stack([padded(w, out, x.width) for w in weights])
        bias = torch.stack([padded(b, out) for b in biases])
        value = replace(x, sizes=sizes, width=out)
        if x.is_map:
            self.parts[name] = like(first, weight.flatten(0, 1), bias.flatten(), len(weights))
            return replace(value, node=self.graph.call_module(name, (x.node,)))
        self.parts[f"{name}.weight"] = nn.Parameter(weight.transpose(1, 2).contiguous())
        self.parts[f"{name}.bias"] = nn.Parameter(bias.unsqueeze(1).clone())
        w, b = (self.graph.get_attr(f"{name}.{part}") for part in ("weight", "bias"))
        middle = (shape_of(node) or torch.Size())[1:-1]
        if not middle:
            return replace(value, node=self._call(torch.baddbmm, b, x.node, w))
        flat = self._call(torch.flatten, x.node, 1, -2)
        made = self._call(torch.baddbmm, b, flat, w)
        return replace(value, node=self._call(torch.unflatten, made, 1, (-1, *middle)))

    def _on_shared(
        self, node: fx.Node, x: _Value, first: Any, weights: list[Tensor], biases: list[Tensor]
    ) -> _Value:
        """Return a layer of all networks' rows, each once if many are the same."""
        name, dim = str(node.target), 1 if isinstance(first, CONVOLUTIONS) else x.ndim - 1
        rows = [
            torch.cat([w.flatten(1), b[:, None]], 1) for w, b in zip(weights, biases, strict=True)
        ]
        unique, place = torch.cat(rows).unique(dim=0, return_inverse=True)
        sizes = tuple(map(len, weights))
        if len(unique) <= _LEAST_IN_COMMON * len(place):
            weight = unique[:, :-1].reshape(-1, *weights[0].shape[1:])
            self.parts[name] = like(first, weight, unique[:, -1])
            made = self.graph.call_module(name, (x.node,))
            units = tuple(place.cpu().split(sizes))
            return _Value(made, x.ndim, dim, units=units, total=len(unique))
        out = self._width(sizes)
        weight = torch.cat([padded(w, out, w.shape[1]) for w in weights])
        self.parts[name] = like(first, weight, torch.cat([padded(b, out) for b in biases]))
        made = self.graph.call_module(name, (x.node,))
        value = _Value(made, x.ndim, dim, sizes=sizes, width=out)
        if not value.is_map:
            value = replace(value, node=self._apart(made, dim, sizes, out))
        return value

    def _norm(self, node: fx.Node, x: _Value, modules: list[Any]) -> _Value:
        if modules[0].running_mean is None or x.dim not in (None, 1):
            raise UngroupedError("statistics of the batch")
        scales, shifts = [], []
        for m in modules:
            scale = (m.running_var.double() + m.eps).rsqrt()
            scale = scale if m.weight is None else scale * m.weight.detach().double()
            shift = 0.0 if m.bias is None else m.bias.detach().double()
            scales.append(scale.to(m.running_var))
            shifts.append((shift - scale * m.running_mean.double()).to(m.running_var))
        x = self._with_vectors(f"{node.target}.weight", torch.mul, node, x, scales)
        return self._with_vectors(f"{node.target}.bias", torch.add, node, x, shifts)

    def _with_vectors(
        self, name: str, function: Any, node: fx.Node, x: _Value, vectors: list[Tensor]
    ) -> _Value:
        """Return a function of a tensor and of a number for each unit."""
        dim = 1 if x.dim is None else x.dim
        tail = [1] * (x.ndim - 1 - dim)
        whole = None
        if not x.sizes:
            whole = joined(vectors, x.units or (torch.arange(len(vectors[0])),) * len(vectors))
        if whole is not None and (x.dim is None or len(whole) == x.total):
            value = whole.reshape(-1, *tail)
        else:
            x = self._grouped(x, node.all_input_nodes[0], dim)
            rows = torch.stack([padded(vector, x.width) for vector in vectors])
            ones = [1] * (x.ndim - 1)
            value = rows.reshape(-1, *(tail if x.is_map else (*ones, x.width)))
        self.parts[name] = value
        vector = self.graph.get_attr(name)
        return replace(x, node=self._call(function, x.node, vector))

    def _selected(self, node: fx.Node, x: _Value, index: list[Tensor]) -> _Value:
        dim = node.args[1]
        if not isinstance(dim, int):
            raise UngroupedError("a dimension that is computed")
        if x.dim is None:
            total = int((shape_of(node.all_input_nodes[0]) or ())[dim])
            return replace(x, dim=dim, units=tuple(index), total=total)
        if x.dim != dim:
            raise UngroupedError("units in two dimensions")
        if x.units:
            pairs = zip(x.units, index, strict=True)
            return replace(x, units=tuple(units[i] for units, i in pairs))
        flat, sizes = x.node, tuple(map(len, index))
        out = self._width(sizes)
        if not x.is_map:
            flat = self._call(torch.movedim, flat, 0, dim)
            flat = self._call(torch.flatten, flat, dim, dim + 1)
        places = torch.cat([padded(i, out) + k * x.width for k, i in enumerate(index)])
        made = self._taken(node.name, flat, dim, places)
        if not x.is_map:
            made = self._apart(made, dim, sizes, out)
        return replace(x, node=made, sizes=sizes, width=out)

    def _flat(self, node: fx.Node, x: _Value) -> _Value:
        block = prod((shape_of(node.all_input_nodes[0]) or torch.Size())[2:])
        if x.dim not in (None, 1):
            raise UngroupedError("units in another dimension")
        if not x.sizes:
            inside = torch.arange(block)
            units = tuple((u[:, None] * block + inside).flatten() for u in x.units)
            made = self._call(torch.flatten, x.node, 1)
            return replace(x, node=made, units=units, total=x.total * block)
        if not x.is_map:
            return x
        made = self._call(torch.flatten, self._apart(x.node, 1, x.sizes, x.width), 2)
        sizes = tuple(size * block for size in x.sizes)
        return replace(x, node=made, sizes=sizes, width=x.width * block)

    # -- forms of tensors ----------------------------------------------------------------------

    def _grouped(self, x: _Value, source: fx.Node, dim: int | None) -> _Value:
        """Return the grouped form of a tensor."""
        if x.sizes:
            return x
        if dim is None:
            raise UngroupedError("nothing but shared tensors")
        units = x.units
        if not units:
            every = torch.arange(int((shape_of(source) or ())[dim]))
            units = (every,) * len(self.members)
        sizes = tuple(map(len, units))
        out = self._width(sizes)
        places = torch.cat([padded(u, out) for u in units])
        made = self._taken(f"{source.name}_each", x.node, dim, places)
        value = _Value(made, x.ndim, dim, sizes=sizes, width=out)
        if not value.is_map:
            value = replace(value, node=self._apart(made, dim, sizes, out))
        return value

    def _taken(self, name: str, x: fx.Node, dim: int, units: Tensor) -> fx.Node:
        while f"{name}_index" in self.parts:
            name += "_"
        self.parts[f"{name}_index"] = units.to(self.device)
        index = self.graph.get_attr(f"{name}_index")
        return self._call(torch.index_select, x, dim, index)

    def _width(self, sizes: tuple[int, ...]) -> int:
        return -(-max(sizes) // self.multiple_of) * self.multiple_of

    def _finish(self, node: fx.Node) -> None:
        source = node.args[0]
        if not isinstance(source, fx.Node):
            raise UngroupedError("several outputs")
        x = self.values[source]
        dim = x.dim if x.dim is not None else x.ndim - 1
        x = self._grouped(x, source, dim)
        if len({*x.sizes}) > 1:
            raise UngroupedError("outputs of other sizes")
        made = x.node
        if x.is_map:
            made = self._apart(made, 1, x.sizes, x.width)
        if x.width > x.sizes[0]:
            made = self._call(torch.narrow, made, dim + 1, 0, x.sizes[0])
        self.graph.output(made)

    def _input(self, node: fx.Node) -> _Value:
        if len(node.args) != 1 or node.kwargs or not isinstance(node.args[0], fx.Node):
            raise UngroupedError("further arguments")
        return self.values[node.args[0]]

    @staticmethod
    def _tensors(member: fx.GraphModule, node: fx.Node) -> list[Tensor]:
        read = [str(n.target) for n in node.all_input_nodes if n.op == "get_attr"]
        return [operator.attrgetter(name)(member) for name in read]
