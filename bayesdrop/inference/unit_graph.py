"""Which units of a network nothing misses where their masks are zero, and what is left without."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from bayesdrop.errors import ConfigError
from bayesdrop.inference.unit_choice import rule_for
from bayesdrop.inference.unit_rules import (
    Flatten,
    Mask,
    Norm,
    Opaque,
    Rule,
    Unary,
    View,
    Weighted,
    Zeros,
)
from bayesdrop.networks.shapes import Shapes
from bayesdrop.networks.tracing import shape_of, trace
from bayesdrop.nn import BayesianDropout, BayesianWeights, unit_tensors
from bayesdrop.ops.seeding import draws_noise
from bayesdrop.program.inputs import bound_inputs, each_input
from bayesdrop.program.program import Program

_SIZED = {torch.reshape, "reshape", "view"}  # may say how many units there are
_NOT_ZERO = (nn.AlphaDropout, nn.FeatureAlphaDropout)


class Cut(NamedTuple):
    """A parameter or buffer of which rows, and columns, are left."""

    module: nn.Module
    name: str
    rows: Tensor | None
    columns: Tensor | None

    def whole(self) -> Tensor:
        """Return it as it is now."""
        return getattr(self.module, self.name)

    def position(self) -> Any:
        """Return the index of what is left."""
        if self.columns is None:
            return self.rows
        return slice(None) if self.rows is None else self.rows[:, None], self.columns


class Gate(NamedTuple):
    """A mask layer with its open units, and where these are in what comes in, if it has more."""

    layer: BayesianDropout
    open: Tensor
    gathered: Tensor | None


class Plan(NamedTuple):
    """What is left of a network."""

    cuts: list[Cut]
    gates: list[Gate]


class UnitGraph:
    """The graph of a network in its present modes, with a rule for every node.

    Args:
        bnn: The network; it has seen an input.
        who: Asks for it, for messages.

    Raises:
        ConfigError: If it cannot be traced.
    """

    def __init__(self, bnn: Program, who: str = "fit(compact_every=...)") -> None:
        self.own: dict[str, Any] = dict(bnn.network.named_modules(remove_duplicate=False))
        work = copy.deepcopy(bnn.network)
        graph = trace(work, who, ConfigError, keep_modes=True)
        module = fx.GraphModule(work, graph)
        tensor = next(iter(bnn.parameters()), torch.empty(0))
        seen = bnn.inputs_seen()
        if seen is None:
            raise ConfigError(
                who,
                expected="a network that has seen an input",
                got="one that has not",
                hint="Call bnn(x) first.",
            )
        given = bound_inputs(bnn.network, each_input(lambda t: _zeros(t, tensor.device), seen))
        first = [str(n.target) for n in graph.nodes if n.op == "placeholder"]
        work.eval()
        with torch.no_grad():
            draws_noise(
                lambda: Shapes(module).propagate(*[given[name] for name in first])
            )  # which puts generators back
        self.nodes = list(module.graph.nodes)
        self._note_what_is_shared(bnn.network)
        self.rules: dict[fx.Node, Rule] = {}
        dims: dict[fx.Node, int] = {}
        for node in self.nodes:
            rule = self.rules[node] = self._rule(node, module, dims)
            dims[node] = rule.dim
        self.masks = {
            str(node.target): node
            for node, rule in self.rules.items()
            if isinstance(rule, Mask) and rule.along
        }

    def _note_what_is_shared(self, network: nn.Module) -> None:
        called = [self.own[str(n.target)] for n in self.nodes if n.op == "call_module"]
        self._calls = Counter(id(module) for module in called)
        held = Counter(id(p) for m in network.modules() for p in m._parameters.values())
        self._shared = {key for key, count in held.items() if count > 1}
        for node in self.nodes:
            if node.op == "get_attr":
                owner, _, name = str(node.target).rpartition(".")
                self._shared.add(id(getattr(self.own[owner], name, None)))

    def _rule(self, node: fx.Node, module: fx.GraphModule, dims: dict[fx.Node, int]) -> Rule:
        target = str(node.target)
        if node.op == "call_module":
            call: Any = module.get_submodule(target)
        elif node.op == "call_method":
            call = lambda x, *args, **kwargs: getattr(x, target)(*args, **kwargs)  # noqa: E731
        else:
            call = node.target
        free = node.target not in _SIZED
        if node.op == "call_module":
            free = self._is_free(self.own[target])
        if free:
            return rule_for(node, call, dims)
        shape = shape_of(node)
        return Opaque(node, call, 1 if shape is not None and len(shape) > 1 else 0)

    def _is_free(self, module: nn.Module) -> bool:
        """Return whether a module is used once, by nothing else, and nobody watches it."""
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        if any(hooks) or module._backward_pre_hooks or isinstance(module, BayesianWeights):
            return False
        if next(module.parameters(), None) is None and next(module.buffers(), None) is None:
            return True
        shared = any(id(p) in self._shared for p in module._parameters.values() if p is not None)
        return self._calls[id(module)] == 1 and not shared

    def closed(
        self, pruned: Mapping[str, Tensor], before: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return which of the pruned units can leave, by layer; one of each layer stays.

        Args:
            pruned: Layer name to its pruned units, those that have left among them.
            before: Layer name to the units that have left.
        """
        found: dict[str, Tensor] = {}
        for name, node in reversed(self.masks.items()):
            if name not in pruned or not unit_tensors(self.own[name]):
                continue
            units = pruned[name] & self._removable(node, found)
            if units.all():
                stays = ~before.get(name, torch.zeros_like(units))
                units[stays.nonzero()[0]] = False
            if units.any():
                found[name] = units
        return found

    def _removable(self, node: fx.Node, closed: Mapping[str, Tensor]) -> Tensor:
        """Return which units of a tensor nothing misses that reads it, where they are zero."""
        result = torch.full((self.rules[node].size,), bool(node.users))
        for user in node.users:
            rule = self.rules[user]
            if not isinstance(rule, Unary) or not rule.along:
                return torch.zeros_like(result)
            if isinstance(rule, Weighted):
                continue
            if isinstance(rule, Mask):
                result &= closed.get(str(user.target), torch.zeros_like(result))
            elif isinstance(rule, Flatten):
                result &= self._removable(user, closed).reshape(-1, rule.block).all(1)
            elif isinstance(rule, Zeros) and not isinstance(rule.call, _NOT_ZERO):
                result &= self._removable(user, closed)
            else:
                return torch.zeros_like(result)
        return result

    def plan(self, closed: Mapping[str, Tensor]) -> Plan:
        """Return what is left of every layer without the closed units."""
        open_units = {name: ~units for name, units in closed.items() if units.any()}
        view = self._viewed(open_units)
        plan = Plan([], [])
        left: dict[fx.Node, Tensor] = {}  # the units that a tensor has, where it lacks some
        for node, rule in self.rules.items():
            sources = [n for n in node.all_input_nodes if n in left]
            if isinstance(rule, Mask) and str(node.target) in open_units:
                units = open_units[str(node.target)].nonzero().flatten()
                plan.gates.append(_gate(self.own[str(node.target)], units, left.get(rule.input)))
                left[node] = units
            elif isinstance(rule, Weighted):
                self._cut_weights(rule, view, left, plan)
            elif isinstance(rule, Flatten) and sources:
                inside = torch.arange(rule.block)
                left[node] = (left[rule.input][:, None] * rule.block + inside).flatten()
            elif isinstance(rule, Unary) and rule.along and sources:
                left[node] = left[rule.input]
                if isinstance(rule, Norm):
                    self._cut_norm(rule, left[node], plan)
            elif sources:
                raise RuntimeError(f"{node} lost units that it needs")
        return plan

    def _viewed(self, open_units: Mapping[str, Tensor]) -> View:
        """Return which units are zero, and which are needed, of every tensor."""
        layers = {self.rules[self.masks[name]].call: u for name, u in open_units.items()}
        view = View(layers, {})
        view.follow(self.rules)
        return view

    def _cut_weights(
        self, rule: Weighted, view: View, left: dict[fx.Node, Tensor], plan: Plan
    ) -> None:
        layer = self.own[str(rule.node.target)]
        device, needed, columns = layer.weight.device, view.needed[rule.node], left.get(rule.input)
        rows = None if needed.all() or not needed.any() else needed.nonzero().flatten()
        if rows is not None:
            left[rule.node] = rows
        on = [None if index is None else index.to(device) for index in (rows, columns)]
        if rows is not None or columns is not None:
            plan.cuts.append(Cut(layer, "weight", on[0], on[1]))
        if rows is not None and layer.bias is not None:
            plan.cuts.append(Cut(layer, "bias", on[0], None))

    def _cut_norm(self, rule: Norm, units: Tensor, plan: Plan) -> None:
        norm = self.own[str(rule.node.target)]
        for name, value in {**norm._parameters, **norm._buffers}.items():
            if value is not None and value.ndim == 1:
                plan.cuts.append(Cut(norm, name, units.to(value.device), None))


def _zeros(like: Tensor, device: torch.device) -> Tensor:
    return torch.zeros((2, *like.shape[1:]), dtype=like.dtype, device=device)


def _gate(layer: BayesianDropout, units: Tensor, given: Tensor | None) -> Gate:
    if given is None:
        return Gate(layer, units, units)
    if torch.equal(given, units):
        return Gate(layer, units, None)
    return Gate(layer, units, torch.searchsorted(given, units))
