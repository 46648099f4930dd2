"""Networks that get more units while they train."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.inference.optimizers import require_state_of_weights
from bayesdrop.inference.unit_graph import UnitGraph
from bayesdrop.inference.unit_rules import Flatten, Mask, Norm, Unary, Weighted
from bayesdrop.nn import BayesianDropout, unit_tensors
from bayesdrop.nn.arguments import is_whole
from bayesdrop.ops.layout import memory_format_of
from bayesdrop.program.program import Program

_SIZES = (("out_features", "in_features"), ("out_channels", "in_channels"))


def grow(
    bnn: Program,
    units: Mapping[str, int],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    **options: Any,
) -> dict[str, int]:
    r"""Give dropout layers more units, and the layers around them what belongs to these; in place.

    The Linear layer or convolution that computes the units gets rows with torch's usual initial
    values, whatever reads them columns of zeros, batch norm weights of one; masks on the way, also
    behind a flattening, get the posterior that a new layer has. The network computes what it did,
    exactly, whatever the new gates are. An optimiser keeps its state, with zeros for what is new.

    ``bd.nn.widen`` is for three layers named by hand, and knows sticks and random weights; this
    finds what belongs to a mask in the network's graph. The new units begin as a new layer's do.
    Those of ``NeuralPlasticityDropout`` can begin closed (``init_awake=0``), to be woken later, or
    half open (``init_score=0``).

    Args:
        bnn: The network; it has seen an input.
        units: Dropout layer to the number of its new units. A layer behind a flattening grows
            with the maps that are flattened: name those.
        optimizer: Of ``bnn``'s parameters: the one that is passed to ``fit`` again and again. Its
            groups hold the new parameters afterwards. One made later needs nothing.
        **options: Of the new gates, instead of those that their layer was made with.

    Returns:
        The number of units that each layer that has grown now has, by name.

    Raises:
        ConfigError: If a layer is not there or cannot grow, such as on the network's inputs, with
            sticks that units share, or where a sum or attention reads it. Nothing is changed.

    References:
        Chen, Goodfellow, Shlens (2016), "Net2Net", https://arxiv.org/abs/1511.05641, for growth
        that preserves the function. Deviation: the new units are no copies of old ones.

    Example:
        >>> import bayesdrop as bd
        >>> network = bd.convert(
        ...     nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), "neural-plasticity"
        ... )
        >>> bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=10).eval()
        >>> before = bnn(torch.ones(1, 3))
        >>> grow(bnn, {"2_dropout": 5})
        {'2_dropout': 9}
        >>> bool(torch.equal(bnn(torch.ones(1, 3)), before)), network.get_submodule("0")
        (True, Linear(in_features=3, out_features=9, bias=True))
    """
    if bnn.inputs_seen() is None:
        raise ConfigError(
            "grow",
            expected="a network that has seen an input",
            got="one that has not",
            hint="Call bnn(x) first.",
        )
    plan = _plan(UnitGraph(bnn, "grow"), units, options)
    replaced: dict[nn.Parameter, nn.Parameter] = {}
    if optimizer is not None:
        tensors = [getattr(part.module, name) for part in plan for name in part.new]
        require_state_of_weights("grow", optimizer, tensors)
    for part in plan:
        for name, new in part.new.items():
            old = getattr(part.module, name)
            if isinstance(old, nn.Parameter):
                fresh = nn.Parameter(_joined(old, new), requires_grad=old.requires_grad)
                part.module._parameters[name] = replaced[old] = fresh
            else:
                part.module._buffers[name] = _joined(old, new)
        for name, size in part.sizes.items():
            setattr(part.module, name, size)
    for _, layer in bnn.named_dropout_layers():
        if layer.bound is not None:
            layer.bind_weights(*layer.bound)
    if optimizer is not None:
        _hand_over(optimizer, replaced)
    grown = {id(part.module) for part in plan}
    return {name: m.num_units for name, m in bnn.named_dropout_layers() if id(m) in grown}


class _Part(NamedTuple):
    """What one module gets: its tensors in their new shape, of which old values come first."""

    module: nn.Module
    new: dict[str, Tensor]
    sizes: dict[str, int]


def _plan(graph: UnitGraph, units: Mapping[str, int], options: dict[str, Any]) -> list[_Part]:
    more = {_source(graph, name, number): number for name, number in units.items()}
    if len(more) < len(units):
        raise ConfigError(
            "grow",
            expected="one layer of the units that one Linear or convolution computes",
            got=", ".join(units),
            hint="Masks on the same units grow together.",
        )
    parts: list[_Part] = []
    for node, rule in graph.rules.items():
        sources = [n for n in node.all_input_nodes if more.get(n)]
        own: Any = graph.own.get(str(node.target))
        if isinstance(rule, Weighted) and (sources or node in more):
            if sources and not rule.along:
                raise _cannot(str(node.target), "it does not read along its units")
            parts.append(_weighted(own, more.get(node, 0), sum(more[n] for n in sources)))
        elif isinstance(rule, Flatten) and sources:
            more[node] = more[rule.input] * rule.block
        elif isinstance(rule, Unary) and rule.along and sources:
            more[node] = more[rule.input]
            if isinstance(rule, Norm):
                parts.append(_norm(own, more[node]))
            elif isinstance(rule, Mask):
                parts.append(_mask(own, str(node.target), more[node], options))
        elif sources:
            raise _cannot(str(node), "it needs to know how many units there are")
    return parts


def _cannot(name: str, why: str) -> ConfigError:
    return ConfigError(
        "grow",
        expected="units that Linear layers and convolutions compute and read",
        got=f"{name!r}: {why}",
        hint="Between them there may be rectifiers, pooling, batch norm, flattening and masks.",
    )


def _source(graph: UnitGraph, name: str, number: int) -> fx.Node:
    """Return the node that computes the units of a mask."""
    if name not in graph.masks and isinstance(graph.own.get(name), BayesianDropout):
        raise _cannot(name, "its units cannot be followed")
    if name not in graph.masks:
        raise unknown_name("dropout layer that can grow", name, graph.masks)
    if not is_whole(number) or number < 1:
        raise ConfigError(
            "grow",
            expected="at least 1 new unit",
            got=f"{name!r}: {number!r}",
            hint="Leave out layers that stay.",
        )
    node = graph.masks[name]
    while not isinstance(rule := graph.rules[node], Weighted):
        if isinstance(rule, Flatten) or not isinstance(rule, Unary) or not rule.along:
            raise _cannot(name, f"its units come from {str(node)!r}")
        node = rule.input
    return node


def _weighted(layer: Any, rows: int, columns: int) -> _Part:
    weight = layer.weight
    shape = (weight.shape[0] + rows, weight.shape[1] + columns, *weight.shape[2:])
    bound = 1 / math.sqrt(math.prod(shape[1:]))  # torch's, of weights and biases
    whole = weight.new_empty(shape).uniform_(-bound, bound)
    whole[: weight.shape[0], weight.shape[1] :] = 0.0
    new = {"weight": whole.contiguous(memory_format=memory_format_of(weight))}
    if rows and layer.bias is not None:
        new["bias"] = layer.bias.new_empty(shape[0]).uniform_(-bound, bound)
    names = next(names for names in _SIZES if hasattr(layer, names[0]))
    return _Part(layer, new, dict(zip(names, shape[:2], strict=True)))


def _norm(layer: Any, number: int) -> _Part:
    size = layer.num_features + number
    tensors = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
    new = {
        name: getattr(layer, name).new_full((size,), value)
        for name, value in tensors.items()
        if getattr(layer, name) is not None
    }
    return _Part(layer, new, {"num_features": size})


def _mask(layer: BayesianDropout, name: str, number: int, options: dict[str, Any]) -> _Part:
    own = unit_tensors(layer)
    if not own:
        raise ConfigError(
            "grow",
            expected="masks with parameters of each unit's own, which do without one another",
            got=f"{name!r}: {type(layer).__name__}",
            hint="Orders, rates that units share and the group lasso have none; for sticks see "
            "bd.nn.widen.",
        )
    given = {**layer._given, **options, "num_units": number}
    fresh = type(layer)(**given).to(next(iter(own.values())).device)
    if fresh.posterior() or fresh.penalty() is not None:
        if any(name.startswith("previous_") for name in own):
            fresh.carry(fresh.carried())
    new = {
        key: torch.cat([value.detach(), getattr(fresh, key).detach().to(value)])
        for key, value in own.items()
    }
    return _Part(layer, new, {"num_units": layer.num_units + number})


@torch.no_grad()
def _joined(old: Tensor, new: Tensor) -> Tensor:
    """Return the new tensor with the old one's values in its first rows and columns."""
    new[tuple(slice(size) for size in old.shape)] = old
    return new.detach()


def _hand_over(
    optimizer: torch.optim.Optimizer, replaced: Mapping[nn.Parameter, nn.Parameter]
) -> None:
    """Give an optimiser the new parameters, and its state of the old ones."""
    for group in optimizer.param_groups:
        for i, old in enumerate(group["params"]):
            if old not in replaced:
                continue
            new = group["params"][i] = replaced[old]
            state = optimizer.state.pop(old, {})
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == old.shape and value.ndim > 0:
                    state[name] = _joined(value, torch.zeros_like(new, dtype=value.dtype))
            if state:
                optimizer.state[new] = state
