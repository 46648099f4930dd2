"""What a conversion has left as it was, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import fx, nn

from bayesdrop.conversion.in_place import InPlace
from bayesdrop.conversion.inside import HAS_MASKS
from bayesdrop.conversion.kinds import ACTIVATIONS, CONVOLUTIONS, DROPOUTS, NORMALISATIONS
from bayesdrop.conversion.modes import drop_rate
from bayesdrop.conversion.noise import (
    ALWAYS,
    IN_TRAINING,
    attention_rate,
    draws,
    is_marked,
    is_own,
    noise_of,
    own_dropout,
    place_of,
)
from bayesdrop.conversion.plan import NO_EXAMPLES, NOT_PLAIN, WIDTH_UNKNOWN, WINDOWS, Plan
from bayesdrop.conversion.reach import MIXES
from bayesdrop.conversion.report import Left
from bayesdrop.conversion.request import NEVER_DROPPED, Request
from bayesdrop.conversion.selection import plain_of
from bayesdrop.networks.blocks import is_matrix
from bayesdrop.networks.by_mode import ChoiceByMode, FunctionByMode
from bayesdrop.networks.tracing import knows_its_mode
from bayesdrop.nn import BayesianDropout, BayesianWeights, InnerMasks, input_mask

MEANT = ("recurrent=False", "linear=False", "not in select", "in exclude")
NO_GRAPH = "torch.fx cannot trace what it is in, so that nothing is known of what it is next to"
HANDED_OVER = "its module may hand its weights to a function"
_RATES = ("attention_dropout", "activation_dropout", "attn_pdrop")
_LAYERS = (nn.Linear, *CONVOLUTIONS)
_NO_LAYERS = (*ACTIVATIONS, *NORMALISATIONS, BayesianDropout, ChoiceByMode)


class Leftovers:
    """Finds every layer with weights, and every dropout, that a conversion has not touched.

    Norms and activations are no such layers.

    Args:
        plan: The plan when it is done.
        place: What was put into the modules that are one operation of the graph.
    """

    def __init__(self, plan: Plan, place: InPlace) -> None:
        self.plan, self.request, self.place = plan, plan.request, place

    def find(self) -> Iterator[Left]:
        """Yield them in the order in which they run, each once."""
        told = set(self.plan.masked)
        for node in self.plan.graph.nodes:
            module = self.plan.module(node)
            for found in self._function(node) if module is None else self._module(node, module):
                if found.name not in told:
                    told.add(found.name)
                    yield found

    def _module(self, node: fx.Node, module: nn.Module) -> Iterator[Left]:
        name = str(node.target)
        if isinstance(plain_of(module), _LAYERS):
            yield self._layer(name, module)
        elif isinstance(module, FunctionByMode):
            yield from self._weights_of(node, module.function)
            yield from self._noise(name, module, place_of(node))
        elif isinstance(module, DROPOUTS):
            yield from self._dropout(name, module)
        elif not isinstance(module, _NO_LAYERS):
            yield from self._other(name, module)

    def _other(self, name: str, module: nn.Module) -> Iterator[Left]:
        size, rate = _size(module), own_rate(module)
        if name in self.place.masked or any(n.startswith(f"{name}.") for n in self.place.masked):
            yield from left_inside(self.place, name)
            return
        if size == 0:
            yield from self._noise(name, module)
            return
        asked = bool(self.request.kinds) or (rate > 0 and self.request.replace_dropout)
        why = self.plan.skipped.get(name, _without_masks(module, self.request))
        meant = why in (*MEANT, HAS_MASKS)
        wanted = asked and not meant and self.request.wants(name, module)
        yield Left(name, type(module).__name__, why, size, rate, wanted)

    def _dropout(self, name: str, module: nn.Module) -> Iterator[Left]:
        rate, asked = own_rate(module), self.request.replace_dropout
        why = self.plan.skipped.get(name, WIDTH_UNKNOWN) if asked else "replace_dropout=False"
        wanted = asked and self.request.wants(name, module)
        if rate > 0:
            yield Left(name, type(module).__name__, why, 0, rate, wanted)

    def _layer(self, name: str, module: nn.Module) -> Left:
        plain = plain_of(module)
        is_linear = isinstance(plain, nn.Linear)
        if self.request.linear if is_linear else self.request.conv:
            why = self.plan.skipped.get(name, "")
        else:
            why = "linear=False" if is_linear else "conv=False"
        told = why in (NO_EXAMPLES, NOT_PLAIN, NEVER_DROPPED, WINDOWS)
        wanted = told and self.request.wants(name, module)
        return Left(name, type(module).__name__, why, _size(module), 0.0, wanted)

    def _noise(self, name: str, module: nn.Module, place: str = "") -> Iterator[Left]:
        """Yield what is told of noise that is no dropout of units known here."""
        rate, kind = own_rate(module), type(module).__name__
        is_dropout = isinstance(module, nn.modules.dropout._DropoutNd | FunctionByMode)
        why = "it goes by mode: on in training, and prediction does not sample it"
        if isinstance(module, FunctionByMode):
            noisy, drops = draws(module.function)
            if rate == 0 and noisy:
                kind, why = _name(module.function), IN_TRAINING + place
        else:
            drops = own_dropout(module) == IN_TRAINING or (rate > 0 and is_own(type(module)))
            noisy = knows_its_mode(module)
        if rate == 0 and not noisy:
            return
        # Of another kind, such as torchvision's stochastic depth, it concerns those who sample it.
        samples = self.request.fixed_rate and (rate > 0 or isinstance(module, FunctionByMode))
        told = drops or samples or (rate > 0 and is_dropout)
        wanted = self.request.replace_dropout and told and self.request.wants(name, module)
        yield Left(name, kind, why, 0, rate, wanted)

    def _function(self, node: fx.Node) -> Iterator[Left]:
        rate, noise = drop_rate(node), noise_of(node)
        if rate is not None:
            noise = (IN_TRAINING if is_marked(node) else ALWAYS) + place_of(node), True
        if noise is not None:
            why, drops = noise
            told = self.request.replace_dropout and (drops or self.request.fixed_rate)
            wanted = told and self.request.wants(node.name, self.plan.root)
            rate = rate or attention_rate(node) or 0.0
            yield Left(node.name, _name(node.target), why, 0, rate, wanted)
        if node.op == "call_function":
            yield from self._weights_of(node, node.target)

    def _weights_of(self, node: fx.Node, function: Any) -> Iterator[Left]:
        """Yield what is told of a function that is called with weights."""
        foreign = callable(function) and not FunctionByMode(function, None).is_of_torch
        if not (function in MIXES or foreign):
            return
        why = f"{_name(function)} is called with its weights"
        for name in (str(n.target) for n in node.all_input_nodes if n.op == "get_attr"):
            path, _, own = name.rpartition(".")
            owner = self.plan.root.get_submodule(path)
            if own not in owner._parameters:
                continue
            asked = bool(self.request.kinds)
            if own in ("weight", "bias") and path:
                wanted = asked and self.request.wants(path, owner)
                yield Left(path, type(owner).__name__, why, _size(owner), 0.0, wanted)
            else:
                wanted = asked and self.request.wants(name, owner)
                size = owner.get_parameter(own).numel()
                yield Left(name, "Parameter", why, size, 0.0, wanted)


def _without_masks(module: nn.Module, request: Request) -> str:
    """Return why a layer of a kind that is not put beside masks has none inside."""
    if isinstance(module, nn.Embedding) and not request.random_weights:
        return "embedding=True masks its words"
    return "a layer of this kind takes no mask inside"


def left_inside(place: InPlace, prefix: str = "") -> Iterator[Left]:
    """Yield what masks in their places have left of a module, in its order.

    Args:
        place: What was put in.
        prefix: Name of the module.
    """
    covered = ""
    for name, module in place.root.get_submodule(prefix).named_modules(prefix=prefix):
        if covered and name.startswith(f"{covered}."):
            continue
        if isinstance(module, BayesianDropout | BayesianWeights | InnerMasks):
            covered = name or "."
            continue
        if isinstance(module, nn.MultiheadAttention) and input_mask(module.out_proj) is None:
            covered = name or "."
        found = _left_of(place, name, module)
        if found is not None:
            yield found


def _left_of(place: InPlace, name: str, module: nn.Module) -> Left | None:
    request, kind = place.request, type(module).__name__
    wanted = request.wants(name, module)
    rate = own_rate(module) if next(module.children(), None) is None else 0.0
    rate = max([rate, *(_number(getattr(module, own, 0.0)) for own in _RATES)])
    if isinstance(module, nn.MultiheadAttention):
        rate = module.dropout
    if rate > 0 and name not in place.replaced:
        if isinstance(module, DROPOUTS):
            why = place.skipped.get(name, WIDTH_UNKNOWN)
            return Left(name, kind, why, 0, rate, wanted and request.replace_dropout)
        masked = isinstance(module, nn.MultiheadAttention) and name not in place.masked
        if not masked:
            why = "it is on in training, and prediction does not sample it"
            return Left(name, kind, why, 0, rate, wanted and request.replace_dropout)
    size = sum(parameter.numel() for parameter in module.parameters(recurse=False))
    noise = own_dropout(module)
    if noise:
        return Left(name, kind, noise, size, 0.0, wanted and request.replace_dropout)
    if name in place.masked or size == 0 or isinstance(module, _NO_LAYERS):
        return None
    if isinstance(module, _LAYERS) or is_matrix(module):
        linear = not isinstance(module, CONVOLUTIONS)
        flag = "linear=False" if linear else "conv=False"
        asked = request.linear if linear else request.conv
        why = place.skipped.get(name, NO_GRAPH) if asked else flag
        unexpected = asked and why in (NO_GRAPH, HANDED_OVER, WINDOWS, NOT_PLAIN, NEVER_DROPPED)
        return Left(name, kind, why, size, 0.0, wanted and unexpected)
    if all(parameter.ndim < 2 for parameter in module.parameters(recurse=False)):
        return None
    why = place.skipped.get(name, _without_masks(module, request))
    meant = why in (*MEANT, HAS_MASKS)
    return Left(name, kind, why, size, rate, wanted and not meant and bool(request.kinds))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def own_rate(module: nn.Module) -> float:
    """Return the largest rate of a dropout that a module has inside; 0 if it has none."""
    rates = [0.0]
    for part in module.modules():
        if isinstance(part, FunctionByMode):
            rates += part.drop_rates()
        elif isinstance(part, nn.RNNBase):
            rates.append(part.dropout if part.num_layers > 1 else 0.0)
        elif isinstance(part, nn.MultiheadAttention):
            rates.append(part.dropout)
        elif isinstance(part, nn.modules.dropout._DropoutNd) or knows_its_mode(part):
            values = (getattr(part, name, None) for name in ("p", "drop_prob"))
            rates += [float(value) for value in values if isinstance(value, int | float)]
    return max(rates)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", function))
