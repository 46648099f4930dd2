"""One network at every width: prefixes of its ordered units, as plain networks and as a table."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias, cast

import torch
from torch import nn
from typing_extensions import override

from bayesdrop.compression.compacting import compact
from bayesdrop.compression.cost import count_params, measure_latency
from bayesdrop.compression.example import Example
from bayesdrop.compression.flops import count_flops
from bayesdrop.diagnostics.evaluator import evaluate
from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.inference.arrays import arrays_of
from bayesdrop.inference.batches import Data, batches
from bayesdrop.metrics.options import as_several
from bayesdrop.networks.operations import NORMS
from bayesdrop.networks.sources import releases_sources
from bayesdrop.nn import OrderedUnits, named_dropout_layers, named_owners
from bayesdrop.nn.arguments import is_real, is_whole
from bayesdrop.nn.mode import evaluation_mode
from bayesdrop.program.checks import check_classifier, require_module
from bayesdrop.program.inputs import outputs_of
from bayesdrop.program.network import BayesianNetwork
from bayesdrop.program.program import Program
from bayesdrop.record import Record, TableRecord

Width: TypeAlias = float | Mapping[str, float]
"""A share of every nested layer's groups, a number of units of each (an int of 2 or more), or a
layer's name to its share (float) or units (int)."""


def hold_width(
    network: nn.Module, width: Width, *, recalibrate: Data | None = None, batch_size: int = 100
) -> nn.Module:
    """Return a copy whose nested layers are all held at a width.

    Everything works with it: ``predict`` and ``evaluate`` (which then sample what else is random,
    such as weights), Pyro's programs, ``compact``. Fitting it further trains that width alone.

    Args:
        network: A ``BayesianNetwork`` or any module with nested dropout layers; not changed.
        width: A share in (0, 1] for all nested layers, a number of units (int) of 2 or more for
            all, or layer name to a share (float) or units (int); layers without one are at full
            width. Shares are rounded to whole groups, and what is always kept stays: see
            ``OrderedUnits.groups_at``.
        recalibrate: Inputs to compute each BatchNorm's statistics anew at this width, such as the
            training data; None keeps those of training, which are an average over widths.
        batch_size: Examples at a time for that, where ``recalibrate`` is not a DataLoader.

    Raises:
        ConfigError: If there is no nested layer, a name is unknown or a width makes no sense.

    Example:
        >>> import bayesdrop as bd
        >>> net = nn.Sequential(bd.NestedDropout(8), nn.Linear(8, 2))
        >>> bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=10)
        >>> hold_width(bnn, 0.5).units()
        [4]
    """
    require_module("hold_width", network)
    result = copy.deepcopy(network)
    layers = _nested_layers(result)
    if isinstance(width, Mapping):
        for name in width:
            if name not in layers:
                raise unknown_name("nested dropout layer", name, layers)
    for name, layer in layers.items():
        layer.hold_width(width.get(name, 1.0) if isinstance(width, Mapping) else _share(width))
    if recalibrate is not None:
        _recalibrate(result, recalibrate, batch_size)
    return result


def _share(width: float) -> float:
    # 1 is the full width, whether it is written as an integer or not. Layers refuse no numbers.
    if not is_real(width):
        return width
    return int(width) if is_whole(width) and width != 1 else float(width)


@releases_sources
def cut_to_width(
    network: nn.Module,
    width: Width,
    example_input: Example | None = None,
    *,
    recalibrate: Data | None = None,
    check: bool = True,
) -> nn.Module:
    """Return the plain network of a width: an ordinary module with that many units.

    Its outputs are those of the network with prefix masks imposed. All widths share one set of
    weights, so that a narrower network's are those of a wider one's first units (with
    ``ordering="importance"``: of its most important ones).

    Args:
        network: A ``BayesianNetwork`` or any module with nested dropout layers; not changed.
        width: As for ``hold_width``.
        example_input: As for ``compact``.
        recalibrate: As for ``hold_width``.
        check: Whether to compare outputs on the example.

    Raises:
        ConfigError: As for ``hold_width``, or if there is no example input.
        CompactionError: If the network cannot be traced.

    Example:
        >>> import bayesdrop as bd
        >>> net = nn.Sequential(nn.Linear(4, 8), bd.NestedDropout(8), nn.Linear(8, 2))
        >>> cut_to_width(net, 0.25, torch.ones(1, 4)).get_submodule("0")
        Linear(in_features=4, out_features=2, bias=True)
    """
    held = hold_width(network, width, recalibrate=recalibrate)
    return compact(held, example_input, check=check)


