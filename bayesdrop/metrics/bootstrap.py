"""How sure figures of merit are: the paired bootstrap over test examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from bayesdrop.errors import ConfigError, ShapeError, unknown_name
from bayesdrop.metrics.arrays import as_tensor
from bayesdrop.metrics.binomial import binomial_interval
from bayesdrop.metrics.checks import Array, as_mean_probabilities, as_scores
from bayesdrop.metrics.examples import entropy_of
from bayesdrop.metrics.options import (
    require_count,
    require_fraction,
    require_names,
    require_seed,
)
from bayesdrop.metrics.resampling import CHUNK, Columns, Pair, draw
from bayesdrop.record import Record, plain

_FEWEST = 100
_ABOUT = ("level", "num_resamples", "num_examples", "seed")


@dataclass(frozen=True)
class Estimate(Record):
    """A figure and its confidence interval.

    Args:
        value: The figure on the test set.
        lower: Lower end.
        upper: Upper end.
    """

    value: float
    lower: float
    upper: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero is outside: for a difference, whether it is more than noise."""
        return self.lower > 0.0 or self.upper < 0.0


@dataclass(frozen=True, eq=False)
class Bootstrap(Record):
    """What ``bootstrap_metrics`` returns.

    Args:
        values: Classifier to metric to its value on the test set.
        resamples: Classifier to metric to its value on each resampled test set, ``(B,)``, float64.
            Resample ``b`` is the same for all classifiers.
        calibrated: Classifier to ``calibrated_ece``.
        level: Level of the intervals.
        num_examples: Test examples :math:`N`.
        seed: Of the resampling.
    """

    values: dict[str, dict[str, float]]
    resamples: dict[str, dict[str, Tensor]]
    calibrated: dict[str, float]
    level: float
    num_examples: int
    seed: int

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics."""
        return tuple(next(iter(self.values.values())))

    @property
    def num_resamples(self) -> int:
        """The number of resampled test sets :math:`B`."""
        return len(next(iter(self.resamples.values()))["error"])

    def interval(self, name: str | Sequence[str], metric: str) -> Estimate:
        """Return a metric with its interval: of one classifier, or the median of several.

        Args:
            name: A classifier or several, such as the seeds of one recipe.
            metric: One of ``metrics``.

        Raises:
            ConfigError: If there is no such classifier or metric.
        """
        value, resamples = self._median(name, metric)
        if metric == "ece":
            lower, upper = self._either(value, resamples)
            if value <= self.calibrated_ece(name):
                lower = 0.0
            return Estimate(value, max(0.0, lower), min(1.0, upper))
        if metric == "error" and bool((resamples == value).all()):
            # Where nothing or all is wrong, so it is in all resamples.
            wrong = torch.tensor(value / 100.0 * self.num_examples)
            ends = binomial_interval(wrong, torch.tensor(self.num_examples), self.level)
            return Estimate(value, *(100.0 * float(end) for end in ends))
        return Estimate(value, *self._quantiles(resamples))

    def difference(
        self, name: str | Sequence[str], other: str | Sequence[str], metric: str
    ) -> Estimate:
        """Return a metric of ``name`` less that of ``other``, paired over the test examples.

        Args:
            name: A classifier, or several of which the median is taken.
            other: What is subtracted.
            metric: One of ``metrics``.

        Raises:
            ConfigError: If there is no such classifier or metric.
        """
        value, resamples = self._median(name, metric)
        from_value, from_resamples = self._median(other, metric)
        difference, differences = value - from_value, resamples - from_resamples
        if metric == "ece":
            return Estimate(difference, *self._either(difference, differences))
        return Estimate(difference, *self._quantiles(differences))

    def calibrated_ece(self, name: str | Sequence[str]) -> float:
        """Return the ECE that is not exceeded, at ``level``, by a calibrated classifier.

        Such a classifier has the same confidences, and is right as often as they say. A smaller
        ECE gives no reason to doubt the calibration.

        Args:
            name: A classifier, or several of which the median is taken.
        """
        names = [name] if isinstance(name, str) else list(name)
        return float(torch.tensor([self.calibrated[item] for item in names]).quantile(0.5))

    @override
    def to_dict(self) -> dict[str, Any]:
        """Return every metric of every classifier with its interval, ready for JSON."""
        intervals = {
            name: {metric: self.interval(name, metric) for metric in self.metrics}
            for name in self.values
        }
        known = {name: getattr(self, name) for name in _ABOUT}
        return plain({**known, "intervals": intervals, "calibrated_ece": self.calibrated})

    def _median(self, name: str | Sequence[str], metric: str) -> tuple[float, Tensor]:
        names = [name] if isinstance(name, str) else list(name)
        for unknown in (item for item in names if item not in self.values):
            raise unknown_name("classifier", unknown, self.values)
        if metric not in self.metrics:
            raise unknown_name("metric", metric, self.metrics)
        values = torch.tensor([self.values[item][metric] for item in names], dtype=torch.float64)
        resamples = torch.stack([self.resamples[item][metric] for item in names])
        return float(values.quantile(0.5)), resamples.quantile(0.5, dim=0)

    def _quantiles(self, resamples: Tensor) -> tuple[float, float]:
        tail = (1.0 - self.level) / 2.0
        ends = torch.tensor([tail, 1.0 - tail], dtype=torch.float64)
        lower, upper = resamples.quantile(ends).tolist()
        return lower, upper

    def _either(self, value: float, resamples: Tensor) -> tuple[float, float]:
        # Noise widens the gaps of bins, so that a test set's ECE is too large, and its resamples'
        # once more: the interval holds theirs, and theirs mirrored at the value.
        lower, upper = self._quantiles(resamples)
        return min(lower, 2.0 * value - upper), max(upper, 2.0 * value - lower)


def bootstrap_metrics(
    predictions: Mapping[str, Array],
    labels: Array,
    *,
    ood: Mapping[str, Mapping[str, Array]] | None = None,
    scores: Mapping[str, Array] | None = None,
    log_likelihood: Mapping[str, Array] | None = None,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Bootstrap:
    r"""Resample the test set, and return what it does to the figures of one or more classifiers.

    Each of :math:`B` resamples draws :math:`N` examples with replacement, the same ones for all
    classifiers: differences between them are paired, and much surer than the figures themselves.
    The examples of an OOD set are drawn likewise. The intervals cover the choice of the test
    examples, not that of the seed of training.

    Intervals are quantiles of the resamples. The ECE of a finite set is biased upwards, and of a
    resample twice: its interval also holds these quantiles mirrored at the value, and zero if a
    calibrated classifier's ECE could be as large (``Bootstrap.calibrated_ece``). An error of
    exactly 0 or 100 % has Wilson's interval.

    Args:
        predictions: Classifier to probabilities ``(N, C)``, P(y = 1) of shape ``(N,)``, or
            posterior samples ``(S, N, C)``, which are averaged.
        labels: Integers ``(N,)``.
        ood: OOD set to classifier to probabilities like ``predictions``, scored by their entropy,
            or to scores ``(M,)`` where ``scores`` is given; adds ``"auroc {set}"``.
        scores: Classifier to the test set's scores ``(N,)``, higher for OOD.
        log_likelihood: Classifier to the log-probability of each label, ``(N,)`` in nats, for the
            NLL; of one that is not in it, it is that of its probabilities.
        num_resamples: Resamples :math:`B`, at least 100.
        level: Level of the intervals, inside (0, 1).
        seed: Of the resampling; torch's global generator is left alone.

    Raises:
        ConfigError: If there is no classifier, an OOD set lacks one, or for bad options.
        DataError: If the values make no sense; ``ShapeError`` if the shapes do not.

    References:
        Efron, Tibshirani (1993), "An Introduction to the Bootstrap", chapters 13 and 16.
        Labels drawn from the confidences: Bröcker, Smith (2007),
        https://doi.org/10.1175/WAF993.1.

    Example:
        >>> labels = torch.arange(200) % 2
        >>> good, bad = torch.full((200,), 0.9), torch.full((200,), 0.6)
        >>> p = {"good": torch.where(labels == 1, good, 1 - good)}
        >>> p["bad"] = torch.where(labels == 1, bad, 1 - bad)
        >>> bootstrap_metrics(p, labels).difference("bad", "good", "nll").excludes_zero
        True
    """
    who = "bootstrap_metrics"
    _check_options(predictions, num_resamples)
    for name, option in (("log_likelihood", log_likelihood), ("scores", scores)):
        require_names(who, name, option, "classifier", predictions)
    require_names(who, "ood", ood, "OOD set")
    given = log_likelihood or {}
    require_fraction(who, "level", level)
    seed = require_seed(who, seed)
    columns = {name: Columns(v, labels, given.get(name)) for name, v in predictions.items()}
    labels = as_tensor(who, labels)
    count = len(labels)
    pairs = _pairs(predictions, ood or {}, scores, count)
    sizes = [count, *(next(iter(own.values())).num_outside for own in pairs.values())]

    def measure(counts: Sequence[Tensor]) -> dict[str, dict[str, Tensor]]:
        inside, *outside = counts
        found = {name: column(inside) for name, column in columns.items()}
        for (key, own), drawn in zip(pairs.items(), outside, strict=True):
            for name, pair in own.items():
                found[name][f"auroc {key}"] = pair(inside, drawn)
        return found

    once = measure([torch.ones(1, size, dtype=torch.float64) for size in sizes])
    generators = [torch.Generator().manual_seed(seed + index) for index in range(len(sizes))]
    parts = []
    rows = max(1, CHUNK // max(sizes))
    for start in range(0, num_resamples, rows):
        number = min(rows, num_resamples - start)
        parts.append(
            measure([draw(number, *both) for both in zip(sizes, generators, strict=True)])
        )
    return Bootstrap(
        values={name: {m: float(v) for m, v in found.items()} for name, found in once.items()},
        resamples={
            name: {metric: torch.cat([part[name][metric] for part in parts]) for metric in found}
            for name, found in once.items()
        },
        calibrated={
            name: column.calibrated_ece(num_resamples, level, seed)
            for name, column in columns.items()
        },
        level=level,
        num_examples=count,
        seed=seed,
    )


def _pairs(
    predictions: Mapping[str, Array],
    ood: Mapping[str, Mapping[str, Array]],
    scores: Mapping[str, Array] | None,
    count: int,
) -> dict[str, dict[str, Pair]]:
    """Return the checked scores of each OOD set by each classifier."""
    who = "bootstrap_metrics"
    binary = {n for n, v in predictions.items() if not scores and as_tensor(who, v).ndim == 1}
    own = {n: _scores(n, values, n in binary) for n, values in (scores or predictions).items()}
    found: dict[str, dict[str, Pair]] = {}
    for key, by_name in ood.items():
        require_names(who, f"ood[{key!r}]", by_name, "classifier")
        missing = [name for name in predictions if name not in by_name or name not in own]
        if missing:
            raise ConfigError(
                who,
                expected=f"{key!r} and the test set scored by all classifiers",
                got=f"nothing of {missing[0]!r}",
                hint="Pass ood={set: {classifier: probabilities}}.",
            )
        found[key] = {n: Pair(own[n], _scores(key, by_name[n], n in binary)) for n in predictions}
        _one_length({name: pair.num_outside for name, pair in found[key].items()})
        _one_length({"labels": count} | {n: pair.num_inside for n, pair in found[key].items()})
    return found


def _scores(name: str, values: Array, binary: bool) -> Tensor:
    who = "bootstrap_metrics"
    if as_tensor(who, values).ndim == 1 and not binary:
        return as_scores(who, name, values)
    return entropy_of(as_mean_probabilities(who, values))


def _one_length(lengths: Mapping[str, int]) -> int:
    if len(set(lengths.values())) > 1:
        first, one = next(iter(lengths.items()))
        second, two = next(item for item in lengths.items() if item[1] != one)
        raise ShapeError(
            "bootstrap_metrics",
            expected="the same examples for all classifiers",
            got=f"{one} of {first!r} and {two} of {second!r}",
            hint="Do all come from the same data?",
        )
    return next(iter(lengths.values()))


def _check_options(predictions: Mapping[str, Array], num_resamples: int) -> None:
    if isinstance(predictions, Mapping) and predictions:
        hint = "Intervals are quantiles of the resamples."
        require_count("bootstrap_metrics", "num_resamples", num_resamples, hint, least=_FEWEST)
        return
    raise ConfigError(
        "bootstrap_metrics",
        expected="a mapping of at least one classifier",
        got="none" if isinstance(predictions, Mapping) else type(predictions).__name__,
        hint='For example bootstrap_metrics({"net": probabilities}, labels).',
    )
