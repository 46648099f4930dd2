r"""What each operation does to units that are constant, and to units that nothing needs.

Every tensor is tracked along one dimension, that of its units (features or channels), by three
vectors over the units of the full network:

* *constant*: the unit's value if it is the same for every input and position, else NaN. A unit that
  the mean mask drops is the constant 0, and so is what ReLU, pooling or flattening make of it.
* *needed*: whether something downstream depends on the unit. A layer never needs a constant: its
  effect goes into the layer's bias.
* *kept*: the units that the compact network's tensor has, in order.

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
from bayesdrop.dropout import BayesianDropout

NAN = float("nan")


class Flow:
    """What is known about every tensor of a traced network, and the compact network's parts."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.source = module
        self.rules: dict[fx.Node, Rule] = {}
        self.constant: dict[fx.Node, Tensor] = {}
        self.needed: dict[fx.Node, Tensor] = {}
        self.kept: dict[fx.Node, Tensor] = {}
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
        """Add a buffer to the compact network and return the node that reads it."""
        return self.graph.get_attr(self.part(name, value))

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
        device = node.meta["device"]
        if missing.any():
            padding = [0, 0] * (len(shape) - 1 - dim) + [0, 1]
            made = self.graph.call_function(nn.functional.pad, (made, padding))
        index_node = self.tensor(f"{name}.index", index.to(device))
        made = self.graph.call_function(torch.index_select, (made, dim, index_node))
        fill = torch.where(missing, constant[wanted].nan_to_num(0.0), 0.0)
        if (fill != 0).any():
            fill = fill.to(device, node.meta["tensor_meta"].dtype)
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


class ShapeQuery(Opaque):
    """Reads a size that is not the number of units."""

    @override
    def request(self, needed: Tensor) -> None:
        pass


class Unary(Opaque):
    """An operation on one tensor that keeps units apart."""

    @property
    def input(self) -> fx.Node:
        """The tensor."""
        return self.inputs[0]

    @override
    def request(self, needed: Tensor) -> None:
        self.flow.request(self.input, self.dim, needed)

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        node, _ = super().emit()
        return node, self.flow.kept_along(self.input, self.dim)


class Elementwise(Unary):
    """A function of single numbers, such as GELU."""

    @override
    def constant(self) -> Tensor:
        known = self.flow.constant_along(self.input, self.dim)
        if self.node.op == "call_module":
            return self.flow.source.get_submodule(str(self.node.target))(known)
        target: Any = self.node.target
        function = getattr(torch, target) if isinstance(target, str) else target
        return function(known, *self.node.args[1:], **self.node.kwargs)


class Rectifier(Elementwise):
    """ReLU or leaky ReLU."""

    homogeneous = True


class Pool(Unary):
    """Pooling over positions; ``pads`` if it averages zeros in at the border."""

    homogeneous = True
    pads = False

    @override
    def constant(self) -> Tensor:
        known = self.flow.constant_along(self.input, self.dim)
        return torch.where(known == 0, known, NAN) if self.pads else known


class PaddedPool(Pool):
    """Average pooling with a zero border."""

    pads = True


class Flatten(Unary):
    """``torch.flatten(x, 1)`` of a tensor whose units are in dimension 1."""

    homogeneous = True

    @property
    def block(self) -> int:
        """Number of positions per unit."""
        return self.size // max(1, int((shape_of(self.input) or ())[1]))

    @override
    def constant(self) -> Tensor:
        return self.flow.constant_along(self.input, 1).repeat_interleave(self.block)

    @override
    def request(self, needed: Tensor) -> None:
        self.flow.request(self.input, 1, needed.reshape(-1, self.block).any(1))

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        node, _ = Opaque.emit(self)
        kept = self.flow.kept_along(self.input, 1)
        return node, (kept[:, None] * self.block + torch.arange(self.block)).flatten()


