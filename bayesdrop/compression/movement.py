"""Rules for operations that move units about, or numbers within units, and compute nothing."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from typing_extensions import override

from bayesdrop.compression.flow import Flow, Opaque, Rule
from bayesdrop.compression.graph import called, concrete, shape_of
from bayesdrop.compression.rules import Unary

_CUTS = {
    torch.chunk, torch.split, torch.tensor_split, "chunk", "split", "tensor_split",
}  # fmt: skip
_SIZED = {torch.reshape, "reshape", "view", "expand"}


class Move(Unary):
    """Numbers go to other places, units stay in order, such as a permutation of dimensions.

    Args:
        flow: As for every rule.
        node: As for every rule.
        dim: The dimension of the units in the output.
        source_dim: That in the input.
    """

    def __init__(self, flow: Flow, node: fx.Node, dim: int, source_dim: int) -> None:
        super().__init__(flow, node, dim)
        self.source_dim = source_dim

    @override
    def constant(self) -> Tensor:
        return self.flow.constant_along(self.input, self.source_dim)

    @override
    def request(self, needed: Tensor) -> None:
        self.flow.request(self.input, self.source_dim, needed)

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        kept = self.flow.kept_along(self.input, self.source_dim)
        node, _ = Opaque.emit(self)
        if len(kept) < self.size and self.node.target in _SIZED:
            nested = isinstance(node.args[1], list | tuple)
            sizes = list(node.args[1] if nested else node.args[1:])  # type: ignore[arg-type]
            if sizes[self.dim] != -1:
                sizes[self.dim] = len(kept)
            node.args = (node.args[0], tuple(sizes)) if nested else (node.args[0], *sizes)
        return node, kept


class Choice(Rule):
    """Some of the units, in any order: a slice, a piece of a chunk, a channel shuffle.

    Args:
        flow: As for every rule.
        node: As for every rule.
        dim: The dimension of the units.
        source: The tensor.
        index: For each unit of the output its place in the input.
    """

    def __init__(
        self, flow: Flow, node: fx.Node, dim: int, source: fx.Node, index: Tensor
    ) -> None:
        super().__init__(flow, node, dim)
        self.inputs, self.index = [source], index

    @override
    def constant(self) -> Tensor:
        return self.flow.constant_along(self.inputs[0], self.dim)[self.index]

    @override
    def request(self, needed: Tensor) -> None:
        wanted = torch.zeros((shape_of(self.inputs[0]) or ())[self.dim], dtype=torch.bool)
        wanted[self.index[needed & self.flow.constant[self.node].isnan()]] = True
        self.flow.request(self.inputs[0], self.dim, wanted)

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        flow, wanted = self.flow, self.wanted
        known = flow.constant_along(self.inputs[0], self.dim)
        index = self.index[wanted]
        made = flow.reindexed(self.node.name, self.inputs[0], self.dim, index, known)
        return made, wanted


class Pieces(Opaque):
    """A chunk or split along the units, of which only the pieces are used."""

    @override
    def request(self, needed: Tensor) -> None:
        pass


class Join(Rule):
    """A concatenation along the units."""

    @property
    def sizes(self) -> list[int]:
        """The number of units of each part."""
        return [int((shape_of(part) or ())[self.dim]) for part in self.parts]

    @property
    def parts(self) -> list[fx.Node]:
        """What is concatenated."""
        return list(self.node.args[0])  # type: ignore[arg-type]

    @override
    def constant(self) -> Tensor:
        return torch.cat([self.flow.constant_along(part, self.dim) for part in self.parts])

    @override
    def request(self, needed: Tensor) -> None:
        for part, own in zip(self.parts, needed.split(self.sizes), strict=True):
            missing = self.flow.constant_along(part, self.dim).isnan()
            self.flow.request(part, self.dim, own & missing)

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        flow, made, kept, before = self.flow, [], [], 0
        for number, (part, size) in enumerate(zip(self.parts, self.sizes, strict=True)):
            known = flow.constant_along(part, self.dim)
            own = flow.needed[self.node][before : before + size]
            has = torch.zeros(size, dtype=torch.bool)
            has[flow.kept_along(part, self.dim)] = True
            # A part's units that another operation needs come along; constants are made here.
            units = (has | own).nonzero().flatten() if own.any() else own.nonzero().flatten()
            if len(units):
                name = f"{self.node.name}_{number}"
                made.append(flow.reindexed(name, part, self.dim, units, known))
                kept.append(units + before)
            before += size
        if len(made) == 1:
            return made[0], kept[0]
        node = flow.graph.call_function(torch.cat, (made, self.dim))
        return node, torch.cat(kept)


class Shuffle(Rule):
    """``nn.PixelShuffle``: each unit of the output is made of several of the input."""

    @property
    def block(self) -> int:
        """Number of input units of one of the output."""
        return len(self.flow.constant[self.inputs[0]]) // self.size

    @override
    def constant(self) -> Tensor:
        known = self.flow.constant_along(self.inputs[0], self.dim).reshape(-1, self.block)
        return torch.where((known == known[:, :1]).all(1), known[:, 0], float("nan"))

    @override
    def request(self, needed: Tensor) -> None:
        wanted = needed & self.flow.constant[self.node].isnan()
        self.flow.request(self.inputs[0], self.dim, wanted.repeat_interleave(self.block))

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        flow, wanted = self.flow, self.wanted
        units = (wanted[:, None] * self.block + torch.arange(self.block)).flatten()
        known = flow.constant_along(self.inputs[0], self.dim)
        made = flow.reindexed(self.node.name, self.inputs[0], self.dim, units, known)
        factor = round(self.block**0.5)
        return flow.graph.call_function(nn.functional.pixel_shuffle, (made, factor)), wanted


class UnitCount(Opaque):
    """The number of units, which stays what it was in the full network."""

    @override
    def request(self, needed: Tensor) -> None:
        pass

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        shape, index = self.inputs[0], self.node.args[1]
        source = shape if self.node.target == "size" else shape.all_input_nodes[0]
        if not isinstance(index, int):
            raise TypeError(f"UnitCount: expected one dimension, got {index}")
        full = (shape_of(source) or ())[index]
        if len(self.flow.kept_along(source, index % len(shape_of(source) or ()))) == full:
            return super().emit()
        return int(full), torch.arange(0)  # type: ignore[return-value]


def moved(flow: Flow, node: fx.Node) -> Rule | None:
    """Return the rule of an operation that moves numbers, if it keeps units apart.

    It is run on the numbers of the units, to see where they go.

    Args:
        flow: What is known so far.
        node: The operation.
    """
    source = node.all_input_nodes[0]
    shape, after = shape_of(source), shape_of(node)
    if shape is None or after is None or node.args[0] is not source:
        return None
    dim, arguments = flow.rules[source].dim, concrete((node.args[1:], node.kwargs))
    if arguments is None or shape[dim] < 2 or not _is_plain(node, dim, after):
        return None
    units = torch.arange(shape[dim]).reshape(-1, *[1] * (len(shape) - 1 - dim))
    found = _along(called(node.target, units.expand(shape).contiguous(), *arguments))
    if found is None:
        return None
    new_dim, index = found
    same = torch.equal(index, torch.arange(shape[dim]))
    if same and (node.target in _SIZED or _takes_other_numbers(node, dim, new_dim, arguments)):
        return Move(flow, node, new_dim, dim)
    if new_dim != dim or not flow.rules[source].counted:
        return None
    places = torch.arange(shape.numel()).reshape(shape)
    if not torch.equal(called(node.target, places, *arguments), places.index_select(dim, index)):
        return None
    return Choice(flow, node, dim, source, index)


def _takes_other_numbers(node: fx.Node, dim: int, new_dim: int, arguments: Any) -> bool:
    """Return whether an operation that leaves units in order does so with more of them."""
    shape = shape_of(node.all_input_nodes[0]) or torch.Size()
    units = torch.arange(2 * shape[dim] + 1)
    more = (*shape[:dim], len(units), *shape[dim + 1 :])
    labels = units.reshape(-1, *[1] * (len(shape) - 1 - dim)).expand(more).contiguous()
    try:
        found = _along(called(node.target, labels, *arguments))
    except (RuntimeError, IndexError):  # it says the number of units
        return False
    return found is not None and found[0] == new_dim and torch.equal(found[1], units)


def _is_plain(node: fx.Node, dim: int, after: torch.Size) -> bool:
    """Return whether an operation does the same with one unit, and says its sizes one by one."""
    if node.target in (torch.squeeze, "squeeze"):  # It would drop the dimension of a single unit.
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", dim)
        ndim = len(shape_of(node.all_input_nodes[0]) or ())
        given = dims if isinstance(dims, list | tuple) else (dims,)
        return all(isinstance(d, int) and d % ndim != dim for d in given)
    if node.target not in _SIZED:
        return True
    sizes = node.args[1] if len(node.args) == 2 else node.args[1:]
    return not node.kwargs and isinstance(sizes, list | tuple) and len(sizes) == len(after)


def _along(labels: Tensor) -> tuple[int, Tensor] | None:
    """Return the one dimension along which numbers vary, and the numbers."""
    for dim in range(labels.ndim):
        index = labels.movedim(dim, -1).reshape(-1, labels.shape[dim])[0]
        expanded = index.reshape(-1, *[1] * (labels.ndim - 1 - dim)).expand_as(labels)
        if len(index) > 1 and bool((index != index[0]).any()) and torch.equal(expanded, labels):
            return dim, index
    return None


def piece(flow: Flow, node: fx.Node) -> Rule | None:
    """Return the rule for a piece of what ``Pieces`` has cut, or None.

    Args:
        flow: What is known so far.
        node: Any node.
    """
    cut = node.all_input_nodes[0] if node.all_input_nodes else None
    if cut is None or not isinstance(flow.rules[cut], Pieces):
        return None
    source, number = cut.all_input_nodes[0], node.args[1]
    dim = flow.rules[source].dim
    sizes = cut.meta["sizes"]
    if not isinstance(number, int):
        raise TypeError(f"piece: expected one piece, got {number}")
    start = sum(sizes[: number % len(sizes)])
    return Choice(flow, node, dim, source, torch.arange(start, start + sizes[number]))


def pieces(flow: Flow, node: fx.Node) -> Rule | None:
    """Return the rule for a chunk or split along the units, or None.

    Args:
        flow: What is known so far.
        node: Any node.
    """
    if node.target not in _CUTS:
        return None
    source = node.args[0]
    arguments = concrete((node.args[1:], node.kwargs))
    if not isinstance(source, fx.Node) or arguments is None or not flow.rules[source].counted:
        return None
    taken = [user.args[1] if user.target is operator.getitem else None for user in node.users]
    if not all(isinstance(number, int) for number in taken):
        return None
    name = str(getattr(node.target, "__name__", node.target))
    dim, shape = flow.rules[source].dim, shape_of(source) or torch.Size()
    given = dict(zip(("how", "dim"), arguments[0], strict=False)) | dict(arguments[1])
    along = given.pop("dim", 0)
    if len(given) != 1 or along % len(shape) != dim:
        return None
    parts = getattr(torch.arange(shape[dim]), name)(*given.values())
    node.meta["sizes"] = [len(part) for part in parts]
    return Pieces(flow, node, 0)
