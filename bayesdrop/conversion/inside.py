"""Masks inside layers that need them there: recurrent ones, and embeddings of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx, nn

from bayesdrop.conversion.in_place import InPlace
from bayesdrop.conversion.kinds import DROPOUTS
from bayesdrop.conversion.plan import Plan, input_of
from bayesdrop.conversion.report import Placed
from bayesdrop.conversion.request import Request
from bayesdrop.nn import (
    BayesianDropout,
    DropoutEmbedding,
    DropoutGRU,
    DropoutLSTM,
    InnerMasks,
    layers,
    make,
)

HAS_MASKS = "it has masks inside already"
NOT_OWN = "its weights are not all its own parameters"
TIED = "its weights are another layer's, too"
NOT_INSIDE = "masks inside a layer cannot look at its input"
NO_NOISE = "the network is trained and never had dropout there (drop_prob=0.1, say, puts it there)"
_OWN = ("unit_dim", "batch_dim")


class Inside:
    """Puts masks into layers of one call of ``convert``.

    Args:
        root: The network, which is changed.
        request: What is asked for.
        keep_prob: Where masks of a trained network start; None leaves it to their class.
    """

    def __init__(self, root: nn.Module, request: Request, keep_prob: float | None) -> None:
        self.root, self.request, self.keep_prob = root, request, keep_prob
        self.placed: dict[str, Placed] = {}
        self.why = ""
        """Why the layer that was asked about last has no masks."""

    def put(self, name: str, layer: nn.Module, found: Sequence[nn.Module] = ()) -> bool:
        """Put masks into a layer; return whether that is done.

        Args:
            name: Its name in the network.
            layer: The layer.
            found: Every ``nn.Dropout`` directly before it, which its masks replace.
        """
        cls: Any = layers[self.request.dropout]
        new = self._without_masks(name, layer)
        if new is None:
            return False
        own = {id(parameter) for parameter in layer.parameters()}
        others = (module for module in self.root.modules() if module is not layer)
        if any(own & {id(p) for p in module._parameters.values()} for module in others):
            self.why = TIED
            return False
        if cls.input_dependent:
            self.why = NOT_INSIDE
            return False
        placed = {}
        only_noise = self.only_noise(name, layer)
        for place, units in new.mask_sizes().items():
            rate = _rate(found) if place == "input_dropout_l0" else _own_rate(layer)
            noisy = rate > 0 and place.startswith("input")
            if place == "output_dropout" or (only_noise and not noisy):
                continue
            mask = self._mask(name, units, nn.Dropout(rate) if rate else None)
            weight = next(iter(layer.parameters()))
            new.put_mask(place, mask.to(weight.device, weight.dtype))
            behind: Any = new.weights_behind(place)
            mask.rank_units(behind.weight.detach().norm(dim=0))
            mask.train(layer.training)
            path = f"{name}.{place}" if name else place
            where = f"{place.replace('_', ' ')} of {name!r}"
            placed[path] = Placed(path, self.request.dropout, where, units)
        if not placed:
            self.why = only_noise
            return False
        if name:
            self.root.set_submodule(name, new)
        else:
            self.root = new
        self.placed |= placed
        return True

    def only_noise(self, name: str, layer: nn.Module) -> str:
        """Return why a layer gets masks in place of noise that it has, and no others; or nothing.

        Args:
            name: Its name in the network.
            layer: The layer.
        """
        if isinstance(layer, nn.RNNBase) and self.request.why_no_states:
            return self.request.why_no_states
        fixed = self.request.fixed_rate and not self.request.gives_rate(name)
        return NO_NOISE if self.keep_prob is not None and fixed else ""

    def _without_masks(self, name: str, layer: nn.Module) -> Any:
        """Return the layer with places for masks, None if it has none."""
        self.why = "its class is not torch's own, or it projects its states"
        if isinstance(layer, InnerMasks):
            self.why = HAS_MASKS
            return None
        if isinstance(layer, nn.RNNBase) and layer.proj_size:
            return None
        names = layer._flat_weights_names if isinstance(layer, nn.RNNBase) else ["weight"]
        if not {*names} <= {*layer._parameters}:
            self.why = NOT_OWN
            return None
        if type(layer) is nn.LSTM:
            return DropoutLSTM.from_plain(layer)
        if type(layer) is nn.GRU:
            return DropoutGRU.from_plain(layer)
        if type(layer) is nn.Embedding:
            batch_dim = self.request.options_of(name, self.request.options).get("batch_dim", 0)
            return DropoutEmbedding.from_plain(layer, batch_dim=batch_dim)
        return None

    def _mask(self, name: str, units: int, like: nn.Module | None) -> BayesianDropout:
        cls: Any = layers[self.request.dropout]
        options: Mapping[str, Any] = {}
        if self.keep_prob is not None:
            options |= cls.options_for_trained(units, self.keep_prob)
        if like is not None:
            options |= cls.options_from_dropout(like)
        asked = {
            key: value
            for key, value in self.request.options_of(name, self.request.options).items()
            if key not in _OWN
        }
        mask: Any = make(self.request.dropout, units, **{**options, **asked})
        return mask


def mask_inside(plan: Plan, node: fx.Node, layer: nn.Module) -> None:
    """Put masks into a layer that has places for them, and note what was done.

    Args:
        plan: The graph that calls it.
        node: The call.
        layer: The layer.
    """
    name, source, request = str(node.target), input_of(node), plan.request
    if request.why_no_states and isinstance(layer, nn.RNNBase) and not _own_rate(layer):
        plan.skipped[name] = request.why_no_states
        return
    if not plan.selected(node, layer):
        return
    found: list[nn.Module] = []
    while request.replace_dropout and isinstance(module := plan.module(source), DROPOUTS):
        found.append(module)
        source = input_of(source)
    inside = Inside(plan.root, request, plan.keep_prob)
    if not inside.put(name, layer, found):
        plan.skipped[name] = inside.why
        return
    node.replace_input_with(input_of(node), source)
    plan.masked.add(name)
    plan.inserted |= inside.placed
    for place in (name, *inside.placed):
        plan.modules[place] = plan.root.get_submodule(place)


def mask_in_place(place: InPlace, name: str, layer: nn.Module) -> None:
    """Put masks into a layer of a network that has no graph, and note what was done.

    Args:
        place: The network.
        name: The layer's name in it.
        layer: The layer.
    """
    request = place.request
    if request.why_no_states and isinstance(layer, nn.RNNBase) and not _own_rate(layer):
        place.skipped[name] = request.why_no_states
        return
    if not place.selected(name, layer):
        return
    inside = Inside(place.root, request, place.keep_prob)
    if not inside.put(name, layer):
        place.skipped[name] = inside.why
        return
    place.root = inside.root
    place.masked.add(name)
    place.placed |= inside.placed


def _rate(found: Sequence[nn.Module]) -> float:
    keep = 1.0
    for module in found:
        keep *= 1 - float(getattr(module, "p", 0.0))
    return 1 - keep


def _own_rate(layer: nn.Module) -> float:
    """Return the rate of the noise between a recurrent layer's layers."""
    return layer.dropout if isinstance(layer, nn.RNNBase) and layer.num_layers > 1 else 0.0
