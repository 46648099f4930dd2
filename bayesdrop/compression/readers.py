"""Rules for what reads a recurrent layer: its outputs, padded or packed, and its states."""

from __future__ import annotations

import operator
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from typing_extensions import override

from bayesdrop.compression.flow import NAN, Flow, Opaque, Rule
from bayesdrop.compression.graph import shape_of
from bayesdrop.compression.recurrent import Recurrent
from bayesdrop.compression.sequences import GivesPacked, Packed, Reads, TakesPacked
from bayesdrop.nn import RecurrentDropout


class Output(Reads, GivesPacked):
    """The outputs of an LSTM or a GRU, padded or packed."""

    def __init__(self, flow: Flow, node: fx.Node, recurrent: Recurrent) -> None:
        shape = shape_of(node)
        super().__init__(flow, node, 0 if shape is None else len(shape) - 1)
        self.recurrent = recurrent

    @property
    @override
    def size(self) -> int:
        return self.recurrent.shape[1] * self.recurrent.shape[2]

    @property
    @override
    def counted(self) -> bool:
        return True

    @override
    def constant(self) -> Tensor:
        mask = self.recurrent.output_mask()
        unknown = torch.full((self.size,), NAN, dtype=torch.float64)
        return unknown if mask is None else unknown.masked_fill(mask == 0, 0.0)

    @override
    def request(self, needed: Tensor) -> None:
        if self.taken_by_others():
            needed.fill_(True)
        missing = needed & self.constant().isnan()
        self.recurrent.needs[-1] |= missing.reshape(self.recurrent.shape[1:])

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        recurrent = self.recurrent
        call = self.flow.graph.call_function
        node = call(operator.getitem, (recurrent.result, 0))
        units, hidden = recurrent.left[-1], recurrent.shape[2]
        kept = torch.cat([own + hidden * index for index, own in enumerate(units)])
        mask = recurrent.output_mask()
        if mask is None:
            return node, kept
        # Units that are there for others alone have another value than their mask says.
        wanted = self.wanted
        position = torch.zeros(self.size, dtype=torch.long)
        present = torch.zeros(self.size, dtype=torch.bool)
        present[kept], position[kept] = True, torch.arange(len(kept))
        packed = shape_of(self.node) is None
        scale = (mask * present)[wanted]
        return recurrent.masked(node, position[wanted], scale, packed=packed), wanted


class State(Reads):
    """The final states of an LSTM or a GRU, or all of one kind of them."""

    def __init__(self, flow: Flow, node: fx.Node, recurrent: Recurrent) -> None:
        super().__init__(flow, node, 0)
        self.recurrent = recurrent

    @override
    def indices(self) -> list[int | None]:
        found: list[int | None] = []
        for user in self.node.users:
            rule = self.flow.rules[user]
            if isinstance(rule, State):
                found += rule.indices()
            else:
                found.append(rule.index if isinstance(rule, Slot) else None)
        return found

    @override
    def request(self, needed: Tensor) -> None:
        rules = [self.flow.rules[user] for user in self.node.users]
        if not all(isinstance(rule, State | Slot) for rule in rules):
            self.recurrent.needs.fill_(True)

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        owner = self.inputs[0] is self.recurrent.node
        source = self.recurrent.result if owner else self.flow.made[self.inputs[0]]
        node = self.flow.graph.call_function(operator.getitem, (source, self.node.args[1]))
        return node, torch.arange(self.size)


class Slot(Opaque):
    """The final states of one layer in one direction."""

    def __init__(self, flow: Flow, node: fx.Node, recurrent: Recurrent, index: int) -> None:
        super().__init__(flow, node, len(shape_of(node) or ()) - 1)
        self.recurrent, self.index = recurrent, index

    @property
    @override
    def counted(self) -> bool:
        return True

    @property
    def place(self) -> tuple[int, int]:
        """Layer and direction."""
        layers, directions, _ = self.recurrent.shape
        return divmod(self.index % (layers * directions), directions)

    @override
    def request(self, needed: Tensor) -> None:
        self.recurrent.needs[self.place] |= needed

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        node, _ = super().emit()
        layer, direction = self.place
        return node, self.recurrent.left[layer][direction]


