r"""What each operation does to units that are constant, and to units that nothing needs.

Every tensor is tracked along one dimension, that of its units (features or channels), by three
vectors over the units of the full network, and where these depend on the input by a node:

* *constant*: the unit's value if it is the same for every input and position, else NaN. A unit
  that the mean mask drops is the constant 0, and so is what ReLU, pooling, flattening make of it.
* *needed*: whether something downstream depends on the unit. A layer never needs a constant: its
  effect goes into the layer's bias.
* *kept*: the units that the compact network's tensor has, in order.
* *selected*: with ``per_input``, the node that computes which of these it really has, by position;
  the others are pruned by a mask for the present input.

A rule knows one kind of operation: it computes *constant* from the inputs', requests what it
needs of its inputs, and emits itself for the units that are kept. What has no rule is ``Opaque``:
nothing is known of its output and all of its inputs is needed, so the result stays exact.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn
from typing_extensions import override

from bayesdrop.compression.graph import shape_of
from bayesdrop.ops.layout import memory_format_of

NAN = float("nan")


class Flow:
    """What is known about every tensor of a traced network, and the compact network's parts."""

    def __init__(self, module: fx.GraphModule, device: torch.device) -> None:
        self.source = module
        self.device = device
        self.rules: dict[fx.Node, Rule] = {}
        self.constant: dict[fx.Node, Tensor] = {}
        self.needed: dict[fx.Node, Tensor] = {}
        self.kept: dict[fx.Node, Tensor] = {}
        self.selected: dict[fx.Node, fx.Node] = {}
        self.graph = fx.Graph()
        self.made: dict[fx.Node, fx.Node] = {}
        self.parts: dict[str, Any] = {}

    def constant_along(self, node: fx.Node, dim: int) -> Tensor:
        """Return *constant* of a tensor along ``dim``; all NaN if another one is tracked."""
        shape = shape_of(node)
        if shape is None or self.rules[node].dim != dim:
            return torch.full((0 if shape is None else shape[dim],), NAN, dtype=torch.float64)
        return self.constant[node]

    def request(self, node: fx.Node, dim: int | None, needed: Tensor | None = None) -> None:
        """Say that units of ``node`` are needed; all of them if another dimension is tracked."""
        if shape_of(node) is None:
            return
        if needed is None or dim != self.rules[node].dim:
            self.needed[node].fill_(True)
        else:
            self.needed[node] |= needed

    def kept_along(self, node: fx.Node, dim: int) -> Tensor:
        """Return *kept* of a tensor along ``dim``; all of them if another one is tracked."""
        if self.rules[node].dim == dim:
            return self.kept[node]
        return torch.arange((shape_of(node) or ())[dim])

    def part(self, name: str, value: Any) -> str:
        """Add a module or tensor to the compact network under a free name close to ``name``."""
        candidate, number = name, 0
        taken = {*self.parts, *(n for n, _ in self.source.named_modules())}
        while candidate in taken and value is not self.parts.get(candidate):
            number += 1
            candidate = f"{name}_{number}"
        self.parts[candidate] = value
        return candidate

    def tensor(self, name: str, value: Tensor) -> fx.Node:
        """Add a buffer or parameter to the compact network; return the node that reads it."""
        return self.graph.get_attr(self.part(name, value))

    def drop_unused(self) -> None:
        """Leave out what was emitted and has no use, as the whole of what is used in pieces."""
        for node in reversed(self.graph.nodes):
            if not node.users and node.op not in ("placeholder", "output"):
                self.graph.erase_node(node)
        nodes = (node for node in self.graph.nodes if node.op in ("call_module", "get_attr"))
        used = {str(node.target) for node in nodes}
        self.parts = {name: part for name, part in self.parts.items() if name in used}

    def reindexed(
        self, name: str, node: fx.Node, dim: int, wanted: Tensor, constant: Tensor
    ) -> fx.Node:
        """Return a node with the wanted units of ``node``; missing ones become their constants.

        Args:
            name: Prefix of the buffers that this may take.
            node: A node of the full network that has been emitted.
            dim: The dimension of the units.
            wanted: The units that the result has, in order.
            constant: Their values where ``node`` does not have them.
        """
        made, kept = self.made[node], self.kept_along(node, dim)
        if torch.equal(kept, wanted):
            return made
        shape = shape_of(node) or torch.Size()
        position = torch.full((int(shape[dim]),), len(kept))
        position[kept] = torch.arange(len(kept))
        index = position[wanted]
        missing = index == len(kept)
        if missing.any():
            padding = [0, 0] * (len(shape) - 1 - dim) + [0, 1]
            made = self.graph.call_function(nn.functional.pad, (made, padding))
        index_node = self.tensor(f"{name}.index", index.to(self.device))
        made = self.graph.call_function(torch.index_select, (made, dim, index_node))
        fill = torch.where(missing, constant[wanted].nan_to_num(0.0), 0.0)
        if (fill != 0).any():
            fill = fill.to(self.device, node.meta["tensor_meta"].dtype)
            fill = fill.reshape(-1, *[1] * (len(shape) - 1 - dim))
            made = self.graph.call_function(torch.add, (made, self.tensor(f"{name}.fill", fill)))
        return made


