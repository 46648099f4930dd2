"""The rule for masks that depend on the input, emitted as plain operations."""

from __future__ import annotations

import torch
from torch import Tensor, fx
from typing_extensions import override

from bayesdrop.compression.flow import Flow
from bayesdrop.compression.folding import consumers
from bayesdrop.compression.graph import shape_of
from bayesdrop.compression.rules import Unary
from bayesdrop.nn import DependentBetaBernoulliDropout


class Gate(Unary):
    """A mask that multiplies each unit by a function of that unit's mean over positions.

    Units that are closed for every input are the constant 0. The others are multiplied by the
    mask, whose operations have the layer's order: an entry at the threshold falls on the same side
    unless the layers before it round differently.
    """

    def __init__(self, flow: Flow, node: fx.Node, dim: int) -> None:
        super().__init__(flow, node, dim)
        layer = flow.source.get_submodule(str(node.target))
        if not isinstance(layer, DependentBetaBernoulliDropout):
            raise TypeError(f"Gate: expected a DependentBetaBernoulliDropout, got {layer}")
        self.layer = layer
        self.gate = layer.mean_gate()
        self.selects = False

    @property
    def gatherable(self) -> bool:
        """Whether only layers that mix units by weights see the output, so closed units can go."""
        if self.dim == 0:
            return False
        found = consumers(self.flow, self.node, self.dim, torch.ones(self.size))
        return bool(found) and all(rule.mixes for rule, _ in found or ())

    @override
    def constant(self) -> Tensor:
        known = self.flow.constant_along(self.input, self.dim)
        keep, centre, slope, shift = (value.double().cpu() for value in self.gate[:4])
        mean = keep * (slope * (known - centre) + shift).clamp(self.gate.low, 1.0)
        value = known * torch.where(mean < self.gate.threshold, 0.0, mean)
        closed = (self.gate.keep_prob < self.gate.threshold) | (self.gate.keep_prob == 0)
        return torch.where(closed.cpu(), 0.0, value)

    @override
    def request(self, needed: Tensor) -> None:
        missing = self.flow.constant[self.node].isnan()
        self.flow.request(self.input, self.dim, needed & missing)

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        flow, graph, kept = self.flow, self.flow.graph, self.wanted
        known = flow.constant_along(self.input, self.dim)
        x = flow.reindexed(str(self.node.target), self.input, self.dim, kept, known)
        mask = self._mask(x, kept)
        node = graph.call_function(torch.mul, (x, mask))
        if self.selects:
            index = self._open(mask)
            flow.selected[self.node] = index
            node = graph.call_function(torch.index_select, (node, self.dim, index))
        return node, kept

    def _open(self, mask: fx.Node) -> fx.Node:
        """Return a node with the positions of the units that any example has open."""
        call = self.flow.graph.call_function
        units = call(torch.flatten, (call(torch.any, (mask, 0)),))
        if len(shape_of(self.node) or ()) > self.dim + 1:
            # Convolution and pooling do not take maps without channels: if all are closed, all go.
            units = call(torch.eq, (units, call(torch.any, (units,))))
        return call(torch.flatten, (call(torch.nonzero, (units,)),))

    def _mask(self, x: fx.Node, kept: Tensor) -> fx.Node:
        call, gate = self.flow.graph.call_function, self.gate
        ndim = len(shape_of(self.node) or ())
        dtype = self.node.meta["tensor_meta"].dtype

        def buffer(name: str, value: Tensor) -> fx.Node:
            value = value[kept.to(value.device)].reshape(-1, *[1] * (ndim - 1 - self.dim))
            return self.flow.tensor(
                f"{self.node.target}.{name}", value.to(self.flow.device, dtype)
            )

        value = self.flow.graph.call_method("detach", (x,))
        positions = [dim for dim in range(1, ndim) if dim != self.dim]
        if positions:
            value = call(torch.mean, (value, positions), {"keepdim": True})
        value = call(torch.sub, (value, buffer("centre", gate.centre)))
        slope, shift = buffer("slope", gate.slope), buffer("shift", gate.shift)
        value = call(torch.addcmul, (shift, slope, value))
        value = call(torch.clamp, (value, gate.low, 1.0))
        value = call(torch.mul, (value, buffer("keep_prob", gate.keep_prob)))
        small = call(torch.lt, (value, gate.threshold))
        return call(torch.where, (small, 0.0, value))
