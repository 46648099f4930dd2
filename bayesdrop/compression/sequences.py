"""Sequences of units, padded or packed, and who takes them."""

from __future__ import annotations

from torch import Tensor, fx
from typing_extensions import override

from bayesdrop.compression.flow import Flow, Opaque
from bayesdrop.compression.graph import shape_of


class TakesPacked(Opaque):
    """Abstract rule of what takes packed sequences and says which of their units it needs."""


class GivesPacked(Opaque):
    """Abstract rule of what gives sequences, padded or packed, whose units are known."""

    def taken_by_others(self) -> bool:
        """Return whether packed sequences go where nothing says which units are needed."""
        rules = (self.flow.rules[user] for user in self.node.users)
        return shape_of(self.node) is None and not all(isinstance(r, TakesPacked) for r in rules)


class Reads(Opaque):
    """Abstract rule of what reads the outputs or the states of a recurrent layer."""

    def indices(self) -> list[int | None]:
        """Return the layers and directions whose states are read, None for any of them."""
        return []


class Packed(GivesPacked):
    """``pack_padded_sequence``, which leaves the units where they are."""

    def __init__(self, flow: Flow, node: fx.Node) -> None:
        super().__init__(flow, node, 0)
        self.source = node.all_input_nodes[0]

    @property
    @override
    def size(self) -> int:
        return int((shape_of(self.source) or (0,))[-1])

    @override
    def constant(self) -> Tensor:
        return known_of(self.flow, self.source)

    @override
    def request(self, needed: Tensor) -> None:
        if self.taken_by_others():
            needed.fill_(True)
        need(self.flow, self.source, needed)
        for other in self.inputs[1:]:
            self.flow.request(other, None)

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        node, _ = super().emit()
        shape = shape_of(self.source) or ()
        return node, self.flow.kept_along(self.source, len(shape) - 1)


def known_of(flow: Flow, node: fx.Node) -> Tensor:
    """Return *constant* of the units of sequences, padded or packed."""
    shape = shape_of(node)
    return flow.constant[node] if shape is None else flow.constant_along(node, len(shape) - 1)


def need(flow: Flow, node: fx.Node, units: Tensor) -> None:
    """Request units of sequences, padded or packed."""
    shape = shape_of(node)
    if shape is None:
        if len(flow.needed[node]):
            flow.needed[node] |= units
    else:
        flow.request(node, len(shape) - 1, units)
