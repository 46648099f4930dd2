"""Rules for layers with weights: most mix units, and all can be cut."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from typing_extensions import override

from bayesdrop.compression.flow import NAN, Flow, resized, scaled
from bayesdrop.compression.rules import Unary


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

    @property
    @override
    def counted(self) -> bool:
        return True

    @property
    def weight(self) -> Tensor:
        """The weight, outputs first, then inputs."""
        return self.weight_of(self.module)

    def weight_of(self, layer: Any) -> Tensor:
        """Return a view of a layer's weight, outputs first."""
        return layer.weight.detach()

    def stored(self, weight: Tensor) -> Tensor:
        """Return a weight as the layer has it."""
        return weight

    def foldable(self) -> Tensor:
        """Return which inputs are constants that can go into the bias."""
        known = self.flow.constant_along(self.input, self.dim)
        # At the border a padded convolution sees zeros instead of the constant.
        return known == 0 if self.pads else ~known.isnan()

    def uses(self) -> Tensor:
        """Return which output unit has a weight for which input unit, shape (out, in)."""
        return _by_position(self.weight != 0).any(2).cpu()

    def folded(self, columns: Tensor) -> Tensor:
        """Return what the constants of the given input units add to the output."""
        known = self.flow.constant_along(self.input, self.dim)
        columns = columns & (known != 0)
        weight = self.weight[:, columns.to(self.module.weight.device)].double()
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
        gone = torch.ones(self.weight.shape[1], dtype=torch.bool)
        gone[columns] = False
        weight = scaled(self.weight, rows, columns, self.row_scale, self.column_scale)
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
        self.flow.parts[target] = resized(
            m, {"weight": self.stored(weight), "bias": bias}, **sizes
        )
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


class Transposed(Weighted):
    """A transposed convolution with one group, whose weight has the inputs first.

    At borders, and with a stride everywhere, its weights meet constants differently by place.
    """

    def __init__(self, flow: Flow, node: fx.Node, dim: int) -> None:
        super().__init__(flow, node, dim)
        self.pads, self.mixes = True, False

    @override
    def weight_of(self, layer: Any) -> Tensor:
        return layer.weight.detach().transpose(0, 1)

    @override
    def stored(self, weight: Tensor) -> Tensor:
        return weight.transpose(0, 1).contiguous()


class Lookup(Unary):
    """``nn.Embedding`` or ``nn.EmbeddingBag``: the units of each word's vector stay apart."""

    def __init__(self, flow: Flow, node: fx.Node, dim: int) -> None:
        super().__init__(flow, node, dim)
        self.module: Any = flow.source.get_submodule(str(node.target))

    @property
    @override
    def counted(self) -> bool:
        return True

    @override
    def constant(self) -> Tensor:
        weight = self.module.weight.detach().cpu()
        return torch.where((weight == 0).all(0), 0.0, NAN).double()

    @override
    def request(self, needed: Tensor) -> None:
        self.flow.request(self.input, None)

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        kept, target = self.wanted, str(self.node.target)
        weight = scaled(self.module.weight, columns=kept)
        new = resized(self.module, {"weight": weight}, embedding_dim=len(kept))
        self.flow.parts[target] = new
        return self.flow.graph.call_module(target, (self.flow.made[self.input],)), kept


class MaskedLookup(Lookup):
    """An embedding with a mask of its words, which its mean multiplies the rows by."""

    def __init__(self, flow: Flow, node: fx.Node, dim: int) -> None:
        super().__init__(flow, node, dim)
        self.module = self.module.with_mean_masks()


def _pads(module: Any) -> bool:
    padding = getattr(module, "padding", 0)
    if isinstance(padding, str):
        return padding != "valid"
    return any(padding) if isinstance(padding, tuple) else padding != 0


def _by_position(weight: Tensor) -> Tensor:
    # (out, in, ...) -> (out, in, positions); "-1" would not do for a weight without elements.
    return weight[:, :, None] if weight.ndim == 2 else weight.flatten(2)
