"""What each operation needs of its input's units, which of its own it computes, and how.

One rule for each kind of operation, for ``open_units``. The rules of a graph are asked once for
each set of masks: ``closed`` from the first node to the last, ``request`` from the last to the
first, ``step`` from the first to the last.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from math import prod
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.nn import functional as F
from typing_extensions import override

from bayesdrop.networks.tracing import shape_of
from bayesdrop.nn import BayesianDropout, BayesianWeights
from bayesdrop.ops.layout import memory_format_of

Values: TypeAlias = dict[fx.Node, Any]
Step: TypeAlias = Callable[[Values], Any]
"""Computes a node's value from those before it."""
_Cut: TypeAlias = tuple[Tensor, Tensor | None]  # a weight and a bias

_MOST = 7 / 8  # of the units: above it the copy of what is open costs more than it saves


class Shelf:
    """Keeps what would be computed again for every batch, as long as there is room.

    Args:
        room: Bytes for all of it.
    """

    def __init__(self, room: int) -> None:
        self.room = room

    def keeping(self, compute: Callable[[], _Cut]) -> Callable[[], _Cut]:
        """Return a function with the same value, which it computes once if it can keep it."""
        kept: list[_Cut] = []

        def value() -> _Cut:
            if kept:
                return kept[0]
            found = compute()
            size = sum(part.nbytes for part in found if part is not None)
            if size <= self.room:
                self.room -= size
                kept.append(found)
            return found

        return value


class View:
    """What is known of every tensor under one set of masks.

    Args:
        masks: The mask of each layer that has one for all examples, ``(K,)``.
        weights: The weights of each layer that has random ones.
        shelf: Keeps the open weights; None keeps none.
    """

    def __init__(
        self,
        masks: Mapping[BayesianDropout, Tensor],
        weights: Mapping[BayesianWeights, Tensor],
        shelf: Shelf | None = None,
    ) -> None:
        self.masks, self.weights, self.shelf = masks, weights, shelf or Shelf(0)
        self.open = {layer: (mask != 0).cpu() for layer, mask in masks.items()}
        self.closed: dict[fx.Node, Tensor] = {}
        self.needed: dict[fx.Node, Tensor] = {}
        self.kept: dict[fx.Node, Tensor] = {}

    def follow(self, rules: Mapping[fx.Node, Rule]) -> None:
        """Find out which units are zero, forwards, and which are needed, backwards.

        Args:
            rules: The rule of each node, in the order of the graph.
        """
        for node, rule in rules.items():
            self.needed[node] = torch.zeros(rule.size, dtype=torch.bool)
            closed = rule.closed(self)
            if closed is not None:
                self.closed[node] = closed
        for rule in reversed(list(rules.values())):
            rule.request(self)

    def request(self, node: fx.Node, units: Tensor | None = None) -> None:
        """Say that units of a tensor are needed, or all of them."""
        if node in self.needed:
            self.needed[node] |= True if units is None else units

    def is_kept(self, node: fx.Node, size: int) -> Tensor:
        """Return which units a tensor has, ``(K,)``."""
        kept = self.kept.get(node)
        if kept is None:
            return torch.ones(size, dtype=torch.bool)
        return torch.zeros(size, dtype=torch.bool).index_fill_(0, kept, True)


class Rule(ABC):
    """Abstract rule for one node.

    Args:
        node: The node.
        call: What it calls.
        dim: The dimension of its units.
    """

    keeps_zeros = False
    """Whether a unit that is zero in the input is zero in the output."""

    def __init__(self, node: fx.Node, call: Any, dim: int) -> None:
        self.node, self.call, self.dim = node, call, dim
        shape = shape_of(node)
        self.size = 0 if shape is None or len(shape) <= dim else int(shape[dim])
        self.is_prefix = False

    @property
    def input(self) -> fx.Node:
        """The tensor that comes in."""
        return self.node.all_input_nodes[0]

    def closed(self, view: View) -> Tensor | None:
        """Return which units are zero, ``(K,)``; None if none is known to be."""
        return None

    @abstractmethod
    def request(self, view: View) -> None:
        """Request of the inputs what the needed units depend on."""

    @abstractmethod
    def step(self, view: View, rules: Mapping[fx.Node, Rule]) -> Step:
        """Return how to compute the node, and note in ``view.kept`` which units it then has."""

    def whole(self, view: View) -> Step:
        """Return how to read all units of this node's value, zeros where it has none."""
        node, dim, size, kept = self.node, self.dim, self.size, view.kept.get(self.node)
        if kept is None:
            return operator.itemgetter(node)

        def filled(values: Values) -> Tensor:
            part: Tensor = values[node]
            shape = (*part.shape[:dim], size, *part.shape[dim + 1 :])
            return part.new_zeros(shape).index_copy_(dim, kept.to(part.device), part)

        return filled


