"""Rules for layers that treat their units in groups of one size: convolutions and GroupNorm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from typing_extensions import override

from bayesdrop.compression.flow import NAN, Flow, resized, scaled
from bayesdrop.compression.rules import Unary
from bayesdrop.compression.weighted import Weighted
from bayesdrop.ops.layout import memory_format_of


class Grouped(Weighted):
    """A convolution with groups: units go with their groups, or as many from each group.

    Groups have to stay of one size, so a group keeps some units that nothing needs if another one
    needs more.
    """

    def __init__(self, flow: Flow, node: fx.Node, dim: int) -> None:
        super().__init__(flow, node, dim)
        self.mixes, self.groups = False, int(self.module.groups)
        self.rows = self.columns = torch.arange(0)

    def _block(self, value: Tensor) -> Tensor:
        """Return what is by unit as a row for each group."""
        return value.reshape(self.groups, -1)

    @override
    def uses(self) -> Tensor:
        return torch.block_diag(*self._used()).bool()

    def _sums(self) -> Tensor:
        """Return the weights' sums over positions, shape (groups, outputs, inputs) of a group."""
        weight = self.module.weight.detach().double().flatten(2).sum(2).cpu()
        return weight.reshape(self.groups, -1, weight.shape[1])

    def _used(self) -> Tensor:
        """Return which output has a weight for which input of its group, likewise."""
        used = (self.module.weight.detach() != 0).flatten(2).any(2).cpu()
        return used.reshape(self.groups, -1, used.shape[1])

    @override
    def folded(self, columns: Tensor) -> Tensor:
        known = self.flow.constant_along(self.input, self.dim)
        value = self._block(torch.where(columns, known, 0.0).nan_to_num(0.0))
        return torch.einsum("goi,gi->go", self._sums(), value).flatten()

    @override
    def constant(self) -> Tensor:
        foldable = self.foldable()
        value = self.folded(foldable)
        if self.module.bias is not None:
            value = value + self.module.bias.detach().double().cpu()
        unknown = (self._used() & self._block(~foldable)[:, None]).any(2).flatten()
        return torch.where(unknown, NAN, value)

    @override
    def request(self, needed: Tensor) -> None:
        rows = self._evened(self._block(needed))
        foldable = self._block(self.foldable())
        columns = (self._used() & rows[:, :, None]).any(1) & ~foldable
        columns = self._evened(columns, first=foldable, among=rows.any(1))
        self.rows, self.columns = (part.flatten().nonzero().flatten() for part in (rows, columns))
        self.kept_groups = int(rows.any(1).sum())
        unknown = self.flow.constant_along(self.input, self.dim).isnan()
        self.flow.request(self.input, self.dim, columns.flatten() & unknown)

    @staticmethod
    def _evened(units: Tensor, first: Tensor | None = None, among: Tensor | None = None) -> Tensor:
        """Return units with others, so that each group that has any, or is named, has as many."""
        among = units.any(1) if among is None else among
        number = max(1, int(units.sum(1).max()))
        rank = units.double() * 2 + (0.0 if first is None else first.double())
        chosen = rank.argsort(dim=1, descending=True, stable=True)[:, :number]
        result = torch.zeros_like(units).scatter_(1, chosen, torch.ones_like(units))
        return result & among[:, None]

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        m, rows, columns, target = self.module, self.rows, self.columns, str(self.node.target)
        weight, inside = m.weight.detach(), m.weight.shape[1]
        if self.column_scale is not None:
            shape = (self.groups, 1, inside, *[1] * (weight.ndim - 2))
            scale = self.column_scale.to(weight).reshape(shape)
            weight = (weight.reshape(self.groups, -1, *weight.shape[1:]) * scale).flatten(0, 1)
        weight = scaled(weight, rows, row_scale=self.row_scale)
        own = (columns % inside).reshape(self.kept_groups, -1)
        own = own.repeat_interleave(len(rows) // self.kept_groups, 0).to(weight.device)
        own = own.reshape(*own.shape, *[1] * (weight.ndim - 2))
        weight = weight.gather(1, own.expand(-1, -1, *weight.shape[2:]))
        gone = torch.ones(self.groups * inside, dtype=torch.bool)
        gone[columns] = False
        shift = self.folded(gone & self.foldable())[rows].to(m.weight)
        bias = m.bias
        if bias is not None or (shift != 0).any():
            bias = shift if bias is None else scaled(bias, rows) + shift
            bias = bias if self.row_scale is None else bias * self.row_scale[rows].to(bias)
        known = self.flow.constant_along(self.input, self.dim)
        made = self.flow.reindexed(target, self.input, self.dim, columns, known)
        weight = weight.contiguous(memory_format=memory_format_of(m.weight))
        tensors = {"weight": weight, "bias": bias}
        sizes = {"in_channels": len(columns), "out_channels": len(rows)}
        self.flow.parts[target] = resized(m, tensors, **sizes, groups=self.kept_groups)
        return self.flow.graph.call_module(target, (made,)), rows


class GroupedNorm(Unary):
    """GroupNorm: a group that nothing needs goes as a whole."""

    def __init__(self, flow: Flow, node: fx.Node, dim: int) -> None:
        super().__init__(flow, node, dim)
        self.module: Any = flow.source.get_submodule(str(node.target))

    def _whole(self, units: Tensor) -> Tensor:
        """Return all units of the groups that have any of the given ones."""
        groups = units.reshape(self.module.num_groups, -1)
        return groups.any(1, keepdim=True).expand_as(groups).flatten()

    @override
    def constant(self) -> Tensor:
        known = self.flow.constant_along(self.input, self.dim)
        bias = self.module.bias.detach().double().cpu() if self.module.affine else 0.0
        return torch.where(self._whole(known != 0), NAN, bias)

    @override
    def request(self, needed: Tensor) -> None:
        unknown = self.flow.constant_along(self.input, self.dim).isnan()
        self.flow.request(self.input, self.dim, self._whole(needed) & unknown)

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        flow, m, target = self.flow, self.module, str(self.node.target)
        kept = self._whole(flow.needed[self.node]).nonzero().flatten()
        known = flow.constant_along(self.input, self.dim)
        made = flow.reindexed(target, self.input, self.dim, kept, known)
        tensors = {
            name: None if value is None else scaled(value, kept)
            for name, value in m._parameters.items()
        }
        groups = len(kept) * m.num_groups // m.num_channels
        new: nn.Module = resized(m, tensors, num_channels=len(kept), num_groups=groups)
        flow.parts[target] = new
        return flow.graph.call_module(target, (made,)), kept
