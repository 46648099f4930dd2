"""The rule for masks that depend on the input, emitted as plain operations."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, fx, nn
from typing_extensions import override

from bayesdrop.compression.flow import Flow
from bayesdrop.compression.folding import consumers
from bayesdrop.compression.graph import shape_of
from bayesdrop.compression.rules import Unary
from bayesdrop.nn import BayesianDropout


class Gate(Unary):
    """A mask that multiplies each unit by a function of that unit's mean over positions.

    Units that are pruned for every input are the constant 0. The others are multiplied by the
    mask, whose operations have the layer's order: an entry at the threshold falls on the same side
    unless the layers before it round differently.
    """

    def __init__(self, flow: Flow, node: fx.Node, dim: int) -> None:
        super().__init__(flow, node, dim)
        layer = flow.source.get_submodule(str(node.target))
        gate = layer.mean_gate() if isinstance(layer, BayesianDropout) else None
        if not isinstance(layer, BayesianDropout) or gate is None:
            raise TypeError(f"Gate: expected a layer with a mean_gate, got {layer}")
        self.layer, self.gate = layer, gate
        self.selects = False

    @property
    @override
    def counted(self) -> bool:
        return True

    @property
    def gatherable(self) -> bool:
        """Whether only layers that mix units by weights see the output, so pruned units can go."""
        if self.dim == self.layer.batch_dim:
            return False
        found = consumers(self.flow, self.node, torch.ones(self.size))
        return bool(found) and all(rule.mixes for rule, _ in found or ())

    @override
    def constant(self) -> Tensor:
        known = self.flow.constant_along(self.input, self.dim)
        if self.gate.unit_dims is None:
            tensors = {name: value.double().cpu() for name, value in self.gate.tensors.items()}
            value = known * self.gate.function(known, **tensors)
        else:  # the mask, which other units decide on, is finite
            value = torch.where(known == 0, known, torch.nan)
        pruned = ~self.layer.kept() | (self.layer.keep_prob() == 0)
        return torch.where(pruned.cpu(), 0.0, value)

    @override
    def request(self, needed: Tensor) -> None:
        wanted = needed & self.flow.constant[self.node].isnan()
        if self.gate.unit_dims is not None and wanted.any():
            wanted = self._seen & self.flow.constant_along(self.input, self.dim).isnan()
        self.flow.request(self.input, self.dim, wanted)

    @property
    def _seen(self) -> Tensor:
        """The units that a gate sees whose units look at each other."""
        return self.layer.kept().cpu()

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        flow, graph, kept = self.flow, self.flow.graph, self.wanted
        known = flow.constant_along(self.input, self.dim)
        x = flow.reindexed(str(self.node.target), self.input, self.dim, kept, known)
        mask = self._mask(x, kept) if self.gate.unit_dims is None else self._joint_mask(kept)
        node = graph.call_function(torch.mul, (x, mask))
        if self.selects:
            index = self._kept(mask)
            flow.selected[self.node] = index
            node = graph.call_function(torch.index_select, (node, self.dim, index))
        return node, kept

    def _kept(self, mask: fx.Node) -> fx.Node:
        """Return a node with the positions of the units that any example keeps."""
        call = self.flow.graph.call_function
        units = call(torch.flatten, (call(torch.any, (mask, self.layer.batch_dim)),))
        if len(shape_of(self.node) or ()) > self.dim + 1:
            # Convolution and pooling do not take maps without channels: if all are pruned, all go.
            units = call(torch.eq, (units, call(torch.any, (units,))))
        return call(torch.flatten, (call(torch.nonzero, (units,)),))

    def _mask(self, x: fx.Node, kept: Tensor) -> fx.Node:
        graph = self.flow.graph
        ndim = len(shape_of(self.node) or ())
        dtype = self.node.meta["tensor_meta"].dtype
        value = graph.call_method("detach", (x,))
        if positions := self._positions:
            value = graph.call_function(torch.mean, (value, positions), {"keepdim": True})
        made = {"x": value}
        for name, tensor in self.gate.tensors.items():
            tensor = tensor[kept.to(tensor.device)].reshape(-1, *[1] * (ndim - 1 - self.dim))
            made[name] = self.flow.tensor(
                f"{self.node.target}.{name}", tensor.to(self.flow.device, dtype)
            )
        return self._called(made)

    def _joint_mask(self, kept: Tensor) -> fx.Node:
        """Return the mask of the kept units, of a gate that looks at all units it sees."""
        flow, call, name = self.flow, self.flow.graph.call_function, str(self.node.target)
        seen = torch.nonzero(self._seen).flatten()
        known = flow.constant_along(self.input, self.dim)
        x = flow.reindexed(f"{name}.seen", self.input, self.dim, seen, known)
        value = flow.graph.call_method("detach", (x,))
        if self._positions:
            value = call(torch.mean, (value, self._positions))
        across = self.layer.batch_dim > self.dim
        made = {"x": call(torch.t, (value,)) if across else value}
        dtype = self.node.meta["tensor_meta"].dtype
        for key, tensor in self.gate.tensors.items():
            dim = (self.gate.unit_dims or {})[key]
            if dim is not None:
                tensor = tensor.index_select(dim, seen.to(tensor.device))
            parameter = nn.Parameter(tensor.to(flow.device, dtype), requires_grad=False)
            made[key] = flow.tensor(f"{name}.{key}", parameter)
        mask = self._called(made)
        among = torch.searchsorted(seen, kept)
        if len(among) < len(seen):
            index = flow.tensor(f"{name}.kept", among.to(flow.device))
            mask = call(torch.index_select, (mask, 1, index))
        mask = call(torch.t, (mask,)) if across else mask
        for position in self._positions:
            mask = call(torch.unsqueeze, (mask, position))
        return mask

    @property
    def _positions(self) -> list[int]:
        ndim = len(shape_of(self.node) or ())
        return [dim for dim in range(ndim) if dim not in (self.layer.batch_dim, self.dim)]

    def _called(self, made: dict[str, fx.Node]) -> fx.Node:
        """Return the gate's function of nodes, as nodes."""
        traced = fx.Tracer().trace(self.gate.function)
        inputs = [node for node in traced.nodes if node.op == "placeholder"]
        result = self.flow.graph.graph_copy(
            traced, {node: made[str(node.target)] for node in inputs}
        )
        return cast(fx.Node, result)
