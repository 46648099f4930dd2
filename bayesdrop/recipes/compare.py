"""Several trained runs side by side, on the test set they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bayesdrop.data import DataSplits, load_ood
from bayesdrop.errors import ConfigError
from bayesdrop.inference.predict import predict
from bayesdrop.recipes.run import Run
from bayesdrop.reporting.compare import Comparison, compare_predictions
from bayesdrop.reporting.costs import compact_figures
from bayesdrop.reporting.methods import Method, methods_of

TEST_SET = "test set"


def compare_runs(
    runs: Mapping[str, Run],
    *,
    ood: Sequence[str] = (),
    num_samples: int = 64,
    ensembles: bool = False,
    data_dir: str | Path | None = None,
) -> Comparison:
    """Compare trained runs: figures, sizes, and paired differences from the first.

    Runs of the same recipe with different seeds share a row of medians. A run with Bayesian
    dropout has two rows: the mean mask, which ``compact`` makes small, and Monte Carlo.

    Args:
        runs: Name, such as its folder, to run; at least two.
        ood: Names of data sets that they were not trained on.
        num_samples: Posterior samples.
        ensembles: Whether to add a row for the averaged predictions of all seeds of a recipe.
        data_dir: Folder of the data files.

    Raises:
        ConfigError: If there are fewer than two runs, or their data or splits differ, or an
            out-of-distribution set is unknown or shares classes with the data.
        DataError: If data cannot be loaded, or have another shape than the runs'.
    """
    _check(runs)
    first = next(iter(runs.values()))
    splits = first.load_data(data_dir)
    known = [(first.vocabulary, _inputs(first, splits, ood, data_dir))]
    found = _Classifiers(num_samples)
    labels = _labels(runs)
    for name, run in runs.items():
        # The same texts are other numbers to a network with another vocabulary.
        own = next((x for vocabulary, x in known if vocabulary == run.vocabulary), None)
        if own is None:
            own = _inputs(run, run.load_data(data_dir), ood, data_dir)
            known.append((run.vocabulary, own))
        found.add(name, labels[name], run, own)
    if ensembles:
        found.add_ensembles()
    return compare_predictions(
        found.predictions[TEST_SET],
        splits.test[1],
        groups=found.groups,
        ood={name: found.predictions[name] for name in ood},
        details=found.details,
        title=f"Comparison on {splits.title}",
        about={
            "data": first.data,
            "validation": first.validation,
            "num_samples": num_samples,
            "ood": list(ood),
            "runs": {
                name: {"recipe": run.recipe.name, "seed": run.seed, "minutes": run.minutes}
                for name, run in runs.items()
            },
        },
    )


def _inputs(
    run: Run, splits: DataSplits, ood: Sequence[str], data_dir: str | Path | None
) -> dict[str, Tensor]:
    """Return the inputs of the test set and of others as the run's network takes them."""
    found = {TEST_SET: splits.test[0]}
    for name in ood:
        found[name] = load_ood(name, run.data, data_dir=data_dir, vocabulary=run.vocabulary)
    return found


@dataclass
class _Classifiers:
    """What is known of each classifier, a run and a method, and which share a row."""

    num_samples: int
    predictions: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    details: dict[str, dict[str, Any]] = field(default_factory=dict)
    groups: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, label: str, run: Run, inputs: Mapping[str, Tensor]) -> None:
        bnn = run.bnn
        size, _ = compact_figures(bnn, inputs[TEST_SET])
        total = {"params": size.params_total, "flops": size.flops_total}
        costs: dict[Method, dict[str, Any]] = {
            Method.PLAIN: {**total, "units": []},
            Method.MEAN_MASK: {"params": size.params, "flops": size.flops, "units": bnn.units()},
            Method.MONTE_CARLO: {
                "params": total["params"],
                "flops": total["flops"] * self.num_samples,
                "units": bnn.units(),
            },
        }
        methods = methods_of(bnn)
        for method in methods[1:] or methods:
            suffix = f", {method.label}" if len(methods) > 1 else ""
            key = name + suffix
            for data, images in inputs.items():
                prediction = predict(
                    bnn,
                    images,
                    num_samples=self.num_samples,
                    sample=method.samples,
                    keep_samples=False,
                    seed=run.seed,
                )
                self.predictions.setdefault(data, {})[key] = prediction.mean
            self.details[key] = {**costs[method], "minutes": run.minutes}
            self.groups.setdefault(label + suffix, []).append(key)

    def add_ensembles(self) -> None:
        """Add the averaged probabilities of each row with several members."""
        for label, names in list(self.groups.items()):
            if len(names) < 2:
                continue
            key = f"{label}, ensemble of {len(names)}"
            for own in self.predictions.values():
                own[key] = torch.stack([own[name] for name in names]).mean(0)
            costs = [self.details[name] for name in names]
            self.details[key] = {
                quantity: None
                if any(cost[quantity] is None for cost in costs)
                else sum(cost[quantity] for cost in costs)
                for quantity in ("params", "flops", "minutes")
            }
            self.groups[key] = [key]


def _labels(runs: Mapping[str, Run]) -> dict[str, str]:
    """Return the row of each run: its recipe's, which runs of other seeds share."""
    rows: dict[str, list[Run]] = {}
    found: dict[str, str] = {}
    for name, run in runs.items():
        fits = [
            label
            for label, members in rows.items()
            if members[0].recipe == run.recipe and all(run.seed != other.seed for other in members)
        ]
        title = run.recipe.name
        found[name] = fits[0] if fits else f"{title} ({name})" if title in rows else title
        rows.setdefault(found[name], []).append(run)
    return found


def _check(runs: Mapping[str, Run]) -> None:
    if len(runs) < 2:
        raise ConfigError(
            "compare",
            expected="at least two runs",
            got=str(len(runs)),
            hint="For one run use 'bayesdrop evaluate'.",
        )
    (first_name, first), *others = runs.items()
    for name, run in others:
        for what in ("data", "validation"):
            ours, theirs = getattr(first, what), getattr(run, what)
            if ours != theirs:
                raise ConfigError(
                    f"compare: run {name!r}",
                    expected=f"{what}={ours}, as run {first_name!r} has",
                    got=f"{what}={theirs}",
                    hint="Only runs on the same data and split can be compared; train them "
                    "with the same --data and --validation.",
                )
