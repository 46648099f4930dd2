"""What is put where: the graph of a network while layers go into it."""

from __future__ import annotations

import itertools
import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import fx, nn

from bayesdrop.conversion.kinds import (
    ACTIVATION_FUNCTIONS,
    ACTIVATIONS,
    CONVOLUTIONS,
    DROPOUTS,
    NORMS,
    POOL_FUNCTIONS,
    POOLS,
    SUMS,
)
from bayesdrop.errors import ConversionError, ConversionWarning, unknown_name
from bayesdrop.nn import (
    LAYER_KINDS,
    BayesianDropout,
    BayesianWeights,
    LayerKind,
    layers,
    make,
    registered,
)

Selection: TypeAlias = str | Sequence[str] | Callable[[str, nn.Module], bool]
"""Layers by name pattern (``"features.*"``), several patterns, or ``f(name, module) -> bool``."""


class Units(NamedTuple):
    """A layer, how many units it has, and where: in its tensor and in its weight."""

    module: nn.Module
    number: int
    unit_dim: int
    weight_dim: int | None = None


@dataclass
class Plan:
    """The graph while layers are being put into it."""

    root: nn.Module
    graph: fx.Graph
    modules: dict[str, nn.Module]
    select: Selection | None
    exclude: Selection | None
    dropout: str
    options: Mapping[str, Any]
    overrides: Mapping[str, Mapping[str, Any]]
    inserted: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.calls = Counter(n.target for n in self.graph.nodes if n.op == "call_module")

    def module(self, node: fx.Node) -> nn.Module | None:
        """Return the module that a node calls, if it calls one."""
        return self.modules.get(str(node.target)) if node.op == "call_module" else None

    def check_patterns(self) -> None:
        """Raise ``ConfigError`` if a pattern matches no layer."""
        for selection in (self.select, self.exclude, list(self.overrides)):
            for pattern in _patterns(selection):
                if not any(fnmatchcase(name, pattern) for name in self.modules):
                    raise unknown_name("layer", pattern, named_layers(self.modules))

    def selected(self, node: fx.Node, module: nn.Module, *, once: bool = True) -> bool:
        """Return whether the user wants this layer, which ``once`` says must be called once."""
        name = str(node.target)
        if self.select is not None and not _matches(self.select, name, module):
            return False
        if self.exclude is not None and _matches(self.exclude, name, module):
            return False
        if once and self.calls[name] > 1:
            raise ConversionError(
                "convert",
                expected="every selected layer to be called once in forward",
                got=f"{name!r}, called {self.calls[name]} times",
                hint=f"Pass exclude={name!r}, or give each call a layer of its own.",
            )
        return True

    def randomise(self, node: fx.Node, layer: nn.Module, replace_dropout: bool) -> None:
        """Give a Linear or convolution of torch's own random weights."""
        if not BayesianWeights.takes(layer) or not self.selected(node, layer):
            return
        name = str(node.target)
        self._check_untied(name, layer)
        new = make(self.dropout, layer, **self._layer_options(name, self.options))
        source = input_of(node)
        while replace_dropout and isinstance(self.module(source), DROPOUTS):
            node.replace_input_with(source, input_of(source))
            source = input_of(node)
        self.root.set_submodule(name, new)
        self.modules[name] = new
        self.inserted.append(name)
        for mask in self.modules.values():
            if not isinstance(mask, BayesianDropout) or mask.bound is None:
                continue
            bound, dim = mask.bound
            if bound is layer:
                mask.bind_weights(new, dim)

    def _check_untied(self, name: str, layer: nn.Module) -> None:
        own = {id(parameter) for parameter in layer.parameters()}
        for path, module in self.root.named_modules():
            if module is not layer and own & {id(p) for p in module._parameters.values()}:
                raise ConversionError(
                    "convert",
                    expected="layers that share no parameter with another",
                    got=f"{name!r} and {path!r}, which do",
                    hint=f"Pass exclude=[{name!r}, {path!r}], or untie them.",
                )

    def _layer_options(self, layer: str, options: Mapping[str, Any]) -> dict[str, Any]:
        result = dict(options)
        for pattern, more in self.overrides.items():
            if fnmatchcase(layer, pattern):
                result |= more
        return result

    def mask_linear(
        self, node: fx.Node, linear: nn.Module, replace_dropout: bool, input_dropout: bool
    ) -> None:
        """Mask the inputs of a Linear layer."""
        if not self.selected(node, linear):
            return
        source = input_of(node)
        found: list[nn.Module] = []
        while replace_dropout and isinstance(module := self.module(source), DROPOUTS):
            found.append(module)
            source = input_of(source)
        if isinstance(self.module(source), BayesianDropout):
            return
        if not input_dropout and self._sees_input(source):
            return
        units = _inputs(linear)
        with self.graph.inserting_before(node):
            name = str(node.target)
            new = self._insert(f"{name}_dropout", name, source, units, like=_joined(found))
        node.args, node.kwargs = (new,), {}

    def mask_outputs(
        self, node: fx.Node, layer: nn.Module, replace_dropout: bool, *, before_activation: bool
    ) -> None:
        """Mask a layer's outputs after its BatchNorm and, unless it comes before, activation.

        Before the activation the network's own outputs are left alone.
        """
        if not self.selected(node, layer):
            return
        normed = self._followed(node, self._is_norm)
        activated = self._followed(normed, self._is_activation)
        end = normed if before_activation else activated
        if any(isinstance(self.module(user), BayesianDropout) for user in end.users):
            return
        if before_activation and self._reaches_output(end):
            return
        found: list[nn.Module] = []
        follower = _only_user(activated)
        while replace_dropout and follower:
            module = self.module(follower)
            if not isinstance(module, DROPOUTS):
                break
            found.append(module)
            follower.replace_all_uses_with(activated)
            self.graph.erase_node(follower)
            follower = _only_user(activated)
        users = list(end.users)
        with self.graph.inserting_after(end):
            name = str(node.target)
            like = _joined(found)
            new = self._insert(f"{name}_dropout", name, end, _outputs(layer), like=like)
        for user in users:
            user.replace_input_with(end, new)

    def _followed(self, node: fx.Node, is_next: Callable[[fx.Node], bool]) -> fx.Node:
        follower = _only_user(node)
        return node if follower is None or not is_next(follower) else follower

    def _reaches_output(self, node: fx.Node) -> bool:
        """Return whether only what keeps units apart is between a node and the output."""
        return any(
            user.op == "output" or (self._keeps_units(user) and self._reaches_output(user))
            for user in node.users
        )

    def replace_all_dropout(self) -> None:
        """Replace what is left of ``nn.Dropout``, one by one."""
        for node in list(self.graph.nodes):
            module = self.module(node)
            if isinstance(module, DROPOUTS):
                self._replace_dropout(node, module)

    def _replace_dropout(self, node: fx.Node, module: nn.Module) -> None:
        """Replace an ``nn.Dropout`` if its width is known; drop it if a mask is there already."""
        if not self.selected(node, module, once=False):
            return
        around = [units for units in (self._before(node), self._after(node)) if units]
        has_rate = bool(self._options_from(module))
        if any(isinstance(units.module, BayesianDropout) for units in around) and not has_rate:
            node.replace_all_uses_with(input_of(node))
        elif around:
            # The layer behind the mask if there is one, as for other masks on its inputs.
            units = next((u for u in reversed(around) if u.weight_dim == 1), around[0])
            with self.graph.inserting_after(node):
                name = str(node.target)
                once = self.calls[name] == 1
                new = self._insert(name, name, input_of(node), units, once, like=module)
            node.replace_all_uses_with(new)
            self.graph.erase_node(node)
        elif has_rate:
            warnings.warn(
                f"convert: {node.target!r} stays {module}, which nothing samples at prediction, "
                "since its width cannot be told from the layers around it. Put a layer there by "
                "hand.",
                ConversionWarning,
                stacklevel=3,
            )

    def erase_idle_dropout(self) -> None:
        """Erase every ``nn.Dropout`` whose output nothing uses any more."""
        for node in reversed(list(self.graph.nodes)):
            if isinstance(self.module(node), DROPOUTS) and not node.users:
                self.graph.erase_node(node)

    def join(self) -> None:
        """Let the new dropout layers share what they share."""
        cls = layers[self.dropout]
        if not issubclass(cls, BayesianDropout):
            return
        by_name = {name: self.modules[name] for name in self.inserted}
        order = [str(n.target) for n in self.graph.nodes if str(n.target) in by_name]
        cls.share([m for name in order if isinstance(m := by_name[name], cls)])

    def _options_from(self, module: nn.Module | None) -> dict[str, Any]:
        cls = registered(BayesianDropout).get(self.dropout)
        return {} if cls is None or module is None else cls.options_from_dropout(module)

    def _insert(
        self,
        name: str,
        layer: str,
        source: fx.Node,
        units: Units,
        replace: bool = False,
        *,
        like: nn.Module | None = None,
    ) -> fx.Node:
        options: dict[str, Any] = {"unit_dim": units.unit_dim, **self._options_from(like)}
        options = self._layer_options(layer, options | dict(self.options))
        new = make(self.dropout, units.number, **options)
        tensors = itertools.chain(units.module.parameters(), units.module.buffers())
        weight = next(tensors, torch.empty(0))
        new.to(device=weight.device, dtype=weight.dtype)
        if units.weight_dim is not None:
            new.bind_weights(units.module, units.weight_dim)
            by_unit = weight.detach().transpose(0, units.weight_dim).flatten(1)
            new.rank_units(by_unit.norm(dim=1))
        if not replace:
            name = free_name(self.root, name)
        parent, _, leaf = name.rpartition(".")
        self.root.get_submodule(parent).add_module(leaf, new)
        self.modules[name] = new
        self.inserted.append(name)
        return self.graph.call_module(name, (source,))

    def _is_norm(self, node: fx.Node) -> bool:
        return isinstance(self.module(node), NORMS)

    def _is_activation(self, node: fx.Node) -> bool:
        return isinstance(self.module(node), ACTIVATIONS) or node.target in ACTIVATION_FUNCTIONS

    def _keeps_units(self, node: fx.Node) -> bool:
        """Return whether the operation neither mixes nor reorders units."""
        return (
            self._is_norm(node)
            or self._is_activation(node)
            or isinstance(self.module(node), (*POOLS, *DROPOUTS, nn.Identity))
            or node.target in POOL_FUNCTIONS
            or node.target in SUMS
        )

    def _before(self, node: fx.Node) -> Units | None:
        while node.op not in ("placeholder", "get_attr"):
            node = input_of(node)
            module = self.module(node)
            if module is not None and isinstance(plain_of(module), (nn.Linear, *CONVOLUTIONS)):
                return _outputs(module)
            if isinstance(module, BayesianDropout):
                return Units(module, module.num_units, module.unit_dim)
            if not self._keeps_units(node):
                return None
        return None

    def _after(self, node: fx.Node) -> Units | None:
        follower = _only_user(node)
        while follower is not None:
            module = self.module(follower)
            if module is not None and isinstance(plain_of(module), nn.Linear):
                return _inputs(module)
            if isinstance(module, BayesianDropout):
                return Units(module, module.num_units, module.unit_dim)
            if not self._keeps_units(follower):
                return None
            follower = _only_user(follower)
        return None

    def _sees_input(self, node: fx.Node) -> bool:
        while node.op in ("call_module", "call_function", "call_method") and node.all_input_nodes:
            module = self.module(node)
            if module is not None and next(module.parameters(), None) is not None:
                return False
            node = input_of(node)
        return node.op == "placeholder"


