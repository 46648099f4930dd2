"""A smaller plain network with the outputs of the mean-masked one.

Own analysis on the torch.fx graph, since torch-pruning cannot remove network inputs (such as
pixels), and prunes coupled layers together without asking whether the result is exact.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from bayesdrop.compression.chooser import Chooser
from bayesdrop.compression.example import Example, example_of
from bayesdrop.compression.flow import Flow
from bayesdrop.compression.folding import fold
from bayesdrop.compression.gate import Gate
from bayesdrop.compression.graph import traced
from bayesdrop.compression.rules import Mask
from bayesdrop.errors import CompactionError
from bayesdrop.networks.computed_weights import bake, copy_of
from bayesdrop.networks.sources import releases_sources
from bayesdrop.nn import named_dropout_layers, with_plain_weights
from bayesdrop.program.checks import explained
from bayesdrop.program.program import Program

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@releases_sources
def compact(
    network: nn.Module,
    example_input: Example | None = None,
    *,
    per_input: bool = False,
    check: bool = True,
) -> fx.GraphModule:
    r"""Return a plain, smaller network whose outputs are those of the mean-masked one.

    The mean mask's zeros are followed through the network: a unit goes when nothing downstream
    depends on it, or when it is a constant whose effect fits into the next layer's bias. A mask
    that comes before a BatchNorm leaves such a constant, so that case is exact too. Rows and
    columns of Linear, convolution (plain and depthwise) and BatchNorm layers are cut; where the
    units come from the network's input, or a sum has more of them than a branch, they are indexed.
    The mask's other factors are multiplied into the neighbouring weights, or kept as a buffer
    where that is not exact. Anything unknown (attention, grouped convolutions, layers called
    twice, ...) keeps all its units.

    Where a mask depends on the input (and its layer has a ``mean_gate``), the units that are
    pruned for every input go; the mask of the others is computed as before, in plain operations.
    With ``per_input`` the next layer then also leaves out the units that are pruned for the input
    at hand: it gathers the others and their weights. That is made for a batch of one. A larger
    batch is right too, with the units that any of its examples keeps. An entry of the mask
    within rounding of the threshold can fall on its other side, which changes it by the threshold.

    Layers with random weights become plain ones with the mean weights and zeros where these are
    pruned; units that no other weight uses, or that use none, go.
    ``save_plain(format="sparse")`` stores the rest.

    If every unit of a layer is pruned, the layer keeps one unit and the network is constant from
    there on, as the mean-masked one is.

    Args:
        network: A ``BayesianNetwork`` or any module with Bayesian dropout layers in it; it is not
            changed. Without any such layer the result is the traced network.
        example_input: A batch to trace shapes with (or a tuple, for several inputs). None makes
            one of the shape that a ``BayesianNetwork`` last saw.
        per_input: Whether to compute with no other units than those that each input keeps, where
            masks depend on it. Fewer FLOPs; whether it is faster depends on the layers' sizes:
            measure it. The sizes of its tensors depend on the data.
        check: Whether to compare outputs on the example, to 1e-5 of their size in float32.

    Returns:
        A ``torch.fx.GraphModule`` in evaluation mode made of ``torch.nn`` layers under their old
        names. It holds nothing of bayesdrop: it can be pickled, exported and run without.

    Raises:
        CompactionError: If the network cannot be traced, if a mask of an unknown kind depends on
            the input, or if the check fails.
        ConfigError: If there is no example input and the network has not seen any.
        DataError: If the example input has no example, or another dtype than the network.
        ShapeError: If the network does not take its shape.

    Example:
        >>> import bayesdrop as bd
        >>> net = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 3))
        >>> net[0].set_posterior(torch.tensor([1e-4, 1e-4, 5.0, 5.0]))
        >>> compact(net, torch.ones(1, 4)).get_submodule("1")
        Linear(in_features=2, out_features=3, bias=True)
    """
    example = example_of("compact", network, example_input)
    with torch.no_grad():
        work = detached(network)
        with explained("compact", work, example[0]):
            expected = work(*example) if check else None
        flow = analysed(work, example)
        result = emitted(flow, per_input=per_input)
        if check:
            _verify(expected, result(*example))
    return result


def detached(network: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode with plain weights, if its masks are of known kinds.

    Args:
        network: As for ``compact``.

    Raises:
        CompactionError: If a mask of an unknown kind depends on the input, or if examples have
            latents of their own.
    """
    if isinstance(network, Program) and network.has_local_latents:
        raise CompactionError(
            "compact",
            expected="a network whose masks are drawn for all examples",
            got=f"a {type(network).__name__}, each example of which keeps features of its own",
            hint="Features that keep_prob() says no example uses go with a smaller latent_size.",
        )
    work = copy_of(network.network if isinstance(network, Program) else network)
    _refuse_input_dependent(work)
    return with_plain_weights(work).eval()


