"""One rule for each kind of operation on one tensor that keeps units apart."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, fx
from typing_extensions import override

from bayesdrop.compression.flow import NAN, Flow, Opaque, resized, scaled
from bayesdrop.compression.graph import shape_of
from bayesdrop.nn import BayesianDropout


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

    @property
    @override
    def counted(self) -> bool:
        return self.flow.rules[self.input].counted

    @override
    def request(self, needed: Tensor) -> None:
        self.flow.request(self.input, self.dim, needed)

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        node, _ = super().emit()
        if self.input in self.flow.selected:
            self.flow.selected[self.node] = self.flow.selected[self.input]
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
    """``torch.flatten(x, 1)`` of a tensor whose units are in dimension 1; or pixel unshuffle."""

    homogeneous = True

    @property
    def block(self) -> int:
        """Number of positions per unit."""
        return self.size // max(1, len(self.flow.constant[self.input]))

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
        inside = torch.arange(self.block)
        index = self.flow.selected.get(self.input)
        if index is not None:
            call, name = self.flow.graph.call_function, f"{self.node.name}.inside"
            first = call(torch.unsqueeze, (call(torch.mul, (index, self.block)), 1))
            every = call(torch.add, (first, self.flow.tensor(name, inside.to(self.flow.device))))
            self.flow.selected[self.node] = call(torch.flatten, (every,))
        return node, (kept[:, None] * self.block + inside).flatten()


class Norm(Unary):
    """BatchNorm in evaluation mode, one affine function per unit, or InstanceNorm.

    InstanceNorm without running statistics makes a constant zero, and adds the bias; that is used
    for zeros only, since it would magnify what rounding makes of the mean of others.
    """

    def __init__(self, flow: Flow, node: fx.Node, dim: int) -> None:
        super().__init__(flow, node, dim)
        self.module: Any = flow.source.get_submodule(str(node.target))
        self.row_scale: Tensor | None = None

    @property
    @override
    def counted(self) -> bool:
        return True

    @override
    def constant(self) -> Tensor:
        m = self.module
        if m.running_var is None:
            known = self.flow.constant_along(self.input, self.dim)
            bias = m.bias.detach().double().cpu() if m.affine else 0.0
            return torch.where(known == 0, bias, NAN)
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
        node = self.flow.graph.call_module(str(self.node.target), (self.flow.made[self.input],))
        return node, kept


class Mask(Unary):
    """A Bayesian dropout layer: multiplies each unit by its mean mask."""

    def __init__(self, flow: Flow, node: fx.Node, dim: int) -> None:
        super().__init__(flow, node, dim)
        layer = flow.source.get_submodule(str(node.target))
        if not isinstance(layer, BayesianDropout):
            raise TypeError(f"Mask: expected a Bayesian dropout layer, got {layer}")
        self.mask = layer.mean_mask().detach().double().cpu()
        self.folded: Literal["forward", "backward"] | None = None

    @property
    @override
    def counted(self) -> bool:
        return True

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
        if self.folded != "backward":  # The scale is still to come.
            constant = torch.where(self.mask == 0, 0.0, constant / self.mask)
        node = flow.reindexed(name, self.input, self.dim, kept, constant)
        scale = torch.ones_like(self.mask[kept]) if self.folded else self.mask[kept]
        if (scale != 1).any():
            shape = shape_of(self.node) or torch.Size()
            scale = scale.reshape(-1, *[1] * (len(shape) - 1 - self.dim))
            scale = scale.to(flow.device, self.node.meta["tensor_meta"].dtype)
            factor = flow.tensor(f"{name}.scale", scale)
            node = flow.graph.call_function(torch.mul, (node, factor))
        return node, kept


class Slope(Unary):
    """PReLU: a slope for negative numbers, one for all units or one for each."""

    def __init__(self, flow: Flow, node: fx.Node, dim: int) -> None:
        super().__init__(flow, node, dim)
        self.module: Any = flow.source.get_submodule(str(node.target))

    @override
    def constant(self) -> Tensor:
        known = self.flow.constant_along(self.input, self.dim)
        slope = self.module.weight.detach().double().cpu()
        return torch.where(known < 0, known * slope, known)

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        kept = self.flow.kept_along(self.input, self.dim)
        m, target = self.module, str(self.node.target)
        if m.num_parameters > 1:
            m = resized(m, {"weight": scaled(m.weight, kept)}, num_parameters=len(kept))
        self.flow.parts[target] = m
        return self.flow.graph.call_module(target, (self.flow.made[self.input],)), kept
