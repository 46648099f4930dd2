"""Put Bayesian dropout layers into an existing network, and take them out again."""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import fx, nn
from torch.nn import functional as F

from bayesdrop.bayesian import BayesianNetwork
from bayesdrop.dropout import BayesianDropout, make_dropout
from bayesdrop.errors import ConversionError, describe, unknown_name
from bayesdrop.networks.tracing import leaf_modules, trace

Selection: TypeAlias = str | Sequence[str] | Callable[[str, nn.Module], bool]
"""Layers by name pattern (``"features.*"``), several patterns, or ``f(name, module) -> bool``."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_Convolution: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm)
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_ACTIVATIONS = (
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU,
    nn.Mish, nn.Softplus, nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid,
)  # fmt: skip
_ACTIVATION_FUNCTIONS = {
    F.relu, F.relu_, F.leaky_relu, F.relu6, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish,
    F.softplus, F.sigmoid, F.tanh, F.hardtanh, F.hardswish, F.hardsigmoid, torch.relu,
    torch.relu_, torch.sigmoid, torch.tanh, "relu", "relu_", "sigmoid", "tanh",
}  # fmt: skip
_POOLS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
_POOL_FUNCTIONS = {
    F.max_pool1d, F.max_pool2d, F.max_pool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d,
    F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, torch.max_pool2d,
}  # fmt: skip
_SUMS = {operator.add, operator.iadd, torch.add, "add", "add_"}


def convert(
    network: nn.Module,
    dropout: str = "beta-bernoulli",
    *,
    linear: bool = True,
    conv: bool = True,
    replace_dropout: bool = True,
    input_dropout: bool = True,
    select: Selection | None = None,
    exclude: Selection | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> fx.GraphModule:
    """Return a copy of ``network`` with Bayesian dropout layers put in.

    * ``nn.Linear``: a layer on its inputs, called ``{name}_dropout``. An ``nn.Dropout`` directly
      before it is replaced.
    * ``nn.Conv1d/2d/3d``: a layer on its output channels, ``{name}_dropout``, after the
      BatchNorm and the activation that follow the convolution. In a residual block, where the
      last convolution's activation comes after the sum, the layer is before the sum: it gates the
      block's contribution and never the identity. A dropped channel is then exactly zero, and
      ``compact`` removes it from the convolution and its BatchNorm, whether or not the sum has
      that channel.
    * Priors with an order (Indian buffet) give their first stick to the unit with the largest
      weights.
    * Any other ``nn.Dropout``: replaced by a layer of its name where its width can be told from
      the layers around it (one mask per channel on convolution maps), left alone where not, and
      removed where a new layer already masks the same units.

    Args:
        network: Any module that ``torch.fx`` can trace.
        dropout: A name from ``registered_dropouts()``.
        linear: Whether Linear layers get one.
        conv: Whether convolutions get one.
        replace_dropout: Whether ``nn.Dropout`` modules (and ``F.dropout(..., self.training)``)
            are replaced.
        input_dropout: Whether a Linear that sees the network's own input gets one, which prunes
            input features such as pixels.
        select: Only these layers: a name pattern or several, or ``f(name, module) -> bool``.
        exclude: Not these layers.
        overrides: Layer name or pattern to options that only these layers get, such as
            ``{"conv1": {"kl_scale": 40}}``.
        **options: Passed to the dropout class.

    Returns:
        A ``torch.fx.GraphModule`` with the same parameter names, weights and training mode.
        Python methods and modules that ``forward`` does not use are not carried over.

    Raises:
        ConversionError: If the network cannot be traced, behaves differently in training mode
            beyond its dropout, calls a selected layer twice, or if nothing was selected.
        ConfigError: If a pattern matches no layer, or an option or the dropout is unknown.

    Example:
        >>> import bayesdrop as bd
        >>> net = convert(bd.networks.lenet_500_300(), kl_scale=2.0)
        >>> [name for name, _ in net.named_children() if name.endswith("dropout")]
        ['fc1_dropout', 'fc2_dropout', 'fc3_dropout']
    """
    work = copy.deepcopy(network)
    modes = {name: module.training for name, module in work.named_modules()}
    graph = _trace_both_modes(work)
    _modularise_dropout(work, graph)
    plan = _Plan(
        root=work,
        graph=graph,
        modules=leaf_modules(work, graph),
        select=select,
        exclude=exclude,
        dropout=dropout,
        options=options,
        overrides=overrides or {},
    )
    plan.check_patterns()
    for node in list(graph.nodes):
        module = plan.module(node)
        if conv and isinstance(module, _CONVOLUTIONS):
            plan.gate_convolution(node, module, replace_dropout)
        if linear and isinstance(module, nn.Linear):
            plan.mask_linear(node, module, replace_dropout, input_dropout)
    plan.erase_idle_dropout()
    for node in list(graph.nodes) if replace_dropout else ():
        module = plan.module(node)
        if isinstance(module, _DROPOUTS):
            plan.replace_dropout(node, module)
    if not plan.inserted:
        raise ConversionError(
            describe(
                "convert",
                expected="at least one Linear, convolution or nn.Dropout to be selected",
                got=f"none of {_named_layers(plan.modules)}",
                hint="Check linear, conv, select, exclude and input_dropout.",
            )
        )
    plan.erase_idle_dropout()
    result = fx.GraphModule(work, graph, type(network).__name__)
    for name, module in result.named_modules():
        module.training = modes.get(name, modes[""])
    return result


def to_deterministic(network: nn.Module) -> nn.Module:
    """Return a copy of ``network`` in which every Bayesian dropout layer is ``nn.Identity``.

    Args:
        network: Any module, or a ``BayesianNetwork``, whose ``network`` is then meant.

    Example:
        >>> import bayesdrop as bd
        >>> net = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 3))
        >>> to_deterministic(net)[0]
        Identity()
    """
    result = copy.deepcopy(network.network if isinstance(network, BayesianNetwork) else network)
    if isinstance(result, BayesianDropout):
        return nn.Identity().train(result.training)
    for parent in list(result.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BayesianDropout):
                setattr(parent, name, nn.Identity().train(child.training))
    return result


def _trace_both_modes(work: nn.Module) -> fx.Graph:
    # Tracing bakes `self.training` into the graph, so what depends on it must be known.
    graphs = [trace(work.train(mode), "convert", ConversionError) for mode in (True, False)]
    programs = [[_signature(node) for node in graph.nodes] for graph in graphs]
    if programs[0] != programs[1]:
        raise ConversionError(
            describe(
                "convert",
                expected="a forward that runs the same operations in training and evaluation mode",
                got=f"{type(work).__name__}, whose forward looks at self.training",
                hint="Leave the branch (such as an auxiliary output) out of the converted part, "
                "or use modules such as nn.Dropout that know their mode.",
            )
        )
    for training, evaluation in zip(graphs[0].nodes, graphs[1].nodes, strict=True):
        training.meta["follows_mode"] = training.target is F.dropout and training.args + tuple(
            training.kwargs.values()
        ) != evaluation.args + tuple(evaluation.kwargs.values())
    return graphs[0]


def _signature(node: fx.Node) -> tuple[str, str, str]:
    arguments = "" if node.target is F.dropout else str((node.args, node.kwargs))
    return node.op, str(node.target), arguments


def _modularise_dropout(work: nn.Module, graph: fx.Graph) -> None:
    """Turn every ``F.dropout(x, p, self.training)`` into an ``nn.Dropout``."""
    for node in list(graph.nodes):
        if not node.meta.get("follows_mode"):
            continue
        rate = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
        name = _free_name(work, node.name)
        work.add_module(name, nn.Dropout(rate))
        with graph.inserting_after(node):
            new = graph.call_module(name, (_input(node),))
        node.replace_all_uses_with(new)
        graph.erase_node(node)


class _Units(NamedTuple):
    module: nn.Module
    number: int
    unit_dim: int
    weight_dim: int | None = None


@dataclass
class _Plan:
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
        return self.modules.get(str(node.target)) if node.op == "call_module" else None

    def check_patterns(self) -> None:
        for selection in (self.select, self.exclude, list(self.overrides)):
            for pattern in _patterns(selection):
                if not any(fnmatchcase(name, pattern) for name in self.modules):
                    raise unknown_name("layer", pattern, _named_layers(self.modules))

    def selected(self, node: fx.Node, module: nn.Module, *, once: bool = True) -> bool:
        name = str(node.target)
        if self.select is not None and not _matches(self.select, name, module):
            return False
        if self.exclude is not None and _matches(self.exclude, name, module):
            return False
        if once and self.calls[name] > 1:
            raise ConversionError(
                describe(
                    "convert",
                    expected="every selected layer to be called once in forward",
                    got=f"{name!r}, called {self.calls[name]} times",
                    hint=f"Pass exclude={name!r}, or give each call a layer of its own.",
                )
            )
        return True

    def mask_linear(
        self, node: fx.Node, linear: nn.Linear, replace_dropout: bool, input_dropout: bool
    ) -> None:
        """Mask the inputs of a Linear layer."""
        if not self.selected(node, linear):
            return
        source = _input(node)
        while replace_dropout and isinstance(self.module(source), _DROPOUTS):
            source = _input(source)
        if isinstance(self.module(source), BayesianDropout):
            return
        if not input_dropout and self._sees_input(source):
            return
        units = _Units(linear, linear.in_features, -1, 1)
        with self.graph.inserting_before(node):
            new = self._insert(f"{node.target}_dropout", str(node.target), source, units)
        node.args, node.kwargs = (new,), {}

    def gate_convolution(self, node: fx.Node, conv: _Convolution, replace_dropout: bool) -> None:
        """Mask the output channels of a convolution, after its BatchNorm and activation."""
        if not self.selected(node, conv):
            return
        end = node
        for is_next in (self._is_norm, self._is_activation):
            follower = _only_user(end)
            if follower is not None and is_next(follower):
                end = follower
        follower = _only_user(end)
        if follower is not None and isinstance(self.module(follower), BayesianDropout):
            return
        while replace_dropout and follower and isinstance(self.module(follower), _DROPOUTS):
            follower.replace_all_uses_with(end)
            self.graph.erase_node(follower)
            follower = _only_user(end)
        users = list(end.users)
        units = _Units(conv, conv.out_channels, 1 - conv.weight.ndim, 0)
        with self.graph.inserting_after(end):
            new = self._insert(f"{node.target}_dropout", str(node.target), end, units)
        for user in users:
            user.replace_input_with(end, new)

    def replace_dropout(self, node: fx.Node, module: nn.Module) -> None:
        """Replace an ``nn.Dropout`` if its width is known; drop it if a mask is there already."""
        if not self.selected(node, module, once=False):
            return
        around = [units for units in (self._before(node), self._after(node)) if units]
        if any(isinstance(units.module, BayesianDropout) for units in around):
            node.replace_all_uses_with(_input(node))
        elif around:
            with self.graph.inserting_after(node):
                name = str(node.target)
                new = self._insert(name, name, _input(node), around[0], self.calls[name] == 1)
            node.replace_all_uses_with(new)
            self.graph.erase_node(node)

    def erase_idle_dropout(self) -> None:
        """Erase every ``nn.Dropout`` whose output nothing uses any more."""
        for node in reversed(list(self.graph.nodes)):
            if isinstance(self.module(node), _DROPOUTS) and not node.users:
                self.graph.erase_node(node)

    def _insert(
        self, name: str, layer: str, source: fx.Node, units: _Units, replace: bool = False
    ) -> fx.Node:
        options: dict[str, Any] = {"unit_dim": units.unit_dim, **self.options}
        for pattern, more in self.overrides.items():
            if fnmatchcase(layer, pattern):
                options |= more
        new = make_dropout(self.dropout, units.number, **options)
        weight = next(units.module.parameters())
        new.to(device=weight.device, dtype=weight.dtype)
        if units.weight_dim is not None:
            new.attach(units.module, units.weight_dim)
            by_unit = weight.detach().transpose(0, units.weight_dim).flatten(1)
            new.set_order(by_unit.norm(dim=1))
        if not replace:
            name = _free_name(self.root, name)
        parent, _, leaf = name.rpartition(".")
        self.root.get_submodule(parent).add_module(leaf, new)
        self.modules[name] = new
        self.inserted.append(name)
        return self.graph.call_module(name, (source,))

    def _is_norm(self, node: fx.Node) -> bool:
        return isinstance(self.module(node), _NORMS)

    def _is_activation(self, node: fx.Node) -> bool:
        return isinstance(self.module(node), _ACTIVATIONS) or node.target in _ACTIVATION_FUNCTIONS

    def _keeps_units(self, node: fx.Node) -> bool:
        """Return whether the operation neither mixes nor reorders units."""
        return (
            self._is_norm(node)
            or self._is_activation(node)
            or isinstance(self.module(node), (*_POOLS, *_DROPOUTS, nn.Identity))
            or node.target in _POOL_FUNCTIONS
            or node.target in _SUMS
        )

    def _before(self, node: fx.Node) -> _Units | None:
        while node.op not in ("placeholder", "get_attr"):
            node = _input(node)
            module = self.module(node)
            if isinstance(module, nn.Linear):
                return _Units(module, module.out_features, -1, 0)
            if isinstance(module, _CONVOLUTIONS):
                return _Units(module, module.out_channels, 1 - module.weight.ndim, 0)
            if isinstance(module, BayesianDropout):
                return _Units(module, module.num_units, module.unit_dim)
            if not self._keeps_units(node):
                return None
        return None

    def _after(self, node: fx.Node) -> _Units | None:
        follower = _only_user(node)
        while follower is not None:
            module = self.module(follower)
            if isinstance(module, nn.Linear):
                return _Units(module, module.in_features, -1, 1)
            if isinstance(module, BayesianDropout):
                return _Units(module, module.num_units, module.unit_dim)
            if not self._keeps_units(follower):
                return None
            follower = _only_user(follower)
        return None

    def _sees_input(self, node: fx.Node) -> bool:
        while node.op in ("call_module", "call_function", "call_method") and node.all_input_nodes:
            module = self.module(node)
            if module is not None and next(module.parameters(), None) is not None:
                return False
            node = _input(node)
        return node.op == "placeholder"


def _input(node: fx.Node) -> fx.Node:
    return node.all_input_nodes[0]


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _free_name(root: nn.Module, name: str) -> str:
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


def _named_layers(modules: Mapping[str, nn.Module]) -> list[str]:
    kinds = (nn.Linear, *_CONVOLUTIONS, *_DROPOUTS)
    return [name for name, module in modules.items() if isinstance(module, kinds)]