class Unpacked(TakesPacked):
    """``pad_packed_sequence``: outputs and lengths."""

    @override
    def request(self, needed: Tensor) -> None:
        if not all(
            isinstance(self.flow.rules[user], UnpackedOutput | Lengths) for user in self.node.users
        ):
            self.flow.needed[self.inputs[0]].fill_(True)
        for other in self.inputs[1:]:
            self.flow.request(other, None)


class Lengths(Opaque):
    """The lengths of sequences, which no unit has a part in."""

    @override
    def request(self, needed: Tensor) -> None:
        pass


class UnpackedOutput(Opaque):
    """The padded outputs of ``pad_packed_sequence``."""

    def __init__(self, flow: Flow, node: fx.Node, unpacked: Unpacked) -> None:
        super().__init__(flow, node, len(shape_of(node) or ()) - 1)
        self.packed, call = unpacked.inputs[0], unpacked.node
        padding = call.args[2] if len(call.args) > 2 else call.kwargs.get("padding_value", 0.0)
        self.zeros = padding in (0, 0.0)

    @property
    @override
    def counted(self) -> bool:
        return True

    @override
    def constant(self) -> Tensor:
        known = self.flow.constant[self.packed]
        return torch.where(known == 0, known, NAN) if self.zeros else torch.full_like(known, NAN)

    @override
    def request(self, needed: Tensor) -> None:
        missing = needed & self.flow.constant[self.node].isnan()
        self.flow.needed[self.packed] |= missing if self.zeros else needed

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        node, _ = super().emit()
        return node, self.flow.kept[self.packed]


def recurrent_rule(flow: Flow, node: fx.Node) -> Rule | None:
    """Return the rule of a node that has to do with recurrent layers; None if it is another.

    Args:
        flow: The analysis, of which the rules of the nodes before are known.
        node: The node of a function or a method; of modules ``takes`` decides.
    """
    rules = [flow.rules[source] for source in node.all_input_nodes]
    if not rules or node.op == "output":
        return None
    if node.target is pack_padded_sequence and shape_of(node.all_input_nodes[0]) is not None:
        return Packed(flow, node)
    if node.target is pad_packed_sequence and isinstance(rules[0], Output):
        return Unpacked(flow, node, 0)
    index = node.args[1] if len(node.args) > 1 else None
    shape = shape_of(node)
    if node.target is operator.getitem and isinstance(index, int):
        return _picked(flow, node, rules[0], index)
    squeezed = node.target in ("squeeze", torch.squeeze) and index == 0
    if squeezed and isinstance(rules[0], State) and shape is not None:
        layers, directions, _ = rules[0].recurrent.shape
        return Slot(flow, node, rules[0].recurrent, -1) if layers * directions == 1 else None
    return None


def _picked(flow: Flow, node: fx.Node, rule: Rule, index: int) -> Rule | None:
    if isinstance(rule, Recurrent):
        if index % 2 == 0:
            return Output(flow, node, rule)
        return State(flow, node, rule)
    if isinstance(rule, Unpacked):
        return UnpackedOutput(flow, node, rule) if index % 2 == 0 else Lengths(flow, node, 0)
    if isinstance(rule, State):
        if shape_of(node.all_input_nodes[0]) is None:
            return State(flow, node, rule.recurrent)
        return Slot(flow, node, rule.recurrent, index)
    return None


def takes(module: nn.Module) -> bool:
    """Return whether a module is a recurrent layer that the rules here know."""
    plain = type(module) in (nn.LSTM, nn.GRU)
    return (plain or isinstance(module, RecurrentDropout)) and not cast(Any, module).proj_size
