"""The rule for LSTM and GRU: units that neither a state nor an output needs are cut.

A unit of a recurrent layer has rows in each gate, a column in the weights of the state, and
columns in those of whoever reads it. What it carries on by itself (the cell, the update gate)
reaches no other unit. So it goes when nothing outside reads it, and no unit that stays reads its
state: when the masks of state and outputs are both closed, say.
"""

from __future__ import annotations

import operator
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.rnn import PackedSequence
from typing_extensions import override

from bayesdrop.compression.flow import NAN, Flow
from bayesdrop.compression.graph import shape_of
from bayesdrop.compression.sequences import GivesPacked, Reads, TakesPacked, known_of, need
from bayesdrop.nn import RecurrentDropout

KINDS: dict[str, Any] = {"LSTM": nn.LSTM, "GRU": nn.GRU}


class Recurrent(TakesPacked):
    """A call of an LSTM or a GRU, with masks inside or without.

    Args:
        flow: The analysis.
        node: The node.
        whole: Whether it keeps all units.
    """

    def __init__(self, flow: Flow, node: fx.Node, *, whole: bool = False) -> None:
        super().__init__(flow, node, 0)
        self.whole = whole
        self.module = cast(nn.RNNBase, flow.source.get_submodule(str(node.target)))
        m = self.module
        self.gates = 4 if m.mode == "LSTM" else 3
        self.suffixes = ("", "_reverse") if m.bidirectional else ("",)
        self.shape = (m.num_layers, len(self.suffixes), m.hidden_size)
        self.needs = torch.zeros(self.shape, dtype=torch.bool)
        self.weights: dict[tuple[int, int], list[Tensor]] = {}
        self.left: list[list[Tensor]] = []
        """The units that the compact layers have, by layer and direction."""
        self.columns = torch.ones(m.input_size, dtype=torch.bool)
        """Which inputs are needed."""
        self.result = node
        """In the compact graph, what the layers return."""

    # -- what is asked ---------------------------------------------------------------------------

    @property
    def source(self) -> fx.Node:
        """The sequences."""
        return self.inputs[0]

    def output_mask(self) -> Tensor | None:
        """Return the mean mask of the outputs, if they have one."""
        mask = self.module.output_dropout if isinstance(self.module, RecurrentDropout) else None
        return None if mask is None else cast(Any, mask).mean_mask().detach().double().cpu()

    @override
    def constant(self) -> Tensor:
        m, masks = self.module, {}
        if isinstance(m, RecurrentDropout):
            for place in m.mask_sizes():
                if getattr(m, place) is not None:
                    masks[place] = getattr(m, place).mean_mask().detach().unsqueeze(0)
        for layer in range(self.shape[0]):
            for index, suffix in enumerate(self.suffixes):
                if isinstance(m, RecurrentDropout):
                    found = m.layer_weights(layer, suffix, masks)
                else:
                    names = m._all_weights[layer * len(self.suffixes) + index]
                    found = [m.get_parameter(name) for name in names]
                self.weights[layer, index] = [value.detach() for value in found]
        self.needs = torch.zeros(self.shape, dtype=torch.bool)
        return torch.zeros(0, dtype=torch.float64)

    @override
    def request(self, needed: Tensor) -> None:
        if self.whole or len(self.inputs) > 1 or self._is_passed_on():
            self.needs.fill_(True)
        for source in self.inputs[1:]:
            self.flow.request(source, None)
        for layer in reversed(range(self.shape[0])):
            columns = torch.zeros(self.weights[layer, 0][0].shape[1], dtype=torch.bool)
            for index in range(self.shape[1]):
                units = self.needs[layer, index]
                if not units.any():
                    units[0] = True
                self._close(layer, index)
                columns |= self._by_gate(self.weights[layer, index][0])[units].any(0)
            if layer:
                self.needs[layer - 1] |= columns.reshape(self.shape[1:])
            else:
                self.columns = columns & ~self._foldable() | self.whole
                need(self.flow, self.source, self.columns)

    def _is_passed_on(self) -> bool:
        """Return whether somebody takes outputs and states together."""
        return not all(isinstance(self.flow.rules[user], Reads) for user in self.node.users)

    def _by_gate(self, weight: Tensor) -> Tensor:
        """Return which units have a weight for which input in any gate, ``(H, inputs)``."""
        return (weight != 0).reshape(self.gates, -1, weight.shape[1]).any(0).cpu()

    def _close(self, layer: int, index: int) -> None:
        """Add the units whose states are read by units that are needed."""
        reads, units = self._by_gate(self.weights[layer, index][1]), self.needs[layer, index]
        while True:
            more = units | reads[units].any(0)
            if torch.equal(more, units):
                return
            units.copy_(more)

    def _foldable(self) -> Tensor:
        """Return which inputs are constants that can go into the bias."""
        known = self._known()
        return ~known.isnan() if self.module.bias else known == 0

    def _known(self) -> Tensor:
        known = known_of(self.flow, self.source)
        size = self.module.input_size
        return known if len(known) == size else torch.full((size,), NAN, dtype=torch.float64)

    # -- what is emitted -------------------------------------------------------------------------

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        parts = self._separable()
        counts = self.needs.sum(-1)
        groups = [[layer] for layer in range(self.shape[0])]
        if not parts or len(counts.unique()) == 1:
            groups = [list(range(self.shape[0]))]
        self.left = []
        for group in groups:
            size = int(counts[group].max())
            self.left += [
                [_filled(self.needs[layer, index], size) for index in range(self.shape[1])]
                for layer in group
            ]
        made, columns = self._source()
        node = made
        for number, group in enumerate(groups):
            name = str(self.node.target) + (f".l{group[0]}" if len(groups) > 1 else "")
            self.flow.parts[name] = self._cut(group, columns)
            arguments = (made, *(self._given() if len(self.inputs) > 1 else ()))
            node = self.flow.graph.call_module(name, arguments)
            if number < len(groups) - 1:
                made = self.flow.graph.call_function(operator.getitem, (node, 0))
        self.result = node
        mask = self.output_mask()
        if mask is not None and self._is_passed_on():
            call = self.flow.graph.call_function
            output, state = (call(operator.getitem, (node, index)) for index in (0, 1))
            packed = shape_of(self.source) is None
            output = self.masked(output, torch.arange(len(mask)), mask, packed=packed)
            node = call(tuple, ([output, state],))
        return node, torch.arange(0)

    def masked(self, output: fx.Node, index: Tensor, mask: Tensor, *, packed: bool) -> fx.Node:
        """Return outputs in a new order, times a mask of it."""
        call, name, flow = self.flow.graph.call_function, str(self.node.target), self.flow
        data = call(getattr, (output, "data")) if packed else output
        total = sum(map(len, self.left[-1]))
        if not torch.equal(index, torch.arange(total)):
            places = flow.tensor(f"{name}.index", index.to(flow.device))
            data = call(torch.index_select, (data, -1, places))
        if (mask != 1).any():
            weight = self.weights[0, 0][0]
            data = call(torch.mul, (data, flow.tensor(f"{name}.scale", mask.to(weight))))
        if not packed or data is output:
            return data
        rest = [call(getattr, (output, own)) for own in PackedSequence._fields[1:]]
        return call(PackedSequence, (data, *rest))

    def _given(self) -> tuple[Any, ...]:
        rest = (self.node.args[1:], tuple(self.node.kwargs.values()))
        return tuple(
            fx.node.map_arg(value, lambda n: self.flow.made[n]) for part in rest for value in part
        )

    def _separable(self) -> bool:
        """Return whether nobody reads the states of another layer than the last."""
        if len(self.inputs) > 1:
            return False
        slots = self.shape[0] * self.shape[1]
        for user in self.node.users:
            rule = self.flow.rules[user]
            for index in rule.indices() if isinstance(rule, Reads) else (None,):
                if index is None or index >= 0 or index < -self.shape[1]:
                    return slots == self.shape[1]
        return True

    def _source(self) -> tuple[fx.Node, Tensor]:
        """Return the node of the sequences, and the input units that it has."""
        flow, source = self.flow, self.source
        shape = shape_of(source)
        if shape is None:
            every = torch.arange(self.module.input_size)
            known_units = isinstance(flow.rules[source], GivesPacked)
            return flow.made[source], flow.kept[source] if known_units else every
        dim = len(shape) - 1
        kept = flow.kept_along(source, dim)
        wanted = self.columns.nonzero().flatten()
        # Below an eighth of the inputs the choice would cost more than it saves.
        if len(kept) == shape[dim] and 0 < len(wanted) <= len(kept) - len(kept) / 8:
            name, known = str(self.node.target), flow.constant_along(source, dim)
            return flow.reindexed(name, source, dim, wanted, known), wanted
        return flow.made[source], kept

    def _cut(self, group: list[int], columns: Tensor) -> nn.RNNBase:
        """Return layers of ``torch.nn`` with the units that are left."""
        m, first = self.module, group[0]
        width = len(columns) if first == 0 else sum(map(len, self.left[first - 1]))
        new: nn.RNNBase = KINDS[m.mode](
            width,
            len(self.left[first][0]),
            len(group),
            bias=bool(m.bias),
            batch_first=m.batch_first,
            bidirectional=m.bidirectional,
            device="meta",
        )
        for layer in group:
            if layer:
                units = self.left[layer - 1]
                columns = torch.cat([u + self.shape[2] * i for i, u in enumerate(units)])
            for index, suffix in enumerate(self.suffixes):
                values = self._parameters(layer, index, columns)
                for kind, value in values.items():
                    grad = m.get_parameter(f"{kind}_l{layer}{suffix}").requires_grad
                    name = f"{kind}_l{layer - first}{suffix}"
                    setattr(new, name, nn.Parameter(value, grad))
        return new.eval()

    def _parameters(self, layer: int, index: int, columns: Tensor) -> dict[str, Tensor]:
        weights, rows = self.weights[layer, index], self.left[layer][index]
        device = weights[0].device

        def cut(value: Tensor, units: Tensor | None) -> Tensor:
            own = value.reshape(self.gates, -1, *value.shape[1:])[:, rows.to(device)]
            own = own if units is None else own[..., units.to(device)]
            return own.reshape(-1, *own.shape[2:]).contiguous()

        found = {"weight_ih": cut(weights[0], columns), "weight_hh": cut(weights[1], rows)}
        if self.module.bias:
            bias = weights[2]
            if layer == 0:
                known = self._known()
                gone = torch.ones(len(known), dtype=torch.bool)
                gone[columns] = False
                gone &= self._foldable() & (known != 0)
                shift = weights[0].double()[:, gone.to(device)] @ known[gone].to(device)
                bias = bias + shift.to(bias)
            found |= {"bias_ih": cut(bias, None), "bias_hh": cut(weights[3], None)}
        return found


def _filled(units: Tensor, size: int) -> Tensor:
    """Return so many units as indices: those that are needed, and others that fill up."""
    order = torch.argsort((~units).int(), stable=True)[:size]
    return order.sort().values
