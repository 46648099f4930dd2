"""Put Bayesian dropout layers into an existing network, and take them out again."""

from __future__ import annotations

import copy
import dataclasses
import sys
import warnings
from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from bayesdrop.conversion.accepted import copied
from bayesdrop.conversion.evidence import looks_trained
from bayesdrop.conversion.in_place import InPlace, share, unplaced
from bayesdrop.conversion.inside import mask_inside
from bayesdrop.conversion.leftovers import Leftovers
from bayesdrop.conversion.modes import graph_of_both_modes
from bayesdrop.conversion.parts import by_parts, nothing_to_do
from bayesdrop.conversion.plan import Plan
from bayesdrop.conversion.repeated import join_repeated_calls
from bayesdrop.conversion.report import ConversionReport, Left, Placed, earlier_report
from bayesdrop.conversion.request import CLOSED, Position, Request
from bayesdrop.conversion.selection import Selection, plain_of
from bayesdrop.errors import ConversionError, ConversionWarning, unknown_name
from bayesdrop.networks.blocks import blocks_of
from bayesdrop.networks.sources import releases_sources
from bayesdrop.networks.traced_network import TracedNetwork
from bayesdrop.networks.tracing import leaf_modules
from bayesdrop.nn import (
    BayesianDropout,
    BayesianWeights,
    InnerMasks,
    registered,
    with_plain_weights,
)
from bayesdrop.program.checks import require_module
from bayesdrop.program.program import Program