@dataclass(frozen=True)
class WidthRow(Record, also=("accuracy",)):
    """One width.

    Args:
        width: Share of the groups of every nested layer, or a layer's name to its own.
        units: Open units of each dropout layer.
        params: Parameters of the plain network.
        flops: Its FLOPs per example, multiply and add both counted.
        latency_ms: Median time of one forward pass, in milliseconds.
        error: Share of wrong classes, in percent.
        nll: Negative log-likelihood in nats per example.
        ece: Expected calibration error, 15 bins.
        auroc: Data set name to AUROC of the predictive entropy, OOD being positive.
    """

    width: float | dict[str, float]
    units: tuple[int, ...]
    params: int
    flops: int
    latency_ms: float
    error: float
    nll: float
    ece: float
    auroc: dict[str, float]

    @property
    def accuracy(self) -> float:
        """Share of right classes, in percent."""
        return 100.0 - self.error


@dataclass(frozen=True)
class WidthSweep(TableRecord, also=("area",)):
    """What ``sweep_widths`` returns.

    Args:
        rows: One for each width, narrowest (fewest FLOPs) first.
        num_samples: Posterior samples behind the figures; 1 if nothing but widths is random.
        threads: Number of CPU threads that the latency was measured with.
        batch_size: Its batch size.
    """

    rows: tuple[WidthRow, ...]
    num_samples: int
    threads: int
    batch_size: int

    @property
    def area(self) -> float:
        """Average accuracy, in percent, over the range of widths: area under accuracy-width.

        By the trapezoidal rule; NaN unless all widths are shares and there are two.
        """
        points = [(row.width, row.accuracy) for row in self.rows]
        shares = sorted((w, a) for w, a in points if isinstance(w, float))  # int: units
        if len(shares) < max(2, len(points)) or shares[0][0] == shares[-1][0]:
            return float("nan")
        total = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(shares))
        return total / (shares[-1][0] - shares[0][0])

    @override
    def table(self) -> tuple[list[str], list[list[str]]]:
        sets = list(self.rows[0].auroc) if self.rows else []
        header = ["width", "units", "parameters", "FLOPs", "ms", "error %", "NLL", "ECE"]
        cells = [
            [
                "own" if isinstance(row.width, dict) else f"{row.width:.3g}",
                "-".join(map(str, row.units)),
                f"{row.params:,d}",
                f"{row.flops:,d}",
                f"{row.latency_ms:.3f}",
                f"{row.error:.2f}",
                f"{row.nll:.4f}",
                f"{row.ece:.4f}",
                *(f"{row.auroc[name]:.4f}" for name in sets),
            ]
            for row in self.rows
        ]
        return header + [f"AUROC {name}" for name in sets], cells


def sweep_widths(
    bnn: BayesianNetwork,
    data: Data,
    widths: Sequence[Width] = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0),
    *,
    ood: Mapping[str, Data] | None = None,
    num_samples: int = 64,
    recalibrate: Data | None = None,
    latency_batch_size: int = 1,
    repeats: int = 30,
    seed: int | None = None,
) -> WidthSweep:
    """Return what one network costs, and how good it is, at each width.

    Where something other than the width is random (weights, other dropout layers), predictions are
    averaged over ``num_samples`` draws of it; else the network runs once. Size, FLOPs and latency
    are those of the plain network that ``cut_to_width`` returns.

    Args:
        bnn: A classifier with nested dropout layers; not changed.
        data: ``(x, y)``, a Dataset or a DataLoader. Never the test set, if a width is to be chosen
            by it.
        widths: As for ``hold_width``.
        ood: Name to inputs the network was not trained for.
        num_samples: Posterior samples.
        recalibrate: As for ``hold_width``.
        latency_batch_size: Batch size of the measured time.
        repeats: Timed passes of each network; they take turns.
        seed: Makes the draws reproducible, and the same for all widths.

    Raises:
        ConfigError: If the network is not such a classifier or a width makes no sense.
        DataError: If the data is empty or has no targets.

    Example:
        >>> import bayesdrop as bd
        >>> net = nn.Sequential(nn.Linear(4, 8), bd.NestedDropout(8), nn.Linear(8, 2))
        >>> bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=10)
        >>> data = torch.rand(6, 4), torch.arange(6) % 2
        >>> sweep = sweep_widths(bnn, data, [0.5, 1.0], repeats=1)
        >>> [row.units for row in sweep.rows], sweep.rows[0].flops
        ([(4,), (8,)], 48)
    """
    check_classifier("sweep_widths", bnn)
    widths = as_several("sweep_widths", "widths", widths, "[0.5, 1.0]")
    data = arrays_of("sweep_widths", bnn, data)
    x, _ = next(iter(batches(data, 1)))
    x = x[:1].to(next(bnn.parameters(), torch.empty(0)).device)
    rows, nets, samples = [], [], 1
    for width in widths:
        held = cast(Program, hold_width(bnn, width, recalibrate=recalibrate))
        result = evaluate(
            held,
            data,
            ood=ood,
            num_samples=num_samples,
            sample=_is_random(held),
            seed=seed,
        )
        samples = max(samples, result.num_samples)
        net = compact(held, x, check=False)
        nets.append(net)
        rows.append(
            WidthRow(
                width=dict(width) if isinstance(width, Mapping) else _share(width),
                units=tuple(held.units()),
                params=count_params(net),
                flops=count_flops(net, x),
                latency_ms=0.0,
                error=result.error,
                nll=result.nll,
                ece=result.ece,
                auroc={name: float(s["entropy"]["auroc"]) for name, s in result.ood.items()},
            )
        )
    times = measure_latency(*nets, example_input=x, batch_size=latency_batch_size, repeats=repeats)
    timed = [
        WidthRow(**{**vars(row), "latency_ms": time})
        for row, time in zip(rows, times, strict=True)
    ]
    timed.sort(key=lambda row: row.flops)
    return WidthSweep(tuple(timed), samples, torch.get_num_threads(), latency_batch_size)


