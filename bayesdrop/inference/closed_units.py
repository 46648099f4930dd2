"""Training without the units that are pruned.

A unit is *closed*, for good, when its layer prunes it (``kept()``) and everything behind its mask
can do without it. From then on its mask is 0, and neither its posterior nor the weights to and
from it change: the same as if they were not there, and during an epoch they are not. Layers, batch
norm and masks hold the rows and columns of open units in new parameters, the optimiser their part
of its state; after the epoch all is written back, so that whoever looks at the network, or at a
checkpoint, sees the whole one.

What can do without a unit is known of Linear layers and convolutions (without groups), reached
through operations that map zero to zero: rectifiers and the like, pooling, flattening, dropout,
and masks that have closed what the unit goes into. A unit that reaches a sum, a normalisation,
attention or anything else stays, as does one of a layer that is called twice, shares its weights
or has hooks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bayesdrop.errors import ConfigError
from bayesdrop.inference.optimizers import require_state_of_weights
from bayesdrop.inference.unit_graph import Cut, Gate, Plan, UnitGraph
from bayesdrop.nn import BayesianDropout, restrict_units, unit_tensors
from bayesdrop.ops.layout import memory_format_of
from bayesdrop.program.program import Program


class ClosedUnits:
    """The units of a network that have left its training.

    Args:
        bnn: The network.

    Raises:
        ConfigError: If its examples have latents of their own.
    """

    def __init__(self, bnn: Program) -> None:
        if bnn.has_local_latents:
            raise ConfigError(
                "fit",
                expected="compact_every=None, since an example has latents of its own",
                got=f"a {type(bnn).__name__}",
                hint="Features that no example uses go with a smaller latent_size.",
            )
        self.bnn = bnn
        self.closed: dict[str, Tensor] = {}
        self._plan: Plan | None = None
        self._pruned: dict[str, Tensor] = {}  # when it was last asked which can leave

    def load(self, closed: Mapping[str, Tensor]) -> None:
        """Take over the closed units of a checkpoint."""
        self.closed, self._plan = dict(closed), None

    def close(self) -> None:
        """Close the units that are pruned now, where they can leave.

        Raises:
            ConfigError: If the network cannot be traced.
        """
        layers = self.bnn.named_dropout_layers()
        pruned = {name: ~m.kept().cpu() for name, m in layers if unit_tensors(m)}
        if not any(bool(units.any()) for units in pruned.values()) or _same(pruned, self._pruned):
            return
        self._pruned = {name: units.clone() for name, units in pruned.items()}
        graph = UnitGraph(self.bnn)
        for name, before in self.closed.items():
            pruned[name] |= before
        refused: set[str] = set()
        while True:
            asked = {name: p for name, p in pruned.items() if name not in refused}
            closed = graph.closed(asked, self.closed)
            plan = graph.plan(closed)
            wrong = {name for name in closed if not _binds(graph.own[name], plan)}
            if not wrong:
                break
            refused |= wrong
        self.closed, self._plan = closed, plan

    @contextmanager
    def absent(self, optimizer: torch.optim.Optimizer) -> Iterator[float]:
        """Train without the closed units inside; yield their KL divergence, in nats.

        Args:
            optimizer: Its parameters and its state are those of the open units meanwhile.

        Raises:
            ConfigError: If it keeps numbers that belong to no single weight.
        """
        if not any(bool(units.any()) for units in self.closed.values()):
            yield 0.0
            return
        if self._plan is None:
            self._plan = UnitGraph(self.bnn).plan(self.closed)
        plan = self._plan
        cuts = plan.cuts + [
            Cut(gate.layer, name, gate.open.to(value.device), None)
            for gate in plan.gates
            for name, value in unit_tensors(gate.layer).items()
        ]
        whole = {id(tensor): (cut, tensor) for cut in cuts for tensor in [cut.whole()]}
        tensors = [tensor for _, tensor in whole.values()]
        require_state_of_weights("fit", optimizer, tensors, "; or pass compact_every=None")
        sizes = [gate.layer.num_units for gate in plan.gates]
        divergence = _divergence(plan)
        hooks = []
        states: dict[int, dict[str, Any]] = {}
        try:
            for cut in plan.cuts:
                _replace(cut, _part(cut, cut.whole()))
            for gate in plan.gates:
                restrict_units(gate.layer, gate.open)
                if gate.gathered is not None:
                    hooks.append(gate.layer.register_forward_pre_hook(_gathering(gate)))
            states = _narrow(optimizer, whole)
            yield divergence - _divergence(plan)
        finally:
            _widen(optimizer, whole, states)
            for hook in hooks:
                hook.remove()
            for gate, size in zip(plan.gates, sizes, strict=True):
                gate.layer.num_units = size
            with torch.no_grad():
                for cut, tensor in whole.values():
                    if cut.whole() is not tensor:
                        tensor[cut.position()] = cut.whole()
                        _replace(cut, tensor)


def _same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def _divergence(plan: Plan) -> float:
    with torch.no_grad():
        return sum(float(gate.layer.kl_divergence().double()) for gate in plan.gates)


def _replace(cut: Cut, value: Tensor) -> None:
    # Not by setattr: a parametrized module, or one of a user's, may do more.
    held = cut.module._parameters if cut.name in cut.module._parameters else cut.module._buffers
    held[cut.name] = value  # type: ignore[assignment]


def _part(cut: Cut, whole: Tensor) -> Tensor:
    part = whole.detach()[cut.position()].clone(memory_format=memory_format_of(whole))
    if isinstance(whole, nn.Parameter):
        return nn.Parameter(part, requires_grad=whole.requires_grad)
    return part


def _gathering(gate: Gate) -> Any:
    def hook(layer: BayesianDropout, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = inputs
        index = gate.gathered
        return (x if index is None else x.index_select(layer.unit_dim, index.to(x.device)),)

    return hook


def _narrow(
    optimizer: torch.optim.Optimizer, whole: Mapping[int, tuple[Cut, Tensor]]
) -> dict[int, dict[str, Any]]:
    """Give an optimiser the parameters that are left, and return its state of the whole ones."""
    states: dict[int, dict[str, Any]] = {}
    for group in optimizer.param_groups:
        for i, tensor in enumerate(group["params"]):
            if id(tensor) not in whole:
                continue
            cut, _ = whole[id(tensor)]
            group["params"][i] = part = cut.whole()
            tensor.grad = None
            states[id(tensor)] = state = optimizer.state.pop(tensor, {})
            if state:
                optimizer.state[part] = {
                    name: value[cut.position()].clone() if _is_of(value, tensor) else value
                    for name, value in state.items()
                }
    return states


def _widen(
    optimizer: torch.optim.Optimizer,
    whole: Mapping[int, tuple[Cut, Tensor]],
    states: Mapping[int, dict[str, Any]],
) -> None:
    """Give the whole parameters back, with what has become of the open units' state."""
    parts = {id(cut.whole()): (cut, tensor) for cut, tensor in whole.values()}
    for group in optimizer.param_groups:
        for i, part in enumerate(group["params"]):
            if id(part) not in parts or part is parts[id(part)][1]:
                continue
            cut, tensor = parts[id(part)]
            group["params"][i] = tensor
            state = states.get(id(tensor), {})
            for name, value in optimizer.state.pop(part, {}).items():
                if not _is_of(value, part):
                    state[name] = value
                    continue
                if name not in state:
                    state[name] = torch.zeros_like(tensor, dtype=value.dtype)
                state[name][cut.position()] = value
            if state:
                optimizer.state[tensor] = state


def _is_of(value: object, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape == parameter.shape


def _binds(layer: Any, plan: Plan) -> bool:
    """Return whether a penalty that depends on a layer's weights sees those of its open units."""
    if layer.bound is None:
        return True
    bound, dim = layer.bound
    units = next(gate.open for gate in plan.gates if gate.layer is layer)
    for cut in plan.cuts:
        if cut.module is bound and cut.name == "weight":
            left = cut.rows if dim == 0 else cut.columns
            return left is not None and torch.equal(left.cpu(), units.cpu())
    return False