@releases_sources
def convert(  # noqa: PLR0913 - each says one thing of what goes where
    network: nn.Module,
    dropout: str = "beta-bernoulli",
    *,
    linear: bool = True,
    conv: bool = True,
    recurrent: bool | None = None,
    embedding: bool = False,
    replace_dropout: bool = True,
    input_dropout: bool = True,
    output_dropout: bool = False,
    select: Selection | None = None,
    exclude: Selection | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    weights: str | Mapping[str, Any] | None = None,
    position: Position = "after-activation",
    trained: bool | None = None,
    show_report: bool = False,
    **options: Any,
) -> nn.Module:
    r"""Return a copy of ``network`` with Bayesian dropout layers put in.

    * ``nn.Linear``: a layer on its inputs, called ``{name}_dropout``. An ``nn.Dropout`` directly
      before it is replaced.
    * ``nn.Conv1d/2d/3d``, plain or transposed: a layer on its output channels,
      ``{name}_dropout``, after the BatchNorm and the activation that follow the convolution. In a
      residual block, where the last convolution's activation comes after the sum, the layer is
      before the sum: it gates the block's contribution and never the identity. A dropped channel
      is then exactly zero, and ``compact`` removes it from the convolution and its BatchNorm,
      whether or not the sum has that channel.
    * ``nn.LSTM`` and ``nn.GRU``: they become ``bd.nn.DropoutLSTM`` and ``DropoutGRU`` with one
      mask a sequence on the inputs of every layer and on every state, the same at all time
      steps. An ``nn.Dropout`` directly before one is replaced, and so is the noise between its
      layers; the outputs' mask is that of the Linear behind them. With ``embedding=True`` an
      ``nn.Embedding`` becomes a ``bd.nn.DropoutEmbedding``, which drops words.
    * Priors with an order (Indian buffet) give their first stick to the unit with the largest
      weights.
    * Any other ``nn.Dropout``: replaced by a layer of its name where its width can be told from
      the layers around it (one mask per channel on convolution maps), left alone where not, and
      removed where a new layer already masks the same units.
    * Priors whose rate is an ``nn.Dropout``'s (``"mc-dropout"``, ``"gaussian"``, and as initial
      rate ``"concrete"``) take it from the module they replace, unless it is among ``options``;
      none is then removed. With ``linear=False, conv=False`` only these are put in: a trained
      network with ``nn.Dropout`` becomes the same network with Monte Carlo dropout.

    What the network returns is left alone: a convolution with no weights between it and the end
    gets no layer (``output_dropout``). Where ``forward`` looks at ``self.training``, the result
    does in each mode what the network did. A subclass of a Linear or a convolution that computes
    what its base does becomes that base, the Conv1D of GPT-2 a Linear, and the old weight and
    spectral norms those of ``torch.nn.utils.parametrizations``; a layer that is called twice on
    one value is called once. A layer that is the whole network becomes ``"0"`` of a Sequential.

    Attention gets a mask on its heads, and the pair of layers behind it on its hidden units, where
    torch.fx sees one operation: in ``nn.MultiheadAttention``, ``nn.TransformerEncoder`` and
    ``nn.TransformerDecoder`` and their layers, and in modules with a number of heads and layers
    called like those of timm or Hugging Face. The mask is a child, ``mask``, of the layer that
    heads or hidden units feed; the layers they come from have none. A network that torch.fx cannot
    trace is converted by parts, in its own classes: such blocks, the inputs of all other Linears
    (called or not: nobody knows), and each ``nn.Dropout`` whose width its module tells.

    With ``position="before-activation"`` each Linear and convolution gets its layer on its own
    outputs instead, after the BatchNorm and before the activation, so that a dropped unit is the
    constant :math:`\phi(0)`. ``compact`` removes it, and adds what the constant contributes to
    the next layer's bias; a convolution that pads with zeros, of which a border differs from
    :math:`\phi(0) \ne 0` (sigmoid), keeps an input for it instead.

    A key of random weights, such as ``"sparse-variational"``, replaces Linear
    and convolution layers by layers with random weights, whose means are the network's; an
    ``nn.Dropout`` directly before one is removed. Both kinds can be put in, weights first: by two
    calls, or by ``weights``, which leaves each ``nn.Dropout`` to the masks. Spike-and-slab dropout
    is ``convert(net, "mc-dropout", weights="gaussian-dropconnect")``.

    Args:
        network: Any module.
        dropout: A key of ``bd.nn.layers``, of a mask or of random weights.
        linear: Whether Linear layers get one.
        conv: Whether convolutions get one.
        recurrent: Whether LSTM and GRU get masks inside, on inputs and states; None is what
            ``linear`` is. False only replaces the noise between their layers.
        embedding: Whether embeddings get a mask of their words. A prior that learns its rates
            prunes words that are rare.
        replace_dropout: Whether ``nn.Dropout`` modules (and ``F.dropout(..., self.training)``)
            are replaced.
        input_dropout: Whether a Linear that sees the network's own input gets one, which prunes
            input features such as pixels.
        output_dropout: Whether a convolution whose channels are the network's own output gets one,
            as in a feature extractor without a head; so does, with priors that prune, an
            ``nn.Dropout`` there. (A Linear has its layer on its inputs.)
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
        trained: Whether the weights are trained, so that masks start nearly open: with a keep
            probability of :math:`1 - 0.05 / L` in each of :math:`L` layers, or as near to it as
            the prior can, so that the network still does what it has learned. Noise of a fixed
            rate (``"mc-dropout"``, ``"gaussian"``, dropconnect) is then put only where the network
            has ``nn.Dropout``, unless ``drop_prob`` is given. None looks at biases and norms,
            see ``bayesdrop.conversion.evidence``; False starts as the layer's class says, True for
            a trained network of neither. Options that are given come first.
        show_report: Whether to print what got a layer, what did not and why; this is also
            ``bd.conversion.conversion_report(network)``.
        **options: Passed to the class of dropout or of random weights, such as ``kl_scale`` or,
            for sequences first (T, N, K), ``batch_dim=1``.

    Returns:
        A ``torch.fx.GraphModule`` with the same parameter names, weights and training mode.
        Python methods and modules that ``forward`` does not use are not carried over. By parts, a
        module of the same class, with everything.

    Raises:
        ConversionError: If the network cannot be copied, cannot be traced and has nothing that
            takes a mask by itself, calls a selected layer on two values, or if nothing was
            selected.
        ConfigError: If it is no network as Python runs it, a pattern matches no layer, an option
            or the dropout is unknown, ``weights`` names no random weights, or the position is
            unknown or that of weights.

    Warns:
        ConversionWarning: Of what was left though the call asked for it: other layers with
            weights, such as ``nn.RNN`` or ``nn.Embedding``, and
            dropout inside a layer, always on, or of a width that cannot be told. To ``exclude``
            them is to say that this is meant.

    Example:
        >>> import bayesdrop as bd
        >>> net = convert(bd.networks.lenet_500_300(), kl_scale=2.0)
        >>> [name for name, _ in net.named_children() if name.endswith("dropout")]
        ['fc1_dropout', 'fc2_dropout', 'fc3_dropout']
    """
    request = Request(
        dropout=dropout,
        linear=linear,
        conv=conv,
        recurrent=recurrent,
        embedding=embedding,
        replace_dropout=replace_dropout,
        input_dropout=input_dropout,
        output_dropout=output_dropout,
        select=select,
        exclude=exclude,
        overrides=overrides or {},
        position=position,
        trained=trained,
        options=options,
    )
    earlier = None if weights is None else _carry_out(network, _random_weights(weights))
    result, report = _carry_out(network if earlier is None else earlier[0], request)
    if earlier is not None:
        told = {part.name for part in report.left}
        more = tuple(part for part in earlier[1].unexpected if part.name not in told)
        report = dataclasses.replace(
            report, placed=earlier[1].placed + report.placed, left=report.left + more
        )
    for module in result.modules():
        if isinstance(module, BayesianDropout | BayesianWeights):
            module.conversion = report
    if show_report:
        sys.stdout.write(f"{report}\n")
    if report.unexpected:
        warnings.warn(_warning(report), ConversionWarning, stacklevel=3)
    return result