class Norm(Unary):
    """BatchNorm in evaluation mode: one affine function per unit."""

    def __init__(self, flow: Flow, node: fx.Node, dim: int) -> None:
        super().__init__(flow, node, dim)
        self.module: Any = flow.source.get_submodule(str(node.target))
        self.row_scale: Tensor | None = None

    @override
    def constant(self) -> Tensor:
        m = self.module
        scale = (m.running_var.double() + m.eps).rsqrt()
        if m.affine:
            scale = scale * m.weight.double()
        shift = -scale * m.running_mean.double() + (m.bias.double() if m.affine else 0.0)
        return self.flow.constant_along(self.input, self.dim) * scale.cpu() + shift.cpu()

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        kept = self.flow.kept_along(self.input, self.dim)
        m = self.module
        tensors = {
            name: value if value is None or value.ndim == 0 else scaled(value, rows=kept)
            for name, value in (m._parameters | m._buffers).items()
        }
        if self.row_scale is not None:
            for name in ("weight", "bias"):
                tensors[name] = scaled(tensors[name], row_scale=self.row_scale[kept])
        self.flow.parts[str(self.node.target)] = resized(m, tensors, num_features=len(kept))
        node = self.flow.graph.call_module(
            str(self.node.target), (self.flow.made[self.input],)
        )
        return node, kept


class Weighted(Unary):
    """Linear, or a convolution with one group: every output unit sees every input unit."""

    def __init__(self, flow: Flow, node: fx.Node, dim: int) -> None:
        super().__init__(flow, node, dim)
        self.module: Any = flow.source.get_submodule(str(node.target))
        self.row_scale: Tensor | None = None
        self.column_scale: Tensor | None = None
        self.pads = _pads(self.module)

    def foldable(self) -> Tensor:
        """Return which inputs are constants that can go into the bias."""
        known = self.flow.constant_along(self.input, self.dim)
        # At the border a padded convolution sees zeros instead of the constant.
        return known == 0 if self.pads else ~known.isnan()

    def uses(self) -> Tensor:
        """Return which output unit has a weight for which input unit, shape (out, in)."""
        weight = self.module.weight.detach()
        return (weight != 0).reshape(*weight.shape[:2], -1).any(2).cpu()

    def folded(self, columns: Tensor) -> Tensor:
        """Return what the constants of the given input units add to the output."""
        known = self.flow.constant_along(self.input, self.dim)
        columns = columns & (known != 0)
        weight = self.module.weight.detach()[:, columns.to(self.module.weight.device)].double()
        return weight.reshape(*weight.shape[:2], -1).sum(2).cpu() @ known[columns]

    @override
    def constant(self) -> Tensor:
        foldable = self.foldable()
        value = self.folded(foldable)
        if self.module.bias is not None:
            value = value + self.module.bias.detach().double().cpu()
        return torch.where(self.uses()[:, ~foldable].any(1), NAN, value)

    @override
    def request(self, needed: Tensor) -> None:
        self.flow.request(self.input, self.dim, self.uses()[needed].any(0) & ~self.foldable())

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        m, rows = self.module, self.wanted
        columns = self.flow.kept_along(self.input, self.dim)
        gone = torch.ones(m.weight.shape[1], dtype=torch.bool)
        gone[columns] = False
        weight = scaled(m.weight, rows, columns, self.row_scale, self.column_scale)
        shift = self.folded(gone & self.foldable())[rows].to(m.weight)
        if self.row_scale is not None:
            shift = shift * self.row_scale[rows].to(m.weight)
        bias = m.bias
        if bias is not None:
            bias = scaled(bias, rows, row_scale=self.row_scale) + shift
        elif (shift != 0).any():
            bias = shift
        names = ("in_features", "out_features")
        if not isinstance(m, nn.Linear):
            names = ("in_channels", "out_channels")
        sizes = dict(zip(names, (len(columns), len(rows)), strict=True))
        target = str(self.node.target)
        self.flow.parts[target] = resized(m, {"weight": weight, "bias": bias}, **sizes)
        return self.flow.graph.call_module(target, (self.flow.made[self.input],)), rows


class Depthwise(Weighted):
    """A convolution with one group per channel: units stay apart."""

    @override
    def constant(self) -> Tensor:
        known = self.flow.constant_along(self.input, self.dim)
        weight = self.module.weight.detach().double().flatten(1).sum(1).cpu()
        bias = 0.0 if self.module.bias is None else self.module.bias.detach().double().cpu()
        return torch.where(self.foldable(), known * weight + bias, NAN)

    @override
    def request(self, needed: Tensor) -> None:
        self.flow.request(self.input, self.dim, needed)

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        m, kept = self.module, self.flow.kept_along(self.input, self.dim)
        scale = torch.ones(len(m.weight), dtype=torch.float64)
        both = scale if self.row_scale is None else self.row_scale
        weight_scale = both if self.column_scale is None else both * self.column_scale
        tensors = {"weight": scaled(m.weight, kept, row_scale=weight_scale), "bias": m.bias}
        if m.bias is not None:
            tensors["bias"] = scaled(m.bias, kept, row_scale=both)
        target, n = str(self.node.target), len(kept)
        new = resized(m, tensors, in_channels=n, out_channels=n, groups=n)
        self.flow.parts[target] = new
        return self.flow.graph.call_module(target, (self.flow.made[self.input],)), kept


