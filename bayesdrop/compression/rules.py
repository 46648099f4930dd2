"""One rule for each kind of operation that keeps units apart, or mixes them by weights."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from typing_extensions import override

from bayesdrop.compression.flow import NAN, Flow, Opaque, Rule, resized, scaled
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
    """``torch.flatten(x, 1)`` of a tensor whose units are in dimension 1."""

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
        node = self.flow.graph.call_module(str(self.node.target), (self.flow.made[self.input],))
        return node, kept


class Weighted(Unary):
    """Linear, or a convolution with one group: every output unit sees every input unit."""

    def __init__(self, flow: Flow, node: fx.Node, dim: int) -> None:
        super().__init__(flow, node, dim)
        self.module: Any = flow.source.get_submodule(str(node.target))
        self.row_scale: Tensor | None = None
        self.column_scale: Tensor | None = None
        self.pads = _pads(self.module)
        padding_mode = getattr(self.module, "padding_mode", "zeros")
        self.mixes = padding_mode == "zeros"

    def foldable(self) -> Tensor:
        """Return which inputs are constants that can go into the bias."""
        known = self.flow.constant_along(self.input, self.dim)
        # At the border a padded convolution sees zeros instead of the constant.
        return known == 0 if self.pads else ~known.isnan()

    def uses(self) -> Tensor:
        """Return which output unit has a weight for which input unit, shape (out, in)."""
        weight = self.module.weight.detach()
        return _by_position(weight != 0).any(2).cpu()

    def folded(self, columns: Tensor) -> Tensor:
        """Return what the constants of the given input units add to the output."""
        known = self.flow.constant_along(self.input, self.dim)
        columns = columns & (known != 0)
        weight = self.module.weight.detach()[:, columns.to(self.module.weight.device)].double()
        return _by_position(weight).sum(2).cpu() @ known[columns]

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
        source = self._without_unused()
        columns = self.flow.kept_along(self.input, self.dim) if source is None else source[1]
        made = self.flow.made[self.input] if source is None else source[0]
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
        if self.input in self.flow.selected:
            return self._selected(weight, bias), rows
        names = ("in_features", "out_features")
        if not isinstance(m, nn.Linear):
            names = ("in_channels", "out_channels")
        sizes = dict(zip(names, (len(columns), len(rows)), strict=True))
        target = str(self.node.target)
        self.flow.parts[target] = resized(m, {"weight": weight, "bias": bias}, **sizes)
        return self.flow.graph.call_module(target, (made,)), rows

    def _without_unused(self) -> tuple[fx.Node, Tensor] | None:
        """Emit the choice of the inputs that are needed, where the source could not leave any out.

        That is so for pixels, and for positions of a flattened map: nothing but weights that are
        zero says which are not. Below an eighth of them the choice would cost more than it saves.
        """
        flow, source = self.flow, self.input
        kept = flow.kept_along(source, self.dim)
        if not isinstance(self.module, nn.Linear) or source in flow.selected:
            return None
        if flow.rules[source].dim != self.dim:
            return None
        needed = kept[flow.needed[source][kept]]
        if not 0 < len(needed) <= len(kept) - len(kept) / 8:
            return None
        constant = flow.constant[source]
        name = str(self.node.target)
        return flow.reindexed(name, source, self.dim, needed, constant), needed

    def _selected(self, weight: Tensor, bias: Tensor | None) -> fx.Node:
        """Emit the layer with the weights of those input units only that the input has."""
        m, graph, target = self.module, self.flow.graph, str(self.node.target)
        made, index = self.flow.made[self.input], self.flow.selected[self.input]
        linear = isinstance(m, nn.Linear)
        if linear:  # One input unit's weights lie side by side, which makes the copy cheap.
            weight = weight.t().contiguous()
        grad = m.weight.requires_grad
        name = f"{target}.weight_transposed" if linear else f"{target}.weight"
        node = self.flow.tensor(name, nn.Parameter(weight, grad))
        node = graph.call_function(torch.index_select, (node, 0 if linear else 1, index))
        shift = None
        if bias is not None:
            shift = self.flow.tensor(f"{target}.bias", nn.Parameter(bias, grad))
        if linear:
            node = graph.call_function(torch.t, (node,))
            return graph.call_function(F.linear, (made, node, shift))
        function = (F.conv1d, F.conv2d, F.conv3d)[m.weight.ndim - 3]
        settings = (m.stride, m.padding, m.dilation)
        return graph.call_function(function, (made, node, shift, *settings))


class Depthwise(Weighted):
    """A convolution with one group per channel: units stay apart."""

    def __init__(self, flow: Flow, node: fx.Node, dim: int) -> None:
        super().__init__(flow, node, dim)
        self.mixes = False

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

    def __init__(self, flow: Flow, node: fx.Node, dim: int) -> None:
        super().__init__(flow, node, dim)
        layer = flow.source.get_submodule(str(node.target))
        if not isinstance(layer, BayesianDropout):
            raise TypeError(f"Mask: expected a Bayesian dropout layer, got {layer}")
        self.mask = layer.mean_mask().detach().double().cpu()
        self.folded: Literal["forward", "backward"] | None = None

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


def _pads(module: Any) -> bool:
    padding = getattr(module, "padding", 0)
    if isinstance(padding, str):
        return padding != "valid"
    return any(padding) if isinstance(padding, tuple) else padding != 0


def _by_position(weight: Tensor) -> Tensor:
    # (out, in, ...) -> (out, in, positions); "-1" would not do for a weight without elements.
    return weight[:, :, None] if weight.ndim == 2 else weight.flatten(2)