def _carry_out(network: nn.Module, request: Request) -> tuple[nn.Module, ConversionReport]:
    """Return the converted copy of a network, and what was done to it."""
    work = copied(network)
    trained = looks_trained(network) if request.trained is None else request.trained
    modes = {name: module.training for name, module in work.named_modules()}
    no_graph = ""
    try:
        graph = graph_of_both_modes(work, keep_attention=request.gates_heads)
    except ConversionError as refusal:
        result, placed, left = by_parts(copied(network), request, trained, refusal)
        no_graph = str(refusal)
    else:
        result, placed, left = _by_graph(work, graph, request, trained)
        for name, module in result.named_modules():
            module.training = modes.get(name, modes[""])
    before = earlier_report(network)
    names = {name for name, _ in result.named_modules()}
    former = () if before is None else tuple(p for p in before.placed if p.name in names)
    title = type(network).__name__
    return result, ConversionReport(title, former + placed, left, trained, no_graph)


def _by_graph(
    work: nn.Module, graph: fx.Graph, request: Request, trained: bool
) -> tuple[nn.Module, tuple[Placed, ...], tuple[Left, ...]]:
    """Put layers into the graph of a network, and into the blocks that it calls."""
    join_repeated_calls(work, graph)
    plan = Plan(root=work, graph=graph, modules=leaf_modules(work, graph), request=request)
    calls = [(node, module) for node in graph.nodes if (module := plan.module(node))]
    blocks = [
        block
        for block in blocks_of(work)
        if any(block.output.startswith(f"{name}.") for name in plan.modules)
    ]
    plan.names |= {name for block in blocks for name in block.layers}
    plan.check_patterns()
    kinds = (*request.kinds, *request.inside)
    chosen = [(n, m) for n, m in calls if isinstance(plain_of(m), kinds)]
    if trained:
        plan.keep_prob = 1 - CLOSED / max(1, len(chosen) + len(blocks))
    place = InPlace(work, request, plan.keep_prob)
    for node, module in chosen:
        if isinstance(module, request.inside):
            mask_inside(plan, node, module)
        else:
            plan.put_in(node, module)
    for block in blocks:
        place.gate(block)
    plan.erase_idle_dropout()
    if request.replace_dropout and not request.random_weights:
        plan.replace_all_dropout()
        for name in plan.modules:
            place.replace_dropouts(name)
    plan.erase_idle_dropout()
    place.finish()
    left = tuple(Leftovers(plan, place).find())
    if not plan.inserted and not place.placed:
        raise nothing_to_do(plan.modules, left)
    order: list[str] = []
    for node in graph.nodes:
        name = str(node.target)
        new = (*plan.inserted, *place.placed)
        order += [own for own in new if own == name or own.startswith(f"{name}.")]
    share(work, request, order)
    result = TracedNetwork(work, graph, type(work).__name__)
    return result, (*plan.inserted.values(), *place.placed.values()), left


def _warning(report: ConversionReport) -> str:
    parts = report.unexpected
    shown = "; ".join(_told(part) for part in parts[:8])
    more = f"; and {len(parts) - 8} more" if len(parts) > 8 else ""
    names = ", ".join(repr(part.name) for part in parts[:3])
    reason = f" There is no graph of it: {report.no_graph}" if report.no_graph else ""
    return (
        f"convert: expected to put {report.placed[-1].key!r} into the whole network, got parts "
        f"that stay as they are: {shown}{more}. Put layers there by hand, or pass exclude="
        f"[{names}{', ...' if len(parts) > 3 else ''}] if that is meant; "
        f"bd.conversion.conversion_report(network) lists everything.{reason}"
    )


def _told(part: Left) -> str:
    own = f", dropout {part.drop_prob:g} that prediction does not sample" if part.drop_prob else ""
    size = f", {part.num_parameters} parameters" if part.num_parameters else ""
    return f"{part.name!r} ({part.kind}{size}{own}): {part.why}"


def without_dropout(network: nn.Module) -> nn.Module:
    """Return a copy of ``network`` in which every Bayesian dropout layer is ``nn.Identity``.

    Layers with masks inside, such as ``bd.nn.DropoutLSTM``, become those of ``torch.nn``.

    Layers with random weights become ``torch.nn`` layers with the mean weights, none pruned.

    Args:
        network: Any module, or a ``BayesianNetwork``, whose ``network`` is then meant.

    Example:
        >>> import bayesdrop as bd
        >>> net = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 3))
        >>> without_dropout(net)[0]
        Identity()
    """
    require_module("without_dropout", network)
    result = copy.deepcopy(network.network if isinstance(network, Program) else network)
    result = with_plain_weights(result, prune=False)
    unplaced(result)
    if isinstance(result, InnerMasks):
        return result.to_plain()
    if isinstance(result, BayesianDropout):
        return nn.Identity().train(result.training)
    for parent in list(result.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, InnerMasks):
                setattr(parent, name, child.to_plain())
            elif isinstance(child, BayesianDropout):
                setattr(parent, name, nn.Identity().train(child.training))
    return result


def _random_weights(weights: str | Mapping[str, Any]) -> Request:
    arguments = {"dropout": weights} if isinstance(weights, str) else dict(weights)
    name = arguments.get("dropout")
    if name not in registered(BayesianWeights):
        raise unknown_name("random weights", str(name), registered(BayesianWeights))
    return Request.of({"replace_dropout": False, **arguments})


__all__ = ["Selection", "convert", "without_dropout"]
