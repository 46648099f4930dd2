"""Several classifiers on the same test set: their figures, and their paired differences."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import override

from bayesdrop.errors import ConfigError
from bayesdrop.metrics import Bootstrap, Estimate, bootstrap_metrics
from bayesdrop.metrics.checks import Array
from bayesdrop.metrics.options import require_names
from bayesdrop.record import Record, plain
from bayesdrop.reporting.estimates import figure_text, metric_title

_DETAILS = {
    "units": "units",
    "params": "parameters",
    "flops": "FLOPs",
    "minutes": "minutes",
}


@dataclass(frozen=True, eq=False)
class ComparisonRow:
    """One classifier, or several seeds of one.

    Args:
        name: What to call it.
        members: The classifiers.
        estimates: Metric to its value, the median over members, and its interval.
        ranges: Metric to the lowest and the highest value of a member.
        differences: Metric to the paired difference from the first row; of the first row, empty.
        details: Median over members of ``units``, ``params``, ``flops`` and ``minutes``, where
            known.
    """

    name: str
    members: tuple[str, ...]
    estimates: dict[str, Estimate]
    ranges: dict[str, tuple[float, float]]
    differences: dict[str, Estimate]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Comparison(Record):
    """What ``compare_predictions`` returns.

    Args:
        rows: One for each group of classifiers, in the order they were given.
        bootstrap: The resamples that everything was computed from.
        title: What is compared.
        about: More about it, as JSON's types.
    """

    rows: tuple[ComparisonRow, ...]
    bootstrap: Bootstrap
    title: str = "Comparison"
    about: Mapping[str, Any] = field(default_factory=dict)

    @override
    def to_dict(self) -> dict[str, Any]:
        """Return all numbers, ready for JSON."""
        return {
            **self.about,
            "level": self.bootstrap.level,
            "num_resamples": self.bootstrap.num_resamples,
            "num_examples": self.bootstrap.num_examples,
            "bootstrap_seed": self.bootstrap.seed,
            "first": self.rows[0].name,
            "rows": [
                {
                    "name": row.name,
                    "members": {name: self.bootstrap.values[name] for name in row.members},
                    "metrics": plain(row.estimates),
                    "ranges": plain(row.ranges),
                    "differences": plain(row.differences),
                    "details": row.details,
                }
                for row in self.rows
            ],
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return header and cells of the figures and the costs, one line for each row."""
        metrics = self.bootstrap.metrics
        known = [key for key in _DETAILS if any(row.details.get(key) for row in self.rows)]
        header = ["", *map(metric_title, metrics), *(_DETAILS[key] for key in known)]
        cells = [
            [
                row.name,
                *(figure_text(metric, row.estimates[metric].value) for metric in metrics),
                *(_detail(row.details.get(key)) for key in known),
            ]
            for row in self.rows
        ]
        return header, cells


def compare_predictions(
    probabilities: Mapping[str, Array],
    labels: Array,
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    ood: Mapping[str, Mapping[str, Array]] | None = None,
    details: Mapping[str, Mapping[str, Any]] | None = None,
    title: str = "Comparison",
    about: Mapping[str, Any] | None = None,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare classifiers by their predictions of one test set; any arrays will do.

    Args:
        probabilities: Classifier to probabilities ``(N, C)``, P(y = 1) of shape ``(N,)``, or
            posterior samples ``(S, N, C)``, which are averaged.
        labels: Integers ``(N,)``.
        groups: Row to its classifiers, such as the seeds of one recipe, of which the median and
            the range are reported; None gives each its own row.
        ood: OOD set to classifier to probabilities like ``probabilities``; adds AUROCs of the
            predictive entropy.
        details: Classifier to ``units`` (of each layer), ``params``, ``flops``, ``minutes``.
        title: Heading of the report.
        about: More to be kept in the JSON file.
        num_resamples: Resamples of the paired bootstrap.
        level: Level of the intervals.
        seed: Of the resampling.

    Raises:
        ConfigError: If groups are not made of the classifiers, details are of another one, or as
            ``bootstrap_metrics``.
        DataError: If the values make no sense; ``ShapeError`` if the shapes do not.

    Example:
        >>> import torch
        >>> labels = torch.arange(200) % 2
        >>> sure, unsure = torch.full((200,), 0.9), torch.full((200,), 0.6)
        >>> p = {"sure": torch.where(labels == 1, sure, 1 - sure)}
        >>> p["unsure"] = torch.where(labels == 1, unsure, 1 - unsure)
        >>> comparison = compare_predictions(p, labels)
        >>> comparison.rows[1].differences["nll"].excludes_zero
        True
    """
    who = "compare_predictions"
    require_names(who, "probabilities", probabilities, "classifier")
    require_names(who, "groups", groups, "row")
    require_names(who, "details", details, "classifier", probabilities)
    chosen = {name: [name] for name in probabilities} if groups is None else groups
    members = {name: tuple(names) for name, names in chosen.items()}
    _check_groups(members, probabilities)
    bootstrap = bootstrap_metrics(
        probabilities, labels, ood=ood, num_resamples=num_resamples, level=level, seed=seed
    )
    first = next(iter(members.values()))
    rows = []
    for index, (name, names) in enumerate(members.items()):
        values = {m: [bootstrap.values[item][m] for item in names] for m in bootstrap.metrics}
        own = [dict((details or {}).get(item, {})) for item in names]
        rows.append(
            ComparisonRow(
                name=name,
                members=names,
                estimates={m: bootstrap.interval(names, m) for m in bootstrap.metrics},
                ranges={m: (min(found), max(found)) for m, found in values.items()},
                differences={m: bootstrap.difference(names, first, m) for m in bootstrap.metrics}
                if index
                else {},
                details={key: _median([found.get(key) for found in own]) for key in _DETAILS},
            )
        )
    return Comparison(tuple(rows), bootstrap, title, about or {})


def _check_groups(members: Mapping[str, Sequence[str]], known: Mapping[str, Array]) -> None:
    bad = [
        name
        for name, names in members.items()
        if not names or any(item not in known for item in names)
    ]
    if bad or not members:
        raise ConfigError(
            "compare_predictions",
            expected=f"rows made of the classifiers {sorted(known)}",
            got=f"{bad[0]!r} made of {list(members[bad[0]])}" if bad else "none",
            hint='For example groups={"net": ["net-seed-0", "net-seed-1"]}.',
        )


def _median(values: Sequence[Any]) -> Any:
    """Return the median of numbers, or of each entry of lists; None if one is missing."""
    if any(value is None for value in values):
        return None
    if isinstance(values[0], list | tuple):
        return [statistics.median(entries) for entries in zip(*values, strict=True)]
    return statistics.median(values)


def _detail(value: Any) -> str:
    if value is None or value == []:
        return "–"
    if isinstance(value, list):
        return "-".join(f"{entry:g}" for entry in value)
    return f"{value:,.1f}" if isinstance(value, float) and value % 1 else f"{value:,.0f}"
