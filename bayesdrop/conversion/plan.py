"""What is put where: the graph of a network while layers go into it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

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
from bayesdrop.conversion.masks import new_mask
from bayesdrop.conversion.modes import drop_rate, free_name
from bayesdrop.conversion.noise import noise_of
from bayesdrop.conversion.reach import asks_for_shape, reaches_output, sees_examples
from bayesdrop.conversion.report import Placed
from bayesdrop.conversion.request import NEVER_DROPPED, Request
from bayesdrop.conversion.selection import named_layers, patterns_of, plain_of
from bayesdrop.conversion.units import Units, inputs_of, outputs_of, weight_of
from bayesdrop.errors import ConversionError, unknown_name
from bayesdrop.networks.blocks import in_windows
from bayesdrop.networks.by_mode import FunctionByMode
from bayesdrop.networks.operations import operation
from bayesdrop.nn import (
    BayesianDropout,
    BayesianWeights,
    input_mask,
    make,
    registered,
)

IS_OUTPUT = "it is the network's own output (output_dropout=True masks it)"
WIDTH_UNKNOWN = "its width cannot be told from the layers around it"
WINDOWS = "it sees windows of an example as examples, which would have masks of their own"
NO_EXAMPLES = "it sees no examples, which have a mask each: parameters, or positions"
NOT_PLAIN = (
    "its weight is computed from others, its inputs have a mask already, or its class has no "
    "random weights"
)


@dataclass
class Plan:
    """The graph while layers are being put into it."""

    root: nn.Module
    graph: fx.Graph
    modules: dict[str, nn.Module]
    request: Request
    keep_prob: float | None = None
    """Where masks of a trained network start; None leaves it to their class."""
    inserted: dict[str, Placed] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """Why layers that could have had a mask, or random weights, have none."""
    masked: set[str] = field(default_factory=set)
    """The layers that have one."""

    def __post_init__(self) -> None:
        self.calls = Counter(n.target for n in self.graph.nodes if n.op == "call_module")
        names = [str(n.target) for n in self.graph.nodes if n.op == "get_attr"]
        inside = self.root.named_modules()
        self.windows = tuple(f"{name}." for name, module in inside if in_windows(module))
        # Layers whose weights a function uses are no modules of the graph, but have names.
        self.names = {*self.modules, *names, *(name.rpartition(".")[0] for name in names)}
        # So have the functions of noise that is told of.
        noisy = (n for n in self.graph.nodes if noise_of(n) or drop_rate(n) is not None)
        self.names |= {node.name for node in noisy}

    def module(self, node: fx.Node) -> nn.Module | None:
        """Return the module that a node calls, if it calls one."""
        return self.modules.get(str(node.target)) if node.op == "call_module" else None

    def check_patterns(self) -> None:
        """Raise ``ConfigError`` if a pattern matches no layer."""
        for selection in (self.request.select, self.request.exclude, list(self.request.overrides)):
            for pattern in patterns_of(selection):
                if not any(fnmatchcase(name, pattern) for name in self.names):
                    raise unknown_name("layer", pattern, named_layers(self.modules))

    def selected(self, node: fx.Node, module: nn.Module, *, once: bool = True) -> bool:
        """Return whether the user wants this layer, which ``once`` says must be called once."""
        name = str(node.target)
        if why := self.request.why_not(name, module):
            self.skipped[name] = why
            return False
        if name.startswith(self.windows):
            self.skipped[name] = WINDOWS
            return False
        if not self.request.random_weights and not sees_examples(node):
            self.skipped[name] = NO_EXAMPLES
            return False
        if once and self.calls[name] > 1:
            raise ConversionError(
                "convert",
                expected="every selected layer to be called once in forward",
                got=f"{name!r}, called {self.calls[name]} times",
                hint=f"Pass exclude={name!r}, or give each call a layer of its own.",
            )
        return True

    def put_in(self, node: fx.Node, layer: nn.Module) -> None:
        """Give a Linear or a convolution what is asked for."""
        before = self.request.position == "before-activation"
        if self.request.random_weights:
            self._randomise(node, layer)
        elif before or isinstance(plain_of(layer), CONVOLUTIONS):
            self._mask_outputs(node, layer, before_activation=before)
        else:
            self._mask_linear(node, layer)

    def _randomise(self, node: fx.Node, layer: nn.Module) -> None:
        """Give a Linear or convolution of torch's own random weights."""
        name = str(node.target)
        if not BayesianWeights.takes(layer):
            self.skipped[name] = NOT_PLAIN
            return
        if not self.selected(node, layer):
            return
        if self._never_dropped(name):
            return
        self._check_untied(name, layer)
        new = make(
            self.request.dropout, layer, **self.request.options_of(name, self.request.options)
        )
        source = input_of(node)
        while self.request.replace_dropout and isinstance(self.module(source), DROPOUTS):
            node.replace_input_with(source, input_of(source))
            source = input_of(node)
        self.root.set_submodule(name, new)
        self.modules[name] = new
        where = f"weights of {name!r}"
        self.inserted[name] = Placed(name, self.request.dropout, where, int(new.total()))
        self.masked.add(name)
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

    def _mask_linear(self, node: fx.Node, linear: nn.Module) -> None:
        """Mask the inputs of a Linear layer."""
        if not self.selected(node, linear):
            return
        source = input_of(node)
        found: list[nn.Module] = []
        while self.request.replace_dropout and isinstance(module := self.module(source), DROPOUTS):
            found.append(module)
            source = input_of(source)
        name = str(node.target)
        masked = input_mask(linear) is not None
        if masked or isinstance(self.module(source), BayesianDropout):
            self.skipped[name] = "its inputs have a mask already"
            return
        if not self.request.input_dropout and self._sees_input(source):
            self.skipped[name] = "input_dropout=False"
            return
        if not any(getattr(module, "p", 0.0) for module in found) and self._never_dropped(name):
            return
        units = inputs_of(linear)
        with self.graph.inserting_before(node):
            where = f"inputs of {name!r}"
            new = self._insert(f"{name}_dropout", name, source, units, where, like=_joined(found))
        node.args, node.kwargs = (new,), {}

    def _mask_outputs(self, node: fx.Node, layer: nn.Module, *, before_activation: bool) -> None:
        """Mask a layer's outputs after its BatchNorm and, unless it comes before, activation."""
        if not self.selected(node, layer):
            return
        normed = self._followed(node, self._is_norm)
        activated = self._followed(normed, self._is_activation)
        end = normed if before_activation else activated
        name = str(node.target)
        if any(isinstance(self.module(user), BayesianDropout) for user in end.users):
            self.skipped[name] = "its outputs have a mask already"
            return
        if self._is_output(end):
            self.skipped[name] = IS_OUTPUT
            return
        found: list[nn.Module] = []
        follower = _only_user(activated)
        while self.request.replace_dropout and follower:
            module = self.module(follower)
            if not isinstance(module, DROPOUTS):
                break
            found.append(module)
            follower.replace_all_uses_with(activated)
            self.graph.erase_node(follower)
            follower = _only_user(activated)
        if not any(getattr(module, "p", 0.0) for module in found) and self._never_dropped(name):
            return
        users = list(end.users)
        with self.graph.inserting_after(end):
            where, like = f"outputs of {name!r}", _joined(found)
            new = self._insert(f"{name}_dropout", name, end, outputs_of(layer), where, like=like)
        for user in users:
            user.replace_input_with(end, new)

    def _followed(self, node: fx.Node, is_next: Callable[[fx.Node], bool]) -> fx.Node:
        follower = _only_user(node)
        return node if follower is None or not is_next(follower) else follower

    def _never_dropped(self, name: str) -> bool:
        """Return whether noise of a fixed rate would be new to a trained network, and unasked."""
        if self.keep_prob is None or not self.request.fixed_rate or self.request.gives_rate(name):
            return False
        self.skipped[name] = NEVER_DROPPED
        return True

    def _is_output(self, node: fx.Node) -> bool:
        return not self.request.output_dropout and reaches_output(node, self.modules)

    def replace_all_dropout(self) -> None:
        """Replace what is left of ``nn.Dropout``, one by one."""
        for node in list(self.graph.nodes):
            module = self.module(node)
            if isinstance(module, DROPOUTS):
                self._replace_dropout(node, module)

    def _replace_dropout(self, node: fx.Node, module: nn.Module) -> None:
        """Replace an ``nn.Dropout`` if its width is known; drop it if a mask is there already."""
        name = str(node.target)
        if not self.selected(node, module, once=False):
            return
        rate = self._options_from(module)
        asked = rate and rate.keys() <= self.request.options.keys()
        if getattr(module, "p", 0.0) == 0.0 and not asked:
            return
        if not rate and self._is_masked(input_of(node)):
            node.replace_all_uses_with(input_of(node))
            return
        around = self.around(node)
        if any(isinstance(units.module, BayesianDropout) for units in around) and not rate:
            node.replace_all_uses_with(input_of(node))
        elif not around:
            self.skipped[name] = WIDTH_UNKNOWN
        elif not self.request.fixed_rate and self._is_output(node):
            self.skipped[name] = IS_OUTPUT
        else:
            with self.graph.inserting_after(node):
                where, once = f"in place of {module}", self.calls[name] == 1
                new = self._insert(name, name, input_of(node), around[0], where, once, like=module)
            node.replace_all_uses_with(new)
            self.graph.erase_node(node)

    def erase_idle_dropout(self) -> None:
        """Erase every ``nn.Dropout`` whose output nothing uses any more."""
        for node in reversed(list(self.graph.nodes)):
            if isinstance(self.module(node), DROPOUTS) and not node.users:
                self.graph.erase_node(node)

    def _options_from(self, module: nn.Module | None) -> dict[str, Any]:
        cls = registered(BayesianDropout).get(self.request.dropout)
        return {} if cls is None or module is None else cls.options_from_dropout(module)

    def _insert(
        self,
        name: str,
        layer: str,
        source: fx.Node,
        units: Units,
        where: str,
        replace: bool = False,
        *,
        like: nn.Module | None,
    ) -> fx.Node:
        own = {"unit_dim": units.unit_dim}
        new = new_mask(self.request, layer, units.number, own, self.keep_prob, like)
        weight = weight_of(units.module)
        new.to(device=weight.device, dtype=weight.dtype)
        if units.weight_dim is not None:
            new.bind_weights(units.module, units.weight_dim)
            by_unit = weight.transpose(0, units.weight_dim).flatten(1)
            new.rank_units(by_unit.norm(dim=1))
        if not replace:
            name = free_name(self.root, name)
        parent, _, leaf = name.rpartition(".")
        self.root.get_submodule(parent).add_module(leaf, new)
        self.modules[name] = new
        self.inserted[name] = Placed(name, self.request.dropout, where, units.number)
        self.masked.add(layer)
        return self.graph.call_module(name, (source,))

    def _is_masked(self, node: fx.Node) -> bool:
        """Return whether all units of a value have a mask."""
        if isinstance(self.module(node), BayesianDropout):
            return True
        if node.target in (torch.cat, torch.concat):
            return all(map(self._is_masked, node.all_input_nodes))
        one = len(node.all_input_nodes) == 1
        return one and self._keeps_units(node) and self._is_masked(input_of(node))

    def _is_norm(self, node: fx.Node) -> bool:
        module = self.module(node)
        function = module.function if isinstance(module, FunctionByMode) else node.target
        return isinstance(module, NORMS) or function is nn.functional.batch_norm

    def _is_activation(self, node: fx.Node) -> bool:
        return (
            isinstance(self.module(node), ACTIVATIONS) or operation(node) in ACTIVATION_FUNCTIONS
        )

    def _keeps_units(self, node: fx.Node) -> bool:
        """Return whether the operation neither mixes nor reorders units."""
        return (
            self._is_norm(node)
            or self._is_activation(node)
            or isinstance(self.module(node), (*POOLS, *DROPOUTS, nn.Identity))
            or operation(node) in POOL_FUNCTIONS
            or operation(node) in SUMS
        )

    def _before(self, node: fx.Node) -> Units | None:
        summed = False
        while node.op not in ("placeholder", "get_attr"):
            node = input_of(node)
            module = self.module(node)
            if module is not None and isinstance(plain_of(module), (nn.Linear, *CONVOLUTIONS)):
                units = outputs_of(module)
                return None if summed and units.number == 1 else units  # it may be broadcast
            if isinstance(module, BayesianDropout):
                return Units(module, module.num_units, module.unit_dim)
            summed |= operation(node) in SUMS
            if not self._keeps_units(node):
                return None
        return None

    def _after(self, node: fx.Node) -> Units | None:
        follower = _only_user(node)
        while follower is not None:
            module = self.module(follower)
            if module is not None and isinstance(plain_of(module), (nn.Linear, *CONVOLUTIONS)):
                return inputs_of(module) if getattr(plain_of(module), "groups", 1) == 1 else None
            if isinstance(module, BayesianDropout):
                return Units(module, module.num_units, module.unit_dim)
            if not self._keeps_units(follower):
                return None
            follower = _only_user(follower)
        return None

    def around(self, node: fx.Node) -> list[Units]:
        """Return the units that an operation sees; those of the layer behind it come first."""
        found = [units for units in (self._before(node), self._after(node)) if units]
        return sorted(found, key=lambda units: not units.inputs)

    def _sees_input(self, node: fx.Node) -> bool:
        while node.op in ("call_module", "call_function", "call_method") and node.all_input_nodes:
            module = self.module(node)
            if module is not None and next(module.parameters(), None) is not None:
                return False
            node = input_of(node)
        return node.op == "placeholder"


def _joined(found: Sequence[nn.Module]) -> nn.Module | None:
    """Return one ``nn.Dropout`` that does what several in a row do."""
    if len(found) < 2:
        return next(iter(found), None)
    return nn.Dropout(1 - math.prod(1 - getattr(module, "p", 0.0) for module in found))


def input_of(node: fx.Node) -> fx.Node:
    """Return the first tensor that an operation takes."""
    return node.all_input_nodes[0]


def _only_user(node: fx.Node) -> fx.Node | None:
    """Return the one operation that sees a value; whoever asks for its shape does not."""
    users = [user for user in node.users if not asks_for_shape(user)]
    return users[0] if len(users) == 1 else None