def analysed(network: nn.Module, example: tuple[Tensor, ...]) -> Flow:
    """Return what is known about every tensor of a network and what is needed of it.

    Args:
        network: What ``detached`` returned; it may be changed.
        example: Its inputs.

    Raises:
        CompactionError: If the network cannot be traced.
    """
    bake(network)
    flow = Flow(traced(network, example), example[0].device)
    choose = Chooser(flow)
    nodes = list(flow.source.graph.nodes)
    for node in nodes:
        rule = flow.rules[node] = choose(node)
        flow.constant[node] = rule.constant()
        flow.needed[node] = torch.zeros(rule.size, dtype=torch.bool)
    for node in reversed(nodes):
        needed = flow.needed[node]
        if len(needed) and not needed.any():
            needed[0] = True  # Layers without units are legal in torch but not elsewhere.
        flow.rules[node].request(needed)
    return flow


def emitted(flow: Flow, *, per_input: bool = False) -> fx.GraphModule:
    """Return the compact network of an analysis, once.

    Args:
        flow: What ``analysed`` returned.
        per_input: As for ``compact``.
    """
    for rule in list(flow.rules.values()):
        if isinstance(rule, Mask):
            fold(flow, rule)
        elif isinstance(rule, Gate):
            rule.selects = per_input and rule.gatherable
    for node in flow.source.graph.nodes:
        flow.made[node], flow.kept[node] = flow.rules[node].emit()
    for node in reversed(flow.graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            flow.graph.erase_node(node)  # the whole of what is used in pieces, or cut
    result = fx.GraphModule(flow.parts, flow.graph, type(flow.source).__name__)
    return result.eval()


def _refuse_input_dependent(network: nn.Module) -> None:
    for name, layer in named_dropout_layers(network):
        if layer.input_dependent and layer.mean_gate() is None:
            raise CompactionError(
                "compact",
                expected="masks that are the same for every input, or that have a mean_gate()",
                got=f"{type(layer).__name__} {name!r}, whose mask depends on its input",
                hint="Take it out first, or replace it by a layer with a fixed mask.",
            )


def _verify(expected: Any, got: Any) -> None:
    for a, b in zip(tree_leaves(expected), tree_leaves(got), strict=True):
        if not isinstance(a, Tensor) or not a.is_floating_point():
            continue
        size = max(1.0, float(a.abs().max()) if a.numel() else 0.0)
        error = float((a - b).abs().max()) if a.numel() else 0.0
        if a.shape != b.shape or not error <= _TOLERANCE[a.dtype] * size:
            raise CompactionError(
                "compact",
                expected=f"outputs within {_TOLERANCE[a.dtype] * size:.1e} of the mean-masked "
                "network's on the example input",
                got=f"a difference of {error:.1e}",
                hint="Does the network draw random numbers in evaluation mode, hold numbers "
                "that are not finite, or change a tensor in place? Report it otherwise.",
            )
