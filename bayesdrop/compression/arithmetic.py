"""The rule for sums, products and their like, of two tensors or of a tensor and a number."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from typing_extensions import override

from bayesdrop.compression.flow import NAN, Flow, Rule
from bayesdrop.compression.graph import shape_of

OPERATIONS: dict[Any, Any] = {
    operator.add: torch.add, torch.add: torch.add, "add": torch.add,
    operator.sub: torch.sub, torch.sub: torch.sub, "sub": torch.sub,
    operator.mul: torch.mul, torch.mul: torch.mul, "mul": torch.mul, torch.multiply: torch.mul,
    operator.truediv: torch.div, torch.div: torch.div, "div": torch.div,
}  # fmt: skip

_ORDERED: dict[Any, Any] = {
    torch.add: operator.add, torch.sub: operator.sub, torch.mul: operator.mul,
    torch.div: operator.truediv,
}  # fmt: skip


class Binary(Rule):
    """An operation on two terms that broadcast, such as a residual sum or the gate of a channel.

    A term is a tensor with the units, one without (whose size there is 1), a parameter, or a
    number.

    Args:
        flow: As for every rule.
        node: As for every rule.
        dim: The dimension of the units in the output.
    """

    def __init__(self, flow: Flow, node: fx.Node, dim: int) -> None:
        super().__init__(flow, node, dim)
        self.function = OPERATIONS[node.target]

    @override
    def constant(self) -> Tensor:
        a, b = (self._known(term) for term in self.node.args)
        value: Tensor = self.function(a, b).expand(self.size).clone()
        if self.function is torch.mul:
            value[((a == 0) | (b == 0)).expand(self.size)] = 0.0
        elif self.function is torch.div:
            value[((a == 0) & (b != 0)).expand(self.size)] = 0.0
        return torch.where(value.isfinite(), value, NAN)

    @override
    def request(self, needed: Tensor) -> None:
        missing = needed & self.flow.constant[self.node].isnan()
        for term in self.inputs:
            dim = self._dim(term)
            if dim is None:
                self.flow.request(term, None)
            else:
                unknown = self.flow.constant_along(term, dim).isnan()
                self.flow.request(term, dim, missing & unknown)

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        kept = self.wanted
        sides = zip(("left", "right"), self.node.args, strict=True)
        terms = tuple(self._emitted(f"{self.node.name}_{side}", t, kept) for side, t in sides)
        # ONNX does not take torch.mul of a number and a tensor in this order.
        numbers_first = not isinstance(self.node.args[0], fx.Node)
        function = _ORDERED[self.function] if numbers_first else self.function
        return self.flow.graph.call_function(function, terms), kept

    def _dim(self, term: fx.Node) -> int | None:
        """Return the dimension of the units in a term; None if it does not have them."""
        shape = shape_of(term) or ()
        dim = self.dim - len(shape_of(self.node) or ()) + len(shape)
        return dim if dim >= 0 and shape[dim] == self.size else None

    def _known(self, term: Any) -> Tensor:
        """Return the units' values that are the same for every input, and NaN for others."""
        if not isinstance(term, fx.Node):
            return torch.tensor(float(term), dtype=torch.float64)
        dim, nothing = self._dim(term), torch.full((1,), NAN, dtype=torch.float64)
        if term.op == "get_attr" and shape_of(term) is not None:
            value = operator.attrgetter(str(term.target))(self.flow.source).detach().double().cpu()
            by_unit = value if dim is None else value.movedim(dim, 0)
            by_unit = by_unit.reshape(1 if dim is None else self.size, -1)
            same = (by_unit == by_unit[:, :1]).all(1)
            return torch.where(same, by_unit[:, 0], NAN)
        return nothing if dim is None else self.flow.constant_along(term, dim)

    def _emitted(self, name: str, term: Any, kept: Tensor) -> Any:
        if not isinstance(term, fx.Node):
            return term
        dim = self._dim(term)
        if dim is None:
            return self.flow.made[term]
        if term.op == "get_attr" and len(kept) < self.size:
            value = operator.attrgetter(str(term.target))(self.flow.source)
            cut = value.detach().index_select(dim, kept.to(value.device))
            if isinstance(value, torch.nn.Parameter):
                cut = torch.nn.Parameter(cut, value.requires_grad)
            return self.flow.tensor(name, cut)
        return self.flow.reindexed(name, term, dim, kept, self.flow.constant_along(term, dim))


def units_of(flow: Flow, node: fx.Node) -> int | None:
    """Return the dimension of the units of a sum or product, if one of its terms has them.

    Args:
        flow: What is known so far.
        node: The operation.
    """
    shape = shape_of(node) or ()
    if len(node.args) != 2 or node.kwargs:
        return None
    terms = [t for t in node.args if isinstance(t, fx.Node)]
    numbers = all(isinstance(t, fx.Node | int | float) for t in node.args)
    if not numbers or any(shape_of(t) is None for t in terms):
        return None
    for term in terms:
        rule, own = flow.rules[term], shape_of(term) or ()
        dim = rule.dim + len(shape) - len(own)
        if rule.counted and own[rule.dim] == shape[dim]:
            return dim
    return None
