"""Put Bayesian dropout layers into an existing network, and take them out again."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

from torch import fx, nn
from torch.nn import functional as F

from bayesdrop.conversion.kinds import CONVOLUTIONS
from bayesdrop.conversion.plan import (
    Plan,
    Selection,
    free_name,
    input_of,
    named_layers,
    plain_of,
)
from bayesdrop.errors import ConfigError, ConversionError, unknown_name
from bayesdrop.networks.tracing import leaf_modules, trace
from bayesdrop.nn import (
    BayesianDropout,
    BayesianWeights,
    layers,
    registered,
    with_plain_weights,
)
from bayesdrop.program.program import Program

Position: TypeAlias = Literal["after-activation", "before-activation"]
"""Where a mask goes: on what the next layer sees, or on what the activation sees."""


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
    weights: str | Mapping[str, Any] | None = None,
    position: Position = "after-activation",
    **options: Any,
) -> fx.GraphModule:
    r"""Return a copy of ``network`` with Bayesian dropout layers put in.

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
    * Priors whose rate is an ``nn.Dropout``'s (``"mc-dropout"``, ``"gaussian"``, and as initial
      rate ``"concrete"``) take it from the module they replace, unless it is among ``options``;
      none is then removed. With ``linear=False, conv=False`` only these are put in: a trained
      network with ``nn.Dropout`` becomes the same network with Monte Carlo dropout.

    With ``position="before-activation"`` each Linear and convolution gets its layer on its own
    outputs instead, after the BatchNorm and before the activation, so that a dropped unit is the
    constant :math:`\phi(0)`. ``compact`` removes it, and adds what the constant contributes to
    the next layer's bias; a convolution that pads with zeros, of which a border differs from
    :math:`\phi(0) \ne 0` (sigmoid), keeps an input for it instead. Layers whose outputs are the
    network's get none.

    A key of random weights, such as ``"sparse-variational"``, replaces Linear
    and convolution layers by layers with random weights, whose means are the network's; an
    ``nn.Dropout`` directly before one is removed. Both kinds can be put in, weights first: by two
    calls, or by ``weights``, which leaves each ``nn.Dropout`` to the masks. Spike-and-slab dropout
    is ``convert(net, "mc-dropout", weights="gaussian-dropconnect")``.

    Args:
        network: Any module that ``torch.fx`` can trace.
        dropout: A key of ``bd.nn.layers``, of a mask or of random weights.
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
        weights: Random weights to put in before the masks: their key
            in ``bd.nn.layers``, or that key as ``"dropout"`` in a mapping with other
            arguments of this function, such as
            ``{"dropout": "sparse-variational", "conv": False, "kl_scale": 0.1}``.
        position: Where masks go: ``"after-activation"`` as listed above, or
            ``"before-activation"``.
        **options: Passed to the class of dropout or of random weights, such as ``kl_scale`` or,
            for sequences first (T, N, K), ``batch_dim=1``.

    Returns:
        A ``torch.fx.GraphModule`` with the same parameter names, weights and training mode.
        Python methods and modules that ``forward`` does not use are not carried over.

    Raises:
        ConversionError: If the network cannot be traced, behaves differently in training mode
            beyond its dropout, calls a selected layer twice, or if nothing was selected.
        ConfigError: If a pattern matches no layer, an option or the dropout is unknown, or
            ``weights`` names no random weights, or the position is unknown or that of weights.

    Example:
        >>> import bayesdrop as bd
        >>> net = convert(bd.networks.lenet_500_300(), kl_scale=2.0)
        >>> [name for name, _ in net.named_children() if name.endswith("dropout")]
        ['fc1_dropout', 'fc2_dropout', 'fc3_dropout']
    """
    random_weights = issubclass(layers[dropout], BayesianWeights)
    _check_position(position, random_weights)
    if weights is not None:
        network = _with_random_weights(network, weights)
    work = copy.deepcopy(network)
    modes = {name: module.training for name, module in work.named_modules()}
    graph = _trace_both_modes(work)
    _modularise_dropout(work, graph)
    plan = Plan(
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
    kinds = (*(CONVOLUTIONS if conv else ()), *((nn.Linear,) if linear else ()))
    before = position == "before-activation"
    for node in list(graph.nodes):
        module = plan.module(node)
        if module is None or not isinstance(plain_of(module), kinds):
            continue
        if random_weights:
            plan.randomise(node, module, replace_dropout)
        elif before or isinstance(plain_of(module), CONVOLUTIONS):
            plan.mask_outputs(node, module, replace_dropout, before_activation=before)
        else:
            plan.mask_linear(node, module, replace_dropout, input_dropout)
    plan.erase_idle_dropout()
    if replace_dropout and not random_weights:
        plan.replace_all_dropout()
    if not plan.inserted:
        raise ConversionError(
            "convert",
            expected="at least one Linear, convolution or nn.Dropout to be selected",
            got=f"none of {named_layers(plan.modules)}",
            hint="Check linear, conv, select, exclude and input_dropout.",
        )
    plan.join()
    plan.erase_idle_dropout()
    result = fx.GraphModule(work, graph, type(network).__name__)
    for name, module in result.named_modules():
        module.training = modes.get(name, modes[""])
    return result


def without_dropout(network: nn.Module) -> nn.Module:
    """Return a copy of ``network`` in which every Bayesian dropout layer is ``nn.Identity``.

    Layers with random weights become ``torch.nn`` layers with the mean weights, none pruned.

    Args:
        network: Any module, or a ``BayesianNetwork``, whose ``network`` is then meant.

    Example:
        >>> import bayesdrop as bd
        >>> net = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 3))
        >>> without_dropout(net)[0]
        Identity()
    """
    result = copy.deepcopy(network.network if isinstance(network, Program) else network)
    result = with_plain_weights(result, prune=False)
    if isinstance(result, BayesianDropout):
        return nn.Identity().train(result.training)
    for parent in list(result.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BayesianDropout):
                setattr(parent, name, nn.Identity().train(child.training))
    return result


def _check_position(position: str, random_weights: bool) -> None:
    positions = get_args(Position)
    if position not in positions:
        raise unknown_name("position", position, positions)
    if random_weights and position != positions[0]:
        raise ConfigError(
            "convert",
            expected="a mask where a position is given",
            got=f"random weights and position={position!r}",
            hint="Random weights take the place of the layer. Leave position out.",
        )


def _with_random_weights(network: nn.Module, weights: str | Mapping[str, Any]) -> nn.Module:
    arguments = {"dropout": weights} if isinstance(weights, str) else dict(weights)
    name = arguments.get("dropout")
    if name not in registered(BayesianWeights):
        raise unknown_name("random weights", str(name), registered(BayesianWeights))
    return convert(network, **{"replace_dropout": False, **arguments})


def _trace_both_modes(work: nn.Module) -> fx.Graph:
    # Tracing bakes `self.training` into the graph, so what depends on it must be known.
    graphs = [trace(work.train(mode), "convert", ConversionError) for mode in (True, False)]
    programs = [[_signature(node) for node in graph.nodes] for graph in graphs]
    if programs[0] != programs[1]:
        raise ConversionError(
            "convert",
            expected="a forward that runs the same operations in training and evaluation mode",
            got=f"{type(work).__name__}, whose forward looks at self.training",
            hint="Leave the branch (such as an auxiliary output) out of the converted part, "
            "or use modules such as nn.Dropout that know their mode.",
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
        name = free_name(work, node.name)
        work.add_module(name, nn.Dropout(rate))
        with graph.inserting_after(node):
            new = graph.call_module(name, (input_of(node),))
        node.replace_all_uses_with(new)
        graph.erase_node(node)


__all__ = ["Selection", "convert", "without_dropout"]
