"""A smaller network that goes on drawing masks, of the units that are not pruned."""

from __future__ import annotations

import copy
from collections import Counter
from functools import partial

import torch
from torch import Tensor, fx, nn
from typing_extensions import override

from bayesdrop.compression.chooser import Chooser
from bayesdrop.compression.compaction import analysed, detached, emitted, verify
from bayesdrop.compression.flow import NAN, Flow, Rule
from bayesdrop.compression.rounding import rounded
from bayesdrop.compression.rules import Unary
from bayesdrop.errors import CompactionError
from bayesdrop.nn import (
    BayesianDropout,
    InnerMasks,
    named_dropout_layers,
    restrict_units,
    unit_tensors,
)
from bayesdrop.program.explaining import explained
from bayesdrop.program.inputs import joined_inputs
from bayesdrop.program.network import BayesianNetwork
from bayesdrop.program.program import Program


def random_compacted(
    network: nn.Module, example: tuple[Tensor, ...], *, multiple_of: int, check: bool
) -> nn.Module:
    """Return a smaller network with the posterior of what is kept, see ``compact``."""
    with torch.no_grad():
        work = detached(network, random=True)
        with explained("compact", work, joined_inputs(example)):
            expected = work(*example) if check else None
        for name, layer in named_dropout_layers(work):
            _check(name, layer)
        names = {module: name for name, module in work.named_modules()}
        result = emitted(analysed(work, example, partial(_Random, multiple_of=multiple_of)))
        for _, layer in named_dropout_layers(result):
            bound, layer._bound = layer.bound, None
            if bound is not None:
                layer.bind_weights(result.get_submodule(names[bound[0]]), bound[1])
        if check:
            verify(expected, result(*example))
    module = network.network if isinstance(network, Program) else network
    modes = {name: part.training for name, part in module.named_modules()}
    for name, part in result.named_modules():
        part.training = modes.get(name, module.training)
    if not isinstance(network, Program):
        return result
    likelihood = copy.deepcopy(network.likelihood)
    bnn = BayesianNetwork(result, likelihood, network.num_data, kl_weight=network.kl_weight)
    for name in ("training", "frozen", "privacy", "feature_names"):
        setattr(bnn, name, getattr(network, name))
    if (seen := network.inputs_seen()) is not None:
        bnn.remember(seen)
    return bnn


def _check(name: str, layer: BayesianDropout) -> None:
    pruned = int((~layer.kept()).sum())
    if pruned and not unit_tensors(layer):
        raise CompactionError(
            "compact",
            expected="masks whose units can be taken apart, for keep_posterior=True",
            got=f"{type(layer).__name__} {name!r}, which prunes {pruned} of its units",
            hint="Those of sticks, orders, one rate for all and the group lasso cannot. "
            "bd.compact(network, x) folds its mean mask in; bd.cut_to_width cuts an order.",
        )


class _Random(Chooser):
    """Finds the rule for a node of a network whose masks stay random."""

    def __init__(self, flow: Flow, multiple_of: int) -> None:
        super().__init__(flow)
        self.multiple_of = multiple_of
        nodes = flow.source.graph.nodes
        self.calls = Counter(str(n.target) for n in nodes if n.op == "call_module")

    @override
    def _recurrent(self, node: fx.Node, module: nn.Module) -> Rule | None:
        # Masks inside a layer stay as they are, and it keeps all its units.
        return None if isinstance(module, InnerMasks) else super()._recurrent(node, module)

    @override
    def _layer(self, node: fx.Node, module: nn.Module) -> Rule | None:
        if isinstance(module, InnerMasks):
            return None
        if not isinstance(module, BayesianDropout):
            return super()._layer(node, module)
        whole = self.calls[str(node.target)] > 1 or not unit_tensors(module)
        dim = len(node.meta["tensor_meta"].shape) + module.unit_dim
        return RandomMask(self.flow, node, dim, module, self.multiple_of, whole)


class RandomMask(Unary):
    """A dropout layer that draws the masks of the units it keeps; all others are 0.

    Args:
        flow: The analysis.
        node: The node.
        dim: The dimension of its units.
        layer: The layer.
        multiple_of: The number of units that stay is a multiple of it.
        whole: Whether it keeps all units that are open, whether something needs them or not.
    """

    def __init__(
        self,
        flow: Flow,
        node: fx.Node,
        dim: int,
        layer: BayesianDropout,
        multiple_of: int,
        whole: bool,
    ) -> None:
        super().__init__(flow, node, dim)
        self.layer, self.whole = layer, whole
        # A penalty that depends on weights needs those of all units that the layer has.
        self.weighed = whole and layer.bound is not None
        kept, keep_prob = layer.kept().cpu(), layer.keep_prob().detach().cpu()
        self.closed = ~rounded(kept, keep_prob, multiple_of)

    @property
    @override
    def counted(self) -> bool:
        return True

    @override
    def constant(self) -> Tensor:
        known = self.flow.constant_along(self.input, self.dim)
        zero = self.closed if self.weighed else self.closed | (known == 0)
        return torch.where(zero, 0.0, NAN)

    @override
    def request(self, needed: Tensor) -> None:
        if self.weighed:
            self.flow.needed[self.node] |= ~self.closed
        missing = self.flow.constant[self.node].isnan()
        self.flow.request(self.input, self.dim, missing if self.whole else needed & missing)

    @override
    def emit(self) -> tuple[fx.Node, Tensor]:
        flow, target, wanted = self.flow, str(self.node.target), self.wanted
        name = f"{self.node.name}_units"
        # A unit whose input is 0 has a posterior all the same.
        live = self.closed.logical_not() if self.whole else flow.needed[self.node] & ~self.closed
        units = live.nonzero().flatten()
        constant = flow.constant_along(self.input, self.dim)
        if not len(units):  # all are pruned: the one that stays is 0
            node = flow.reindexed(name, self.input, self.dim, wanted, constant)
            return flow.graph.call_function(torch.mul, (node, 0.0)), wanted
        node = flow.reindexed(name, self.input, self.dim, units, constant)
        if target not in flow.parts:
            flow.parts[target] = _restricted(self.layer, units)
        flow.made[self.node] = flow.graph.call_module(target, (node,))
        flow.kept[self.node] = units
        zeros = torch.zeros(self.size, dtype=torch.float64)
        return flow.reindexed(name, self.node, self.dim, wanted, zeros), wanted


def _restricted(layer: BayesianDropout, units: Tensor) -> BayesianDropout:
    bound = layer.bound
    new = copy.deepcopy(layer, {} if bound is None else {id(bound[0]): bound[0]})
    if len(units) < layer.num_units:
        restrict_units(new, units)
    return new