class Rule(ABC):
    """Abstract rule for one node.

    Args:
        flow: What is known so far.
        node: The node.
        dim: The dimension of its output's units.
    """

    homogeneous: ClassVar[bool] = False
    """Whether scaling a unit of the input by s >= 0 scales the same unit of the output by s."""

    def __init__(self, flow: Flow, node: fx.Node, dim: int) -> None:
        self.flow, self.node, self.dim = flow, node, dim
        self.inputs = node.all_input_nodes

    @property
    def size(self) -> int:
        """Number of units of the output in the full network; 0 if it is not a tensor."""
        shape = shape_of(self.node)
        return 0 if shape is None else int(shape[self.dim])

    @property
    def counted(self) -> bool:
        """Whether the units are those of a layer, as many for every input."""
        rules = (self.flow.rules[source] for source in self.inputs)
        return any(rule.counted for rule in rules)

    @property
    def wanted(self) -> Tensor:
        """The units of the output that are needed, as indices."""
        return self.flow.needed[self.node].nonzero().flatten()

    @abstractmethod
    def constant(self) -> Tensor:
        """Return *constant* of the output."""

    @abstractmethod
    def request(self, needed: Tensor) -> None:
        """Request of the inputs what the needed units of the output depend on."""

    @abstractmethod
    def emit(self) -> tuple[fx.Node, Tensor]:
        """Emit the operation into the compact graph; return its node and *kept*."""


class Opaque(Rule):
    """Any operation without a rule."""

    @property
    @override
    def counted(self) -> bool:
        return False

    @override
    def constant(self) -> Tensor:
        return torch.full((self.size,), NAN, dtype=torch.float64)

    @override
    def request(self, needed: Tensor) -> None:
        for source in self.inputs:
            self.flow.request(source, None)

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        node = self.flow.graph.node_copy(self.node, lambda n: self.flow.made[n])
        name = str(self.node.target)
        if self.node.op == "call_module":
            self.flow.parts[name] = self.flow.source.get_submodule(name)
        elif self.node.op == "get_attr":
            owner, _, leaf = name.rpartition(".")
            self.flow.parts[name] = getattr(self.flow.source.get_submodule(owner), leaf)
        return node, torch.arange(self.size)


def scaled(
    value: Tensor,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
    row_scale: Tensor | None = None,
    column_scale: Tensor | None = None,
) -> Tensor:
    """Return rows and columns of a parameter, scaled; the scales are those of the full network."""
    layout = memory_format_of(value)
    value = value.detach()
    if row_scale is not None:
        value = value * row_scale.to(value).reshape(-1, *[1] * (value.ndim - 1))
    if column_scale is not None:
        value = value * column_scale.to(value).reshape(-1, *[1] * (value.ndim - 2))
    if rows is not None and len(rows) < len(value):
        value = value[rows.to(value.device)]
    if columns is not None and len(columns) < value.shape[1]:
        value = value[:, columns.to(value.device)]
    return value.clone(memory_format=layout)


def resized(module: nn.Module, tensors: dict[str, Tensor | None], **sizes: int) -> nn.Module:
    """Return a module like ``module`` with other parameters, buffers and sizes."""
    new = copy.copy(module)
    new._parameters, new._buffers = dict(module._parameters), dict(module._buffers)
    for name, value in tensors.items():
        if name in new._buffers:
            new._buffers[name] = value
        else:
            old = module._parameters[name]
            grad = old is None or old.requires_grad
            new._parameters[name] = None if value is None else nn.Parameter(value, grad)
    for name, size in sizes.items():
        setattr(new, name, size)
    return new
