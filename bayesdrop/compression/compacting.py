"""One function for the ways to a smaller network."""

from __future__ import annotations

from typing import Any, Literal, overload

from torch import nn

from bayesdrop.compression.compaction import mean_compacted
from bayesdrop.compression.example import Example, at_least_two, example_of
from bayesdrop.compression.members import members_compacted
from bayesdrop.compression.posterior import random_compacted
from bayesdrop.errors import ConfigError
from bayesdrop.networks.sources import releases_sources
from bayesdrop.nn.arguments import is_whole
from bayesdrop.program.network import BayesianNetwork


@overload
def compact(
    network: BayesianNetwork,
    example_input: Example | None = None,
    *,
    keep_posterior: Literal[True],
    multiple_of: int = 1,
    check: bool = True,
) -> BayesianNetwork: ...
@overload
def compact(
    network: nn.Module,
    example_input: Example | None = None,
    *,
    per_input: bool = False,
    keep_posterior: bool = False,
    multiple_of: int = 1,
    members: int | None = None,
    seed: int | None = None,
    check: bool = True,
) -> nn.Module: ...
@releases_sources
def compact(
    network: nn.Module,
    example_input: Example | None = None,
    *,
    per_input: bool = False,
    keep_posterior: bool = False,
    multiple_of: int = 1,
    members: int | None = None,
    seed: int | None = None,
    check: bool = True,
) -> Any:
    r"""Return a plain, smaller network whose outputs are those of the mean-masked one.

    The mean mask's zeros are followed through the network: a unit goes when nothing downstream
    depends on it, or when it is a constant whose effect fits into the next layer's bias. A mask
    that comes before a BatchNorm leaves such a constant, so that case is exact too. Rows and
    columns of Linear, convolution (plain and depthwise) and BatchNorm layers are cut; where the
    units come from the network's input, or a sum has more of them than a branch, they are indexed.
    The mask's other factors are multiplied into the neighbouring weights, or kept as a buffer
    where that is not exact. Anything unknown (layers called twice, ...) keeps all its units.

    Heads and hidden units of transformers go where they are: the rows of queries, keys and values,
    and the columns of the layer behind. Grouped heads go with their group, and one by one as far
    as all groups keep as many. Ranks of ``peft``'s adapters go with their rows and columns, as in
    ``cut_lora_ranks``. A network that torch.fx cannot trace is compacted by parts and
    stays what it is, a module of its class; ``compaction_report`` says what went and what did not.

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

    With ``keep_posterior`` the masks of the other units stay random: the result is a smaller
    network of the same kind, whose layers have the prior and the posterior of those units alone.
    Under any masks it computes what the full network computes under the same ones and zeros for
    the pruned units; ``predict``, ``fit`` and ``kl_divergence`` go on with it. The dropped units'
    divergences are gone from the last. Layers with random weights stay whole.

    With ``members`` the result is that many draws from the posterior, masks and random weights, in
    one network: its output is ``(K, N, ...)``, the outputs of each. Every draw is compacted by
    itself, exactly; then layers run together: as one matrix product where inputs are shared, as a
    batch of products or a convolution in groups behind that. (Where the networks have something
    that does not run so, they run one after the other.) It is a plain network: in one file it
    takes its uncertainty along, and ``bd.compression.Members`` evaluates it. Probabilities are
    averaged over members, never logits: ``small(x).softmax(-1).mean(0)`` is
    ``bd.predict(bnn, x, num_samples=K, seed=seed).mean``.

    Args:
        network: A ``BayesianNetwork`` or any module with Bayesian dropout layers in it; it is not
            changed. Without any such layer the result is the traced network.
        example_input: A batch to trace shapes with (or a tuple, for several inputs). None makes
            one of the shape that a ``BayesianNetwork`` last saw.
        per_input: Whether to compute with no other units than those that each input keeps, where
            masks depend on it. Fewer FLOPs; whether it is faster depends on the layers' sizes:
            measure it. The sizes of its tensors depend on the data.
        keep_posterior: Whether to keep the posterior of what is left. Exact in evaluation mode; a
            batch norm in training mode no longer sees the units that are gone, and ``nn.Dropout``
            goes. Masks of units that cannot be taken apart (sticks, an order) must prune none.
        multiple_of: The number of units that a mask leaves is rounded up to a multiple of this,
            such as 8 for hardware, if there are as many. The most probable of the pruned units
            stay: multiplied by 0, so that outputs are the same, or with ``keep_posterior`` with
            their masks. Not where a mask depends on the input and is folded in, and not for
            ranks of adapters.
        members: Number :math:`K` of draws from the posterior; None takes the mean masks.
        seed: Makes them reproducible, those of ``bd.predict`` with this seed; None draws from the
            global generator.
        check: Whether to compare outputs on the example, to 1e-5 of their size in float32.

    Returns:
        A ``torch.fx.GraphModule`` in evaluation mode made of ``torch.nn`` layers under their old
        names. It holds nothing of bayesdrop: it can be pickled, exported and run without. (Of an
        ``nn.MultiheadAttention`` that has lost heads, torch has no class: it is a
        ``bd.nn.MultiheadAttention``, plain torch once exported.) By parts, a module of the class
        of the network. With
        ``keep_posterior`` a ``BayesianNetwork``, if that was given, or else a ``GraphModule`` with
        dropout layers, in the mode of what was given.

    Raises:
        CompactionError: If a mask of an unknown kind, or in a block of a transformer, depends on
            the input, if pruned units cannot be taken out of a posterior, or if the check fails.
        ConfigError: If there is no example input and the network has not seen any, or if options
            make no sense.
        DataError: If the example input has no example, or another dtype than the network.
        ShapeError: If the network does not take its shape.

    Example:
        >>> import torch, bayesdrop as bd
        >>> net = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 3))
        >>> net[0].set_posterior(torch.tensor([1e-4, 1e-4, 5.0, 5.0]))
        >>> compact(net, torch.ones(1, 4)).get_submodule("1")
        Linear(in_features=2, out_features=3, bias=True)
    """
    if not is_whole(multiple_of) or multiple_of < 1:
        raise ConfigError(
            "compact",
            expected="a whole multiple_of >= 1",
            got=f"multiple_of={multiple_of!r}",
            hint="8 suits most hardware; 1 keeps no unit that is pruned.",
        )
    if members is not None and (not is_whole(members) or isinstance(members, bool) or members < 1):
        raise ConfigError(
            "compact",
            expected="at least one member",
            got=f"members={members!r}",
            hint="8 to 16 tell much of the uncertainty; None takes the mean masks.",
        )
    given = {"per_input": per_input, "keep_posterior": keep_posterior, "members": members}
    chosen = [f"{name}={value}" for name, value in given.items() if value]
    if len(chosen) > 1:
        raise ConfigError(
            "compact",
            expected="one of per_input, keep_posterior and members",
            got=", ".join(chosen),
            hint="keep_posterior leaves masks random, members draws them, per_input gathers the "
            "units of each input.",
        )
    example = at_least_two(network, example_of("compact", network, example_input))
    if members is not None:
        return members_compacted(
            network,
            example,
            members=members,
            seed=seed,
            multiple_of=multiple_of,
            check=check,
        )
    if keep_posterior:
        return random_compacted(network, example, multiple_of=multiple_of, check=check)
    return mean_compacted(
        network, example, per_input=per_input, multiple_of=multiple_of, check=check
    )
