"""Masks on the inputs of layers that stay where they are: no graph is needed."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from bayesdrop.conversion.kinds import DROPOUTS
from bayesdrop.conversion.masks import new_mask
from bayesdrop.conversion.modes import graph_of_both_modes
from bayesdrop.conversion.plan import WIDTH_UNKNOWN, Plan, input_of
from bayesdrop.conversion.report import Placed
from bayesdrop.conversion.request import NEVER_DROPPED, Request
from bayesdrop.conversion.units import Units, inputs_of, weight_of
from bayesdrop.errors import ConversionError
from bayesdrop.networks.blocks import (
    Attention,
    Block,
    UnitWeights,
    is_matrix,
    is_transposed,
    sizes_of,
)
from bayesdrop.networks.tracing import leaf_modules
from bayesdrop.nn import (
    BayesianDropout,
    MultiheadAttention,
    input_mask,
    layers,
    mask_inputs,
    registered,
    unmask_inputs,
    without_fused_kernels,
)

READS_BLOCK = "it reads what its block reads; the masks are on the block's heads and hidden units"


@dataclass
class InPlace:
    """A network while layers in it get masks in their places.

    Args:
        root: The network, which is changed.
        request: What is asked for.
        keep_prob: Where masks of a trained network start; None leaves it to their class.
    """

    root: nn.Module
    request: Request
    keep_prob: float | None = None
    placed: dict[str, Placed] = field(default_factory=dict)
    """What was put in, by the name of the mask."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Why layers that could have had a mask have none."""
    masked: set[str] = field(default_factory=set)
    """The layers that have one, and those that a mask is for."""
    replaced: set[str] = field(default_factory=set)
    """Every ``nn.Dropout`` that a mask has taken the place of."""

    def selected(self, name: str, module: nn.Module) -> bool:
        """Return whether the user wants this layer."""
        if why := self.request.why_not(name, module):
            self.skipped[name] = why
        return not why

    def gate(self, block: Block) -> None:
        """Put a mask on the heads, or the hidden units, of a block."""
        if block.output in self.masked or not self.request.gates_heads:
            return
        output = self.root.get_submodule(block.output)
        if input_mask(output) is not None:
            self.skipped[block.output] = "its inputs have a mask already"
            self.skipped |= dict.fromkeys(block.sources, READS_BLOCK)
        elif not self.selected(block.output, output):
            for name in block.sources:
                self.mask(name)
        elif self._gated(block, output):
            self.skipped |= dict.fromkeys(block.sources, READS_BLOCK)
            if block.name:
                self.masked.add(block.name)

    def _gated(self, block: Block, output: nn.Module) -> bool:
        if isinstance(block, Attention):
            heads = {"unit_dim": -2, "batch_dim": 0}
            done = self._put(output, block.output, block.num_heads, block.units, heads)
            holder = self.root.get_submodule(block.holder)
            if done and type(holder) is nn.MultiheadAttention:
                MultiheadAttention.of(holder)
            return done
        name = block.dropout or self._only_before(block.output)
        own = {"batch_dim": block.batch_dim}
        return self._put_for(name, output, block.output, block.width, block.units, own)

    def mask(self, name: str) -> None:
        """Put a mask on the inputs of a matrix that is in no block."""
        layer = self.root.get_submodule(name)
        if input_mask(layer) is not None:
            self.skipped[name] = "its inputs have a mask already"
        elif name not in self.masked and name not in self.skipped and self.selected(name, layer):
            before, where = self._only_before(name), f"inputs of {name!r}"
            self._put_for(before, layer, name, sizes_of(layer)[1], where, {})

    def replace_dropouts(self, prefix: str = "") -> None:
        """Replace every ``nn.Dropout`` in a module whose width can be told from what it is in."""
        if not self.request.replace_dropout or self.request.random_weights:
            return
        for parent, module in list(self.root.get_submodule(prefix).named_modules(prefix=prefix)):
            found = {n: m for n, m in module.named_children() if isinstance(m, DROPOUTS)}
            widths = self._widths(module) if found else {}
            for own, dropout in found.items():
                name = f"{parent}.{own}" if parent else own
                if self.selected(name, dropout):
                    self._replace(name, dropout, *widths.get(own, (None, False)))

    def _replace(self, name: str, dropout: nn.Module, units: Units | None, masked: bool) -> None:
        rate = registered(BayesianDropout)[self.request.dropout].options_from_dropout(dropout)
        asked = rate and rate.keys() <= self.request.options.keys()
        if getattr(dropout, "p", 0.0) == 0.0 and not asked:
            return
        if units is None:
            self.skipped[name] = WIDTH_UNKNOWN
            return
        if masked and not rate:
            self._take_out(name, dropout)
            return
        own = {"unit_dim": units.unit_dim}
        parent: Any = self.root.get_submodule(name.rpartition(".")[0])
        if isinstance(parent, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
            own["batch_dim"] = 0 if parent.self_attn.batch_first else 1
        new = new_mask(self.request, name, units.number, own, self.keep_prob, dropout)
        weight = weight_of(units.module)
        self.root.set_submodule(
            name, new.to(device=weight.device, dtype=weight.dtype).train(dropout.training)
        )
        where = f"in place of {dropout}"
        self.placed[name] = Placed(name, self.request.dropout, where, units.number)
        self.replaced.add(name)

    def _widths(self, module: nn.Module) -> dict[str, tuple[Units, bool]]:
        """Return the units of every ``nn.Dropout`` of a module and whether all have masks."""
        if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
            own, hidden = inputs_of(module.linear1), inputs_of(module.linear2)
            widths = {"dropout": hidden, "dropout1": own, "dropout2": own, "dropout3": own}
            return {name: (units, False) for name, units in widths.items()}
        plan = self._plan_of(module)
        if plan is None:
            return {}
        calls = [n for n in plan.graph.nodes if isinstance(plan.module(n), DROPOUTS)]
        found = {str(n.target): units for n in calls if (units := plan.around(n))}
        # One that is called for several layers: they may all have masks, or only some.
        unmasked = {str(n.target) for n in calls if not _has_mask(plan.around(n))}
        return {name: (units[0], name not in unmasked) for name, units in found.items()}

    def _only_before(self, name: str) -> str | None:
        """Return the name of an ``nn.Dropout`` that is called for this layer only."""
        parent, _, own = name.rpartition(".")
        module = self.root.get_submodule(parent)
        found = {n for n, m in module.named_children() if isinstance(m, nn.Dropout)}
        plan = self._plan_of(module) if found else None
        if plan is None:
            return None
        for node in plan.graph.nodes:
            if node.op == "call_module" and node.target == own:
                source = str(input_of(node).target)
                if source in found and plan.calls[source] == len(input_of(node).users) == 1:
                    return f"{parent}.{source}" if parent else source
        return None

    def _plan_of(self, module: nn.Module) -> Plan | None:
        """Return the graph of a copy of a module; None if it cannot be traced."""
        work = copy.deepcopy(module)
        try:
            graph = graph_of_both_modes(work)
        except ConversionError:
            return None
        return Plan(work, graph, leaf_modules(work, graph), self.request)

    def _put_for(
        self,
        dropout: str | None,
        layer: nn.Module,
        name: str,
        number: int,
        where: str,
        own: Mapping[str, Any],
    ) -> bool:
        """Put a mask on a layer's inputs, in place of the ``nn.Dropout`` before it, if any."""
        like = None
        if dropout is not None and self.request.replace_dropout:
            like = self.root.get_submodule(dropout)
        like = like if isinstance(like, nn.Dropout) else None
        done = self._put(layer, name, number, where, own, like)
        if done and dropout is not None and like is not None:
            self._take_out(dropout, like)
        return done

    def _take_out(self, name: str, dropout: nn.Module) -> None:
        """Take out an ``nn.Dropout`` whose units have a mask."""
        self.root.set_submodule(name, nn.Identity().train(dropout.training))
        self.replaced.add(name)

    def _put(
        self,
        layer: nn.Module,
        name: str,
        number: int,
        where: str,
        own: Mapping[str, Any],
        like: nn.Module | None = None,
    ) -> bool:
        rate = getattr(like, "p", 0.0)
        asked = self.request.gives_rate(name)
        if not rate and self.keep_prob is not None and self.request.fixed_rate and not asked:
            self.skipped[name] = NEVER_DROPPED
            return False
        # The layout of heads is not the user's to choose.
        forced = own if "unit_dim" in own else {}
        new = new_mask(self.request, name, number, own, self.keep_prob, like, forced)
        weights = UnitWeights(layer, number)
        new.to(device=weights.weight.device, dtype=weights.weight.dtype)
        plain = not is_transposed(layer) and "unit_dim" not in own
        new.bind_weights(layer if plain else weights, 1)
        by_unit = weights.weight.detach().transpose(0, 1).flatten(1)
        new.rank_units(by_unit.norm(dim=1))
        mask_inputs(layer, new.train(layer.training))
        path = f"{name}.mask" if name else "mask"
        self.placed[path] = Placed(path, self.request.dropout, where, number)
        self.masked.add(name)
        return True

    def finish(self) -> None:
        """Turn off what would go past the masks."""
        without_fused_kernels(self.root)

    def join(self) -> None:
        """Let the new masks share what they share."""
        share(self.root, self.request, list(self.placed))


def _has_mask(around: Sequence[Units]) -> bool:
    """Return whether the layer behind an operation masks the units that the operation sees."""
    for units in around:
        mask = input_mask(units.module) if units.inputs else None
        if mask is not None and mask.num_units == units.number:
            return True
    return False


def share(root: nn.Module, request: Request, order: Iterable[str]) -> None:
    """Let the masks of one call share what they share.

    Args:
        root: The network.
        request: The call.
        order: Their names, in the order in which they run.
    """
    cls = layers[request.dropout]
    if issubclass(cls, BayesianDropout):
        cls.share([m for name in order if isinstance(m := root.get_submodule(name), cls)])


def unplaced(network: nn.Module) -> None:
    """Take every mask that is on a layer's inputs off a network, in place."""
    for module in list(network.modules()):
        unmask_inputs(module)
        if isinstance(module, MultiheadAttention):
            module.restore()


def matrices_in(network: nn.Module) -> Iterable[str]:
    """Yield the names of the matrices that a module of somebody's own calls."""
    for name, module in network.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            continue
        for own, child in module.named_children():
            if is_matrix(child):
                yield f"{name}.{own}" if name else own