class Opaque(Rule):
    """Any operation, run as it is on whole tensors."""

    @override
    def request(self, view: View) -> None:
        for source in self.node.all_input_nodes:
            view.request(source)

    @override
    def step(self, view: View, rules: Mapping[fx.Node, Rule]) -> Step:
        reads = {n: rules[n].whole(view) for n in self.node.all_input_nodes}
        call, args, kwargs = self.call, self.node.args, self.node.kwargs
        if len(args) == 1 and not kwargs and isinstance(args[0], fx.Node):
            read = reads[args[0]]
            return lambda values: call(read(values))

        def run(values: Values) -> Any:
            def value(n: fx.Node) -> Any:
                return reads[n](values)

            return call(*map_arg(args, value), **map_arg(kwargs, value))

        return run


class Unary(Opaque):
    """An operation on one tensor that keeps units apart.

    Args:
        node: The node.
        call: What it calls.
        dim: The dimension of its units.
        along: Whether that is also the dimension that the input is followed along.
    """

    def __init__(self, node: fx.Node, call: Any, dim: int, along: bool = True) -> None:
        super().__init__(node, call, dim)
        self.along = along

    def before(self, view: View) -> Tensor | None:
        """Return the units that the input has; None if all."""
        return view.kept.get(self.input) if self.along else None

    def closed_before(self, view: View) -> Tensor | None:
        """Return which units of the input are zero; None if none is known to be."""
        return view.closed.get(self.input) if self.along else None

    def read(self, view: View, rules: Mapping[fx.Node, Rule]) -> Step:
        """Return how to read the input: what it has, if that is known here."""
        return operator.itemgetter(self.input) if self.along else rules[self.input].whole(view)

    def missing(self, view: View, rules: Mapping[fx.Node, Rule]) -> bool:
        """Return whether units of the input that are needed here are left out, being zero."""
        if self.input not in view.kept:
            return False
        return bool((view.needed[self.node] & ~view.is_kept(self.input, self.size)).any())

    @override
    def request(self, view: View) -> None:
        view.request(self.input, view.needed[self.node])

    @override
    def step(self, view: View, rules: Mapping[fx.Node, Rule]) -> Step:
        if self.input not in view.kept or (not self.keeps_zeros and self.missing(view, rules)):
            return super().step(view, rules)
        view.kept[self.node] = view.kept[self.input]
        return self.on_part(view)

    def on_part(self, view: View) -> Step:
        """Return how to compute the units that are kept of an input that has no others."""
        source, call = self.input, self.call
        args, kwargs = self.node.args[1:], self.node.kwargs
        return lambda values: call(values[source], *args, **kwargs)


class Zeros(Unary):
    """One that maps zeros to zeros: ReLU, pooling."""

    keeps_zeros = True

    @override
    def closed(self, view: View) -> Tensor | None:
        return view.closed.get(self.input)


class Flatten(Zeros):
    """All dimensions after the first become one; the units are those of dimension 1."""

    @override
    def __init__(self, node: fx.Node, call: Any, dim: int) -> None:
        super().__init__(node, call, dim)
        shape = shape_of(self.input) or torch.Size()
        self.block = prod(shape[2:])

    @override
    def closed(self, view: View) -> Tensor | None:
        closed = view.closed.get(self.input)
        return None if closed is None else closed.repeat_interleave(self.block)

    @override
    def request(self, view: View) -> None:
        view.request(self.input, view.needed[self.node].reshape(-1, self.block).any(1))

    @override
    def on_part(self, view: View) -> Step:
        kept, source = view.kept[self.input], self.input
        view.kept[self.node] = (kept[:, None] * self.block + torch.arange(self.block)).flatten()
        return lambda values: values[source].flatten(1)