def plain_of(module: nn.Module) -> nn.Module:
    """Return the layer that says what a layer does: with random weights, the one it replaces."""
    return module.plain if isinstance(module, BayesianWeights) else module


def _inputs(layer: nn.Module) -> Units:
    plain, kind = _kind(layer)
    return Units(layer, kind.input_units(plain), kind.unit_dim, 1)


def _outputs(layer: nn.Module) -> Units:
    plain, kind = _kind(layer)
    return Units(layer, kind.output_units(plain), kind.unit_dim, 0)


def _kind(layer: nn.Module) -> tuple[nn.Module, LayerKind]:
    plain = plain_of(layer)
    return plain, next(kind for cls, kind in LAYER_KINDS.items() if isinstance(plain, cls))


def _joined(found: Sequence[nn.Module]) -> nn.Module | None:
    """Return one ``nn.Dropout`` that does what several in a row do."""
    if len(found) < 2:
        return next(iter(found), None)
    return nn.Dropout(1 - math.prod(1 - getattr(module, "p", 0.0) for module in found))


def input_of(node: fx.Node) -> fx.Node:
    """Return the first tensor that an operation takes."""
    return node.all_input_nodes[0]


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def free_name(root: nn.Module, name: str) -> str:
    """Return the name, with a number after it if something has it already."""
    parent, _, leaf = name.rpartition(".")
    holder = root.get_submodule(parent)
    candidate, number = leaf, 0
    while hasattr(holder, candidate):
        number += 1
        candidate = f"{leaf}_{number}"
    return f"{parent}.{candidate}" if parent else candidate


def _patterns(selection: Selection | None) -> Sequence[str]:
    if selection is None or callable(selection):
        return ()
    return (selection,) if isinstance(selection, str) else selection


def _matches(selection: Selection, name: str, module: nn.Module) -> bool:
    if callable(selection):
        return selection(name, module)
    return any(fnmatchcase(name, pattern) for pattern in _patterns(selection))


def named_layers(modules: Mapping[str, nn.Module]) -> list[str]:
    """Return the names of the layers that a user can select, for messages."""
    kinds = (nn.Linear, *CONVOLUTIONS, *DROPOUTS)
    return [name for name, module in modules.items() if isinstance(plain_of(module), kinds)]