def choose_width(
    sweep: WidthSweep,
    *,
    max_flops: int | None = None,
    max_latency_ms: float | None = None,
    min_accuracy: float | None = None,
) -> float | dict[str, float]:
    """Return the best width within a budget, or the smallest that is good enough.

    Args:
        sweep: What ``sweep_widths`` found on validation data.
        max_flops: FLOPs per example that the network may have.
        max_latency_ms: Milliseconds that a forward pass may take. Within these two budgets, which
            may be given together, the width of the highest accuracy is chosen.
        min_accuracy: Percent of right classes that the network must have, within the budgets if
            any; of the widths that do, the one with the fewest FLOPs is chosen.

    Of equal rows the one with the lower NLL is chosen.

    Raises:
        ConfigError: If no limit is given, the accuracy is not in percent, or no width fits.

    Example:
        >>> row = WidthRow(0.5, (4,), 10, 20, 0.1, error=5.0, nll=0.2, ece=0.0, auroc={})
        >>> choose_width(WidthSweep((row,), 1, 1, 1), min_accuracy=90.0)
        0.5
    """
    if max_flops is None and max_latency_ms is None and min_accuracy is None:
        raise ConfigError(
            "choose_width",
            expected="max_flops, max_latency_ms or min_accuracy",
            got="none of them",
            hint="For example max_flops=100_000.",
        )
    if min_accuracy is not None and not 1.0 < min_accuracy <= 100.0:
        raise ConfigError(
            "choose_width",
            expected="min_accuracy in percent, above 1 and at most 100",
            got=f"min_accuracy={min_accuracy}",
            hint="For example min_accuracy=98.5.",
        )
    fitting = [
        row
        for row in sweep.rows
        if (max_flops is None or row.flops <= max_flops)
        and (max_latency_ms is None or row.latency_ms <= max_latency_ms)
        and (min_accuracy is None or row.accuracy >= min_accuracy - 1e-9)
    ]
    if not fitting:
        best = max((row.accuracy for row in sweep.rows), default=float("nan"))
        least = min((row.flops for row in sweep.rows), default=0)
        raise ConfigError(
            "choose_width",
            expected="a width within the limits",
            got=f"{max_flops=}, {max_latency_ms=}, {min_accuracy=}, and FLOPs from {least:,d} "
            f"and accuracies up to {best:.2f} %",
            hint="Relax the limits, or sweep more widths.",
        )
    if min_accuracy is not None:
        return min(fitting, key=lambda row: (row.flops, row.nll)).width
    return min(fitting, key=lambda row: (row.error, row.nll)).width


def _nested_layers(network: nn.Module) -> dict[str, OrderedUnits]:
    if isinstance(network, Program):
        network = network.network
    layers = {n: m for n, m in named_dropout_layers(network) if isinstance(m, OrderedUnits)}
    if not layers:
        raise ConfigError(
            "hold_width",
            expected="a network with nested dropout layers",
            got=type(network).__name__,
            hint='Put them in: bd.convert(network, "variational-nested").',
        )
    return layers


def _is_random(bnn: Program) -> bool:
    # Whether more than one posterior sample can differ, apart from the widths that are held.
    layers = [layer for _, layer in named_dropout_layers(bnn.network)]
    others = any(not isinstance(layer, OrderedUnits) for layer in layers)
    return others or any(owner.posterior() for _, owner in named_owners(bnn.network))


@torch.no_grad()
def _recalibrate(network: nn.Module, data: Data, batch_size: int) -> None:
    """Average each BatchNorm's batch statistics over data, in place."""
    data = arrays_of("hold_width", network, data)
    norms = [m for m in network.modules() if isinstance(m, NORMS) and m.track_running_stats]
    if not norms:
        return
    if isinstance(network, Program):
        network = network.network
    device = next(network.parameters()).device
    momenta = [norm.momentum for norm in norms]
    with evaluation_mode(network):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over batches
            norm.training = True
        for x, _ in batches(data, batch_size):
            outputs_of(network, x.to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
