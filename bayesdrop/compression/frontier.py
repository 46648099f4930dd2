"""Accuracy, calibration and FLOPs as the pruning threshold moves."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from bayesdrop.compression.counter import CostCounter
from bayesdrop.diagnostics import evaluate
from bayesdrop.errors import ConfigError
from bayesdrop.inference.arrays import arrays_of
from bayesdrop.inference.batches import Data, batches
from bayesdrop.metrics.options import as_several
from bayesdrop.nn.arguments import is_real
from bayesdrop.program.inputs import positional_inputs
from bayesdrop.program.network import BayesianNetwork
from bayesdrop.program.program import Program
from bayesdrop.record import TableRecord

_STEPS = 16


@dataclass(frozen=True)
class FrontierRow:
    """The mean-masked network at one threshold.

    Args:
        threshold: Units with a keep probability below it are pruned.
        units: Units kept in each dropout layer.
        params: Parameters of the compact network.
        flops: FLOPs per example of the compact network.
        error: Share of wrong classes on the data, in percent.
        nll: Negative log-likelihood, nats per example.
        ece: Expected calibration error with 15 bins.
    """

    threshold: float
    units: tuple[int, ...]
    params: int
    flops: int
    error: float
    nll: float
    ece: float


@dataclass(frozen=True)
class Frontier(TableRecord):
    """What ``sweep_thresholds`` returns.

    Args:
        rows: One for each threshold, in ascending order.
        flops_total: FLOPs per example of the plain network.
        params_total: Its parameters.
        units_total: Units of each dropout layer.
    """

    rows: tuple[FrontierRow, ...]
    flops_total: int
    params_total: int
    units_total: tuple[int, ...]

    @override
    def table(self) -> tuple[list[str], list[list[str]]]:
        cells = [
            [
                f"{row.threshold:.3g}",
                "-".join(map(str, row.units)),
                f"{row.params:,d}",
                f"{row.flops:,d} ({self.flops_total / max(1, row.flops):.1f}x)",
                f"{row.error:.2f}",
                f"{row.nll:.4f}",
                f"{row.ece:.4f}",
            ]
            for row in self.rows
        ]
        return ["threshold", "units", "parameters", "FLOPs", "error %", "NLL", "ECE"], cells


@torch.no_grad()
def sweep_thresholds(
    bnn: BayesianNetwork,
    validation_data: Data,
    thresholds: Sequence[float] | None = None,
    *,
    batch_size: int | None = None,
) -> Frontier:
    """Return what the mean-masked network costs, and how good it is, for each threshold.

    All dropout layers get the threshold, in a copy of the network. Masks that depend on the input
    are the mean masks of each input; the size is that without the units that are pruned for all.

    Args:
        bnn: A classifier; it is not changed.
        validation_data: ``(x, y)``, a Dataset or a DataLoader. Never the test set, if a threshold
            is to be chosen by it.
        thresholds: Values in [0, 1); None takes 0, the layers' own, and sixteen quantiles of the
            keep probabilities above these.
        batch_size: As in ``predict``.

    Raises:
        CompactionError: If the network cannot be traced.
        ConfigError: If a threshold is not in [0, 1), or there is no dropout layer or classifier.
        DataError: If the data is empty or has no targets.

    Example:
        >>> import bayesdrop as bd
        >>> net = torch.nn.Sequential(bd.BetaBernoulliDropout(4), torch.nn.Linear(4, 3))
        >>> bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=100)
        >>> data = torch.rand(6, 4), torch.zeros(6).long()
        >>> [row.units for row in sweep_thresholds(bnn, data, [0.1, 0.9]).rows]
        [(4,), (0,)]
    """
    _check_network(bnn)
    work = copy.deepcopy(bnn)
    layers = work.named_dropout_layers()
    who, example = "sweep_thresholds", "[0.0, 1e-3, 0.1, 0.5]"
    if thresholds is None:
        values = _default_thresholds(work)
    else:
        values = as_several(who, "thresholds", thresholds, example)
    if not all(is_real(value) and 0.0 <= value < 1.0 for value in values):
        raise ConfigError(
            who,
            expected="at least one threshold, all in [0, 1)",
            got=str(values),
            hint=f"They are keep probabilities, such as {example}.",
        )
    values = sorted(set(values))
    validation_data = arrays_of("sweep_thresholds", bnn, validation_data)
    x, _ = next(iter(batches(validation_data, 1)))
    device = next(work.parameters()).device
    counter = CostCounter(
        work.network.eval(),
        *positional_inputs("sweep_thresholds", work.network, x[:1].to(device)),
    )
    rows = []
    for value in values:
        for _, layer in layers:
            layer.threshold = float(value)
        # What mean_mask(x) prunes for every x is what is not kept.
        masks: dict[str, Tensor] = {
            name: layer.kept().to(layer.keep_prob())
            if layer.input_dependent
            else layer.mean_mask()
            for name, layer in layers
        }
        cost = counter(masks)
        gates = [
            gate.cost(layer.kept())
            for _, layer in layers
            if layer.input_dependent and (gate := layer.mean_gate()) is not None
        ]
        result = evaluate(work, validation_data, sample=False, batch_size=batch_size)
        rows.append(
            FrontierRow(
                threshold=float(value),
                units=tuple(work.units()),
                params=sum(cost.params.values()) + sum(params for params, _ in gates),
                flops=sum(cost.flops.values()) + sum(flops for _, flops in gates),
                error=result.error,
                nll=result.nll,
                ece=result.ece,
            )
        )
    full = counter.full
    return Frontier(
        tuple(rows),
        flops_total=sum(full.flops.values()),
        params_total=sum(full.params.values()),
        units_total=tuple(work.units_total()),
    )


def choose_threshold(
    frontier: Frontier,
    *,
    max_error_increase: float | None = None,
    max_flops: int | None = None,
) -> float:
    """Return the threshold that makes the network smallest, or best, within a limit.

    Args:
        frontier: What ``sweep_thresholds`` found on validation data.
        max_error_increase: Percentage points that the error may be above that of the lowest
            threshold; of the rows within it, the one with the fewest FLOPs is chosen.
        max_flops: FLOPs per example that the network may have; of the rows within them, the one
            with the lowest error is chosen. Exactly one of the two limits is given.

    Of equal rows the one with the lower NLL is chosen, then the one with the lower threshold.

    Raises:
        ConfigError: If not exactly one limit is given, or no row is within it.

    Example:
        >>> row = FrontierRow(0.1, (2,), 10, 20, error=5.0, nll=0.2, ece=0.0)
        >>> choose_threshold(Frontier((row,), 40, 20, (4,)), max_error_increase=0.5)
        0.1
    """
    rows = sorted(frontier.rows, key=lambda row: row.threshold)
    if (max_error_increase is None) == (max_flops is None) or not rows:
        raise ConfigError(
            "choose_threshold",
            expected="a frontier with rows, and max_error_increase or max_flops",
            got=f"{len(rows)} rows, {max_error_increase=} and {max_flops=}",
            hint="For example max_error_increase=0.1, in percentage points.",
        )
    if max_error_increase is not None:
        # Rounding must not exclude an increase of exactly the limit.
        limit = rows[0].error + max_error_increase + 1e-9
        within = [row for row in rows if row.error <= limit]
        within.sort(key=lambda row: (row.flops, row.nll))
    else:
        within = [row for row in rows if row.flops <= (max_flops or 0)]
        within.sort(key=lambda row: (row.error, row.nll))
    if not within:
        raise ConfigError(
            "choose_threshold",
            expected="a threshold within the limit",
            got=f"{max_error_increase=}, {max_flops=}, and FLOPs from "
            f"{min(row.flops for row in rows)} and errors from "
            f"{min(row.error for row in rows):.2f} %",
            hint="Relax the limit, or give sweep_thresholds higher thresholds.",
        )
    return within[0].threshold


def _default_thresholds(bnn: BayesianNetwork) -> list[float]:
    layers = [layer for _, layer in bnn.named_dropout_layers()]
    own = {layer.threshold for layer in layers}
    keep = torch.cat([layer.keep_prob().detach().double().cpu().flatten() for layer in layers])
    keep = keep[keep >= min(own)]
    steps = torch.linspace(0.0, 1.0, _STEPS, dtype=torch.float64)
    quantiles = keep.quantile(steps, interpolation="nearest").tolist() if len(keep) else []
    values = {0.0, *own, *quantiles}
    return sorted(value for value in values if 0.0 <= value < 1.0)


def _check_network(bnn: object) -> None:
    good = isinstance(bnn, Program) and bnn.likelihood.is_classifier
    if not isinstance(bnn, Program) or not good or not bnn.named_dropout_layers():
        raise ConfigError(
            "sweep_thresholds",
            expected="a BayesianNetwork that classifies and has Bayesian dropout layers",
            got=f"{type(bnn).__name__}"
            + (f" with {type(bnn.likelihood).__name__}" if hasattr(bnn, "likelihood") else ""),
            hint="Wrap it: bd.BayesianNetwork(network, bd.Categorical(), num_data).",
        )
