"""What a network with input-dependent masks costs on average: units kept and FLOPs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from typing_extensions import override

from bayesdrop.compression.compaction import analysed, detached, emitted
from bayesdrop.compression.flops import count_flops
from bayesdrop.compression.flow import Flow
from bayesdrop.compression.gate import Gate
from bayesdrop.compression.graph import shape_of
from bayesdrop.compression.rules import Flatten, Mask, ShapeQuery, Unary
from bayesdrop.compression.weighted import Depthwise, Weighted
from bayesdrop.conversion import without_dropout
from bayesdrop.errors import DataError
from bayesdrop.inference.arrays import arrays_of
from bayesdrop.inference.batches import Data, batches
from bayesdrop.nn import named_dropout_layers
from bayesdrop.program.checks import require_module
from bayesdrop.program.inputs import Inputs, positional_inputs
from bayesdrop.record import Record


@dataclass(frozen=True)
class PerInputCost(Record, also=("speedup", "speedup_needed")):
    """Active units and FLOPs per example, averaged over a data set.

    Attributes:
        units: Dropout layer to the average number of non-zero entries of its mean mask.
        units_total: Dropout layer to its number of units.
        flops: FLOPs if each layer had only the inputs and the outputs that are kept for
            the example at hand, as the literature counts them.
        flops_needed: FLOPs with the inputs kept for the example at hand, but every output that is
            kept for some input: whether a unit's gate prunes it is known only once the unit has
            been computed. ``compact(..., per_input=True)`` needs this many for one example, where
            nothing but Linear and convolution layers sees the masked units.
        flops_total: FLOPs of the plain network.
        num_examples: Number of examples.
    """

    units: dict[str, float]
    units_total: dict[str, int]
    flops: float
    flops_needed: float
    flops_total: int
    num_examples: int

    @property
    def speedup(self) -> float:
        """``flops_total`` over ``flops``."""
        return self.flops_total / max(1.0, self.flops)

    @property
    def speedup_needed(self) -> float:
        """``flops_total`` over ``flops_needed``."""
        return self.flops_total / max(1.0, self.flops_needed)


@torch.no_grad()
def measure_per_input(
    network: nn.Module, data: Data, *, batch_size: int | None = None
) -> PerInputCost:
    r"""Count the units kept and the FLOPs of the mean-masked network, averaged over a data set.

    .. math:: \frac1N \sum_n \sum_l 2\, i_{nl}\, o_{nl}\, k_l\, s_l

    over Linear and convolution layers :math:`l` with :math:`i_{nl}` inputs and
    :math:`o_{nl}` outputs kept for example :math:`n`, kernel size :math:`k_l` and :math:`s_l`
    positions; multiply and add are both counted, and all outputs of the last layer. An input is
    kept if the nearest mask before the layer keeps it, an output if the nearest mask after it
    does (for features made of a channel: any of them). What ``compact`` removes for every input is
    not kept. As in ``count_flops``, the masks themselves cost nothing.

    Args:
        network: A ``BayesianNetwork`` or any module that ``compact`` takes; it is not changed.
            Without input-dependent masks ``flops`` is that of the compact network.
        data: Inputs, a pair ``(x, y)``, a Dataset or a DataLoader; read batch by batch.
        batch_size: Rows at a time; None takes 1000, or the DataLoader's.

    Raises:
        CompactionError: As for ``compact``.
        DataError: If there are no examples.

    Example:
        >>> import bayesdrop as bd
        >>> net = bd.to_dependent(bd.convert(bd.networks.lenet_500_300()))
        >>> cost = measure_per_input(net, torch.zeros(2, 784))
        >>> cost.units_total["fc3_dropout"], cost.flops_total
        (300, 1090000)
    """
    require_module("measure_per_input", network)
    data = arrays_of("measure_per_input", network, data)
    device = next(network.parameters(), torch.empty(0)).device
    counter: _Counter | None = None
    for x, _ in batches(data, batch_size or 1000, device=device):
        counter = _Counter(network, x[:1]) if counter is None else counter
        counter.add(x)
    if counter is None:
        raise DataError(
            "measure_per_input",
            expected="at least one batch",
            got="none",
            hint="Does the DataLoader drop an incomplete last batch?",
        )
    return counter.result(count_flops(without_dropout(network), x[:1]))


class _Counter:
    """Sums over examples of units kept, and of the FLOPs that they save."""

    def __init__(self, network: nn.Module, example: Inputs) -> None:
        work = detached(network)
        self.flow = analysed(work, positional_inputs("measure_per_input", work, example))
        self.static = count_flops(emitted(self.flow), example)
        self.weighted = [r for r in self.flow.rules.values() if isinstance(r, Weighted)]
        self.num_examples = 0
        self.kept: dict[fx.Node, int] = defaultdict(int)
        self.saved = self.saved_needed = 0

    def add(self, x: Inputs) -> None:
        """Add a batch."""
        run = _Gates(self.flow)
        run.run(*positional_inputs("measure_per_input", self.flow.source, x))
        self.num_examples += len(x)
        for node, units in run.kept.items():
            self.kept[node] += int(units.sum())
        for rule in self.weighted:
            kept = self.flow.kept_along(rule.input, rule.dim)
            left = _along(run.before(rule.input, rule.dim), kept, len(x))
            right = _along(run.after(rule.node, rule.dim), rule.wanted, len(x))
            price = 2 * _positions(rule)
            if isinstance(rule, Depthwise):
                used, needed, static = (left & right).sum(), left.sum(), left.numel()
            else:
                used = (left.sum(1) * right.sum(1)).sum()
                needed = left.sum() * right.shape[1]
                static = left.numel() * right.shape[1]
            self.saved += price * (static - int(used))
            self.saved_needed += price * (static - int(needed))

    def result(self, flops_total: int) -> PerInputCost:
        """Return the averages."""
        layers = dict(named_dropout_layers(self.flow.source))
        units: dict[str, float] = {}
        for name, layer in layers.items():
            calls = [count for node, count in self.kept.items() if node.target == name]
            if calls or layer.input_dependent:
                units[name] = sum(calls) / max(1, len(calls)) / self.num_examples
            else:
                units[name] = float((layer.mean_mask() != 0).sum())
        return PerInputCost(
            units=units,
            units_total={name: layer.num_units for name, layer in layers.items()},
            flops=self.static - self.saved / self.num_examples,
            flops_needed=self.static - self.saved_needed / self.num_examples,
            flops_total=flops_total,
            num_examples=self.num_examples,
        )


class _Gates(fx.Interpreter):
    """Runs the masked network and tells which units are kept, ``(N, K)``; None means all."""

    def __init__(self, flow: Flow) -> None:
        super().__init__(flow.source)
        self.flow = flow
        self.kept: dict[fx.Node, Tensor] = {}

    @override
    def run_node(self, n: fx.Node) -> Any:
        rule = self.flow.rules[n]
        if isinstance(rule, Gate):
            (x,), _ = self.fetch_args_kwargs_from_env(n)
            self.kept[n] = (rule.layer.mean_mask(x) != 0).cpu()
        return super().run_node(n)

    def before(self, node: fx.Node, dim: int) -> Tensor | None:
        """Return which units of a tensor the nearest mask before it keeps."""
        rule = self.flow.rules[node]
        if rule.dim != dim:
            return None
        if isinstance(rule, Gate):
            return self.kept[node]
        if isinstance(rule, Flatten):
            found = self.before(rule.input, 1)
            return None if found is None else found.repeat_interleave(rule.block, 1)
        if isinstance(rule, Unary) and (rule.homogeneous or isinstance(rule, Mask)):
            return self.before(rule.input, dim)
        return None

    def after(self, node: fx.Node, dim: int) -> Tensor | None:
        """Return which units of a tensor the nearest masks after it keep, any of them."""
        total: Tensor | None = None
        for user in node.users:
            rule = self.flow.rules[user]
            if isinstance(rule, ShapeQuery):
                continue
            if isinstance(rule, Gate) and rule.dim == dim:
                found: Tensor | None = self.kept[user]
            elif isinstance(rule, Unary) and not isinstance(rule, Weighted) and rule.dim == dim:
                found = self.after(user, dim)
                if isinstance(rule, Flatten) and found is not None:
                    found = found.unflatten(1, (-1, rule.block)).any(2)
            else:
                found = None
            if found is None:
                return None
            total = found if total is None else total | found
        return total


def _along(units: Tensor | None, kept: Tensor, rows: int) -> Tensor:
    if units is None:
        return torch.ones(rows, len(kept), dtype=torch.bool)
    return units[:, kept]


def _positions(rule: Weighted) -> int:
    """Return the number of products of each input unit's value with each output's weights."""
    shape = shape_of(rule.node) or torch.Size()
    outside = prod(size for dim, size in enumerate(shape) if dim not in (0, rule.dim))
    return prod(rule.module.weight.shape[2:]) * outside