class Norm(Unary):
    """Batch norm in evaluation mode: a function of each unit."""

    @override
    def on_part(self, view: View) -> Step:
        m, source = self.call, self.input
        index = view.kept[source].to(m.running_mean.device)
        tensors = (m.running_mean, m.running_var, m.weight, m.bias)
        mean, var, weight, bias = (None if t is None else t[index] for t in tensors)
        return lambda values: F.batch_norm(
            values[source], mean, var, weight, bias, False, 0.0, m.eps
        )


class Weighted(Unary):
    """Linear, or a convolution with one group, whose weights may be random."""

    @override
    def request(self, view: View) -> None:
        closed = self.closed_before(view)
        view.request(self.input, None if closed is None else ~closed)

    @override
    def step(self, view: View, rules: Mapping[fx.Node, Rule]) -> Step:
        rows = None
        columns = self.before(view)
        if not self.is_prefix:
            rows = few(view.needed[self.node])
        if rows is None and columns is None:
            return super().step(view, rules)
        if rows is not None:
            view.kept[self.node] = rows
        layer, read, random = self.call, self.read(view, rules), view.weights.get(self.call)
        operate = layer.operate if isinstance(layer, BayesianWeights) else _operation(layer)
        device = layer.weight.device
        rows = None if rows is None else rows.to(device)
        columns = None if columns is None else columns.to(device)

        def cut() -> _Cut:
            weight, bias = layer.weight if random is None else random, layer.bias
            if rows is not None:
                weight = weight.index_select(0, rows)
                bias = None if bias is None else bias.index_select(0, rows)
            if columns is not None:
                weight = weight.index_select(1, columns)
            return weight.contiguous(memory_format=memory_format_of(layer.weight)), bias

        kept = view.shelf.keeping(cut)
        return lambda values: operate(read(values), *kept())


class Mask(Zeros):
    """A dropout layer: from here on its closed units are zero."""

    gathers = False
    """Whether nothing behind it needs whole tensors."""

    @override
    def closed(self, view: View) -> Tensor | None:
        before, mask = self.closed_before(view), view.open.get(self.call)
        if mask is None:
            return before
        return ~mask if before is None else ~mask | before

    @override
    def request(self, view: View) -> None:
        mask = view.open.get(self.call)
        if mask is None or not self.along:
            view.request(self.input)
        else:
            view.request(self.input, view.needed[self.node] & mask)

    @override
    def step(self, view: View, rules: Mapping[fx.Node, Rule]) -> Step:
        mask = view.masks.get(self.call)
        if mask is None:
            return Opaque.step(self, view, rules)
        before, read = self.before(view), self.read(view, rules)
        given = torch.ones(self.size, dtype=torch.bool)
        if before is not None:
            given = view.is_kept(self.input, self.size)
        wanted = given & view.needed[self.node] & ~view.closed[self.node]
        index = None
        if self.gathers and _count(wanted) <= _MOST * _count(given):
            if not wanted.any():
                wanted[given.nonzero()[0]] = True  # a convolution has at least one channel
            index = (given.cumsum(0) - 1)[wanted].to(mask.device)
            before = wanted.nonzero().flatten()
        if before is not None:
            view.kept[self.node] = before
            mask = mask[before.to(mask.device)]
        shape = shape_of(self.node) or torch.Size()
        factor = mask.reshape(-1, *[1] * (len(shape) - 1 - self.dim))
        dim, ones = self.dim, bool((factor == 1).all())

        def run(values: Values) -> Tensor:
            x: Tensor = read(values)
            if index is not None:
                x = x.index_select(dim, index)
            return x if ones and x.dtype == factor.dtype else x * factor

        return run


def few(units: Tensor) -> Tensor | None:
    """Return the units by number if they are few of all, at least one; None if not."""
    if _count(units) > _MOST * len(units):
        return None
    if not units.any():
        units = units.clone().index_fill_(0, torch.tensor(0), True)
    return units.nonzero().flatten()


def _count(units: Tensor) -> int:
    return int(torch.count_nonzero(units))


def _operation(layer: Any) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    return F.linear if isinstance(layer, nn.Linear) else layer._conv_forward
