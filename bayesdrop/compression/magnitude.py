"""Pruning by magnitude after training: what is left of a network without its small weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import nn
from typing_extensions import override

from bayesdrop.compression.compacting import compact
from bayesdrop.compression.cost import count_params
from bayesdrop.compression.example import Example, example_of
from bayesdrop.conversion import convert
from bayesdrop.diagnostics.evaluator import evaluate
from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.inference.arrays import arrays_of
from bayesdrop.inference.batches import Data, batches
from bayesdrop.metrics.options import as_several
from bayesdrop.nn import (
    InnerMasks,
    LoRALinear,
    MaskedRanks,
    named_dropout_layers,
    with_plain_weights,
)
from bayesdrop.nn.arguments import is_real
from bayesdrop.program.checks import check_classifier
from bayesdrop.program.network import BayesianNetwork
from bayesdrop.program.program import Program
from bayesdrop.record import TableRecord

Part: TypeAlias = Literal["unit", "weight"]
"""What is pruned: whole units, by the norm of their weights, or single weights."""

_SHARES = tuple(tenths / 10 for tenths in range(10))
_ALL = 1 << 40  # rounds any number of units up to all of them


def prune_by_magnitude(
    network: nn.Module,
    share: float,
    *,
    by: Part = "unit",
    example_input: Example | None = None,
    **where: Any,
) -> nn.Module:
    """Return a plain network without its smallest units, or with its smallest weights at zero.

    Pruned is what targeted dropout of rate 1 drops: with ``"unit"``, of each place where
    ``convert`` would put a mask, the share of its units with the smallest norms; with
    ``"weight"``, of each output unit of a Linear layer or convolution, the share of its weights
    that are smallest. Nothing is trained afterwards. Any network will do: mean masks are
    multiplied into the weights first, and random weights are their means, so that what a posterior
    has pruned is the smallest.

    Args:
        network: A ``BayesianNetwork`` or any module; it is not changed.
        share: The share of the units, or of the weights, in [0, 1], rounded down.
        by: ``"unit"`` or ``"weight"``.
        example_input: A batch to trace shapes with, as for ``compact``.
        **where: What of ``convert`` says where: ``exclude``, ``select``, ``linear``, ``conv``,
            ``input_dropout`` (False here, which leaves the network's inputs alone).

    Returns:
        With ``"unit"`` what ``compact`` makes of it, with ``"weight"`` the network with zeros; in
        evaluation mode.

    Raises:
        ConfigError: If an argument makes no sense.
        ConversionError: If there is nothing to prune.
        CompactionError: If the network cannot be compacted.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3))
        >>> prune_by_magnitude(net, 0.7, example_input=torch.ones(1, 4)).get_submodule("2")
        Linear(in_features=3, out_features=3, bias=True)
    """
    _check("prune_by_magnitude", [share], by)
    example = example_of("prune_by_magnitude", network, example_input)
    return _pruned(_whole(network, example), share, by, example, where)


@torch.no_grad()
def _whole(network: nn.Module, example: tuple[torch.Tensor, ...]) -> nn.Module:
    """Return a plain network of full width, with mean masks multiplied into the weights."""
    module = network.network if isinstance(network, Program) else network
    plain = with_plain_weights(copy.deepcopy(module)).eval()
    for name, mask in list(named_dropout_layers(plain)):
        layer, dim = mask.bound or (None, 0)
        parent = plain.get_submodule(name.rpartition(".")[0])
        is_inside = isinstance(parent, InnerMasks | LoRALinear | MaskedRanks)
        is_alone = bool(name) and not is_inside and not mask.input_dependent
        if is_alone and isinstance(layer, nn.Linear) and dim == 1:
            # Not left to compact, which takes out columns that are zero.
            layer.weight.mul_(mask.mean_mask())
            plain.set_submodule(name, nn.Identity())
    if any(True for _ in named_dropout_layers(plain)):
        return compact(plain, example, multiple_of=_ALL)
    return plain


@torch.no_grad()
def _pruned(
    plain: nn.Module, share: float, by: Part, example: tuple[torch.Tensor, ...], where: Any
) -> nn.Module:
    options = {"drop_prob": 1.0, "targeted_share": float(share), "replace_dropout": False, **where}
    if by == "weight":
        return with_plain_weights(convert(plain, "targeted-dropconnect", **options).eval())
    masked = convert(plain, "targeted", **{"input_dropout": False, **options}).eval()
    return compact(masked, example)


@dataclass(frozen=True)
class MagnitudeRow:
    """A network without the smallest share.

    Args:
        share: Of the units of each place, or of the weights of each output unit.
        params: Parameters that are not zero.
        error: Share of wrong classes on the data, in percent.
        nll: Negative log-likelihood, nats per example.
        ece: Expected calibration error with 15 bins.
    """

    share: float
    params: int
    error: float
    nll: float
    ece: float


@dataclass(frozen=True)
class MagnitudeSweep(TableRecord):
    """What ``sweep_magnitudes`` returns.

    Args:
        rows: One for each share, in ascending order.
        by: What was pruned.
        params_total: Parameters of the whole network.
    """

    rows: tuple[MagnitudeRow, ...]
    by: Part
    params_total: int

    @override
    def table(self) -> tuple[list[str], list[list[str]]]:
        cells = [
            [
                f"{100 * row.share:.0f} %",
                f"{row.params:,d} of {self.params_total:,d}",
                f"{row.error:.2f}",
                f"{row.nll:.4f}",
                f"{row.ece:.4f}",
            ]
            for row in self.rows
        ]
        return [f"{self.by}s pruned", "parameters", "error %", "NLL", "ECE"], cells


@torch.no_grad()
def sweep_magnitudes(
    bnn: BayesianNetwork,
    validation_data: Data,
    shares: Sequence[float] = _SHARES,
    *,
    by: Part = "unit",
    batch_size: int | None = None,
    **where: Any,
) -> MagnitudeSweep:
    """Return how good a classifier is without its smallest units or weights, and no training.

    It asks how much of what a network knows is in its small parts: targeted dropout is trained so
    that little is. See ``prune_by_magnitude`` for what is pruned.

    Args:
        bnn: A classifier, of any kind: plain, with masks, with random weights; not changed.
        validation_data: ``(x, y)``, a Dataset or a DataLoader. Never the test set, if a share is
            to be chosen by it.
        shares: Values in [0, 1]; the default is 0, 0.1, ... 0.9.
        by: ``"unit"`` or ``"weight"``.
        batch_size: As in ``predict``.
        **where: As for ``prune_by_magnitude``.

    Raises:
        ConfigError: If an argument makes no sense, or the network is no classifier.
        DataError: If the data is empty or has no targets.

    Example:
        >>> import bayesdrop as bd
        >>> net = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3))
        >>> bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=100)
        >>> data = torch.rand(6, 4), torch.zeros(6).long()
        >>> [row.params for row in sweep_magnitudes(bnn, data, [0.0, 0.5, 0.8]).rows]
        [83, 43, 19]
    """
    check_classifier("sweep_magnitudes", bnn)
    values = as_several("sweep_magnitudes", "shares", shares, "[0.0, 0.5, 0.9]")
    _check("sweep_magnitudes", values, by)
    values = sorted({float(share) for share in values})
    validation_data = arrays_of("sweep_magnitudes", bnn, validation_data)
    x, _ = next(iter(batches(validation_data, 2)))
    example = example_of("sweep_magnitudes", bnn, x.to(next(bnn.parameters()).device))
    plain, rows = _whole(bnn, example), []
    for share in values:
        pruned = _pruned(plain, share, by, example, where)
        program = BayesianNetwork(pruned, copy.deepcopy(bnn.likelihood), bnn.num_data).eval()
        result = evaluate(program, validation_data, sample=False, batch_size=batch_size)
        nonzero = sum(int(parameter.count_nonzero()) for parameter in pruned.parameters())
        rows.append(MagnitudeRow(share, nonzero, result.error, result.nll, result.ece))
    return MagnitudeSweep(tuple(rows), by, count_params(plain))


def _check(who: str, shares: Sequence[float], by: str) -> None:
    if by not in get_args(Part):
        raise unknown_name(f"part of a network that {who} prunes", by, get_args(Part))
    if not all(is_real(share) and 0.0 <= share <= 1.0 for share in shares):
        raise ConfigError(
            who,
            expected="shares in [0, 1]",
            got=repr(list(shares)),
            hint="0.5 prunes one half.",
        )