class Mask(Unary):
    """A Bayesian dropout layer: multiplies each unit by its mean mask."""

    homogeneous = True

    def __init__(self, flow: Flow, node: fx.Node, dim: int) -> None:
        super().__init__(flow, node, dim)
        layer = flow.source.get_submodule(str(node.target))
        if not isinstance(layer, BayesianDropout):
            raise TypeError(f"Mask: expected a Bayesian dropout layer, got {layer}")
        self.mask = layer.mean_mask().detach().double().cpu()
        self.folded = False

    @override
    def constant(self) -> Tensor:
        known = self.flow.constant_along(self.input, self.dim)
        return torch.where(self.mask == 0, 0.0, known * self.mask)

    @override
    def request(self, needed: Tensor) -> None:
        missing = self.flow.constant[self.node].isnan()
        self.flow.request(self.input, self.dim, needed & missing)

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        flow, name, kept = self.flow, str(self.node.target), self.wanted
        constant = flow.constant[self.node]
        scale = torch.ones_like(self.mask) if self.folded else self.mask
        # Units that the input no longer has arrive as their constants over the scale to come.
        before = torch.where(scale == 0, 0.0, constant / scale)
        node = flow.reindexed(name, self.input, self.dim, kept, before)
        scale = scale[kept]
        if (scale != 1).any():
            shape = shape_of(self.node) or torch.Size()
            scale = scale.reshape(-1, *[1] * (len(shape) - 1 - self.dim))
            scale = scale.to(self.node.meta["device"], self.node.meta["tensor_meta"].dtype)
            factor = flow.tensor(f"{name}.scale", scale)
            node = flow.graph.call_function(torch.mul, (node, factor))
        return node, kept


class Add(Rule):
    """The sum of two tensors of the same shape."""

    @override
    def constant(self) -> Tensor:
        a, b = (self.flow.constant_along(n, self.dim) for n in self._terms())
        return a + b

    @override
    def request(self, needed: Tensor) -> None:
        for source in self._terms():
            missing = self.flow.constant_along(source, self.dim).isnan()
            self.flow.request(source, self.dim, needed & missing)

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        kept = self.wanted
        terms = [
            self.flow.reindexed(
                f"{self.node.name}_{side}",
                source,
                self.dim,
                kept,
                self.flow.constant_along(source, self.dim),
            )
            for side, source in zip(("left", "right"), self._terms(), strict=True)
        ]
        return self.flow.graph.call_function(torch.add, tuple(terms)), kept

    def _terms(self) -> tuple[fx.Node, fx.Node]:
        left, right = self.node.args
        if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
            raise TypeError(f"Add: expected two tensors, got {self.node.args}")
        return left, right


def scaled(
    value: Tensor,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
    row_scale: Tensor | None = None,
    column_scale: Tensor | None = None,
) -> Tensor:
    """Return rows and columns of a parameter, scaled; the scales are those of the full network."""
    value = value.detach()
    if row_scale is not None:
        value = value * row_scale.to(value).reshape(-1, *[1] * (value.ndim - 1))
    if column_scale is not None:
        value = value * column_scale.to(value).reshape(-1, *[1] * (value.ndim - 2))
    if rows is not None and len(rows) < len(value):
        value = value[rows.to(value.device)]
    if columns is not None and len(columns) < value.shape[1]:
        value = value[:, columns.to(value.device)]
    return value.clone(memory_format=torch.contiguous_format)


def resized(module: nn.Module, tensors: dict[str, Tensor | None], **sizes: int) -> nn.Module:
    """Return a module like ``module`` with other parameters, buffers and sizes."""
    new = copy.copy(module)
    new._parameters, new._buffers = dict(module._parameters), dict(module._buffers)
    for name, value in tensors.items():
        if name in new._buffers:
            new._buffers[name] = value
        else:
            new._parameters[name] = None if value is None else nn.Parameter(value)
    for name, size in sizes.items():
        setattr(new, name, size)
    return new


def _pads(module: Any) -> bool:
    padding = getattr(module, "padding", 0)
    if isinstance(padding, str):
        return padding != "valid"
    return any(padding) if isinstance(padding, tuple) else padding != 0
