"""What the study's runs bear: differences with their uncertainty, corrected for their number.

Two methods are compared on the same test images and on the seeds that both have. Images and seeds
are drawn anew, with replacement and apart from each other, ``RESAMPLES`` times; of five seeds that
shows four fifths of their variance, which is made up for. A difference has the interval of these
resamples, and a two-sided p-value: twice the share of them on the other side of zero. Among the
methods that are compared with one baseline, p-values are corrected by Holm; "better" and "worse"
are what is left at 5 %. The smallest difference that such a design sees in four of five studies is
2.8 of its standard errors: 1.96 for the level, 0.84 for the power.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from study_evidence import Evidence, Floats

RESAMPLES, LEVEL, BINS = 10000, 0.05, 15
MEASURES = ("error", "nll", "ece")
"""Of which evidence is kept; less of each is better."""

Measure = Literal["error", "nll", "ece"]
Seeds = Mapping[int, Evidence]
"""A row's evidence, by seed."""
_Measured = tuple[Evidence, dict[Measure, float], dict[Measure, Floats]]


@dataclass(frozen=True)
class Difference:
    """A row less another.

    Args:
        value: Mean over seeds, in the unit of the measure (an error: percent).
        low: Of the 95 % interval.
        high: Of the same.
        standard_error: Of the value.
        p: Of no difference.
        seeds: How many both have.
    """

    value: float
    low: float
    high: float
    standard_error: float
    p: float
    seeds: int

    @property
    def detectable(self) -> float:
        """The smallest difference that would have been seen with a probability of 80 %."""
        return 2.8 * self.standard_error


class Resampling:
    """Draws of images and seeds, the same for all comparisons of a setting.

    Args:
        images: Test images.
        resamples: Draws.
        seed: Of the draws.
    """

    def __init__(self, images: int, resamples: int = RESAMPLES, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        # Row by row, which takes less time and memory than one multinomial.
        self._weights = np.empty((resamples, images), dtype=np.float32)
        for row in self._weights:
            row[:] = np.bincount(generator.integers(images, size=images), minlength=images)
        self._weights /= images
        self._seed = seed
        self._measured: dict[int, _Measured] = {}

    def compare(self, first: Seeds, second: Seeds, measure: Measure) -> Difference:
        """Return the first row less the second.

        Raises:
            ValueError: If they have fewer than two seeds in common.
        """
        seeds = sorted(first.keys() & second.keys())
        if len(seeds) < 2:
            raise ValueError(f"expected two common seeds, got {seeds}.")
        value, drawn = np.zeros(len(seeds)), np.zeros((len(self._weights), len(seeds)))
        for row, sign in ((first, 1), (second, -1)):
            self._measure(row[seed] for seed in seeds)
            for column, seed in enumerate(seeds):
                _, own, resampled = self._measured[id(row[seed])]
                value[column] += sign * own[measure]
                drawn[:, column] += sign * resampled[measure]
        resampled = (drawn * self._shares_of(len(seeds))).sum(1)
        if measure == "ece":  # of a resample it is larger than of the set, about equally for both
            resampled += value.mean() - resampled.mean()
        low, high = np.quantile(resampled, [LEVEL / 2, 1 - LEVEL / 2])
        beyond = min(int((resampled <= 0).sum()), int((resampled >= 0).sum()))
        p = min(1.0, 2.0 * (beyond + 1) / (len(resampled) + 1))
        return Difference(
            float(value.mean()), float(low), float(high), float(resampled.std()), p, len(seeds)
        )

    def _shares_of(self, count: int) -> Floats:
        # What each seed counts; a bootstrap of n has (n - 1) / n of the variance.
        generator = np.random.default_rng([self._seed, count])
        drawn = generator.multinomial(count, [1.0 / count] * count, size=len(self._weights))
        return 1.0 / count + (drawn / count - 1.0 / count) * math.sqrt(count / (count - 1))

    def _measure(self, row: Iterable[Evidence]) -> None:
        # Kept, since a row is compared with several; with the evidence, whose number is its key.
        new = [evidence for evidence in row if id(evidence) not in self._measured]
        if not new:
            return
        images = [_of_images(evidence) for evidence in new]
        # One product of all is faster than one for each.
        drawn = np.split(self._weights @ np.hstack(images), len(new), axis=1)
        for evidence, of_set, of_resamples in zip(new, images, drawn, strict=True):
            values = _figures(of_set.mean(0, dtype=np.float64, keepdims=True))
            own = {measure: float(value[0]) for measure, value in values.items()}
            self._measured[id(evidence)] = evidence, own, _figures(of_resamples)


def _of_images(evidence: Evidence) -> Floats:
    # Columns whose means make the measures: errors in percent, NLL, and the gap in each bin.
    confidence = evidence.confidence
    columns = np.zeros((len(confidence), 2 + BINS), dtype=np.float32)
    columns[:, 0], columns[:, 1] = 100.0 * ~evidence.correct, evidence.nll
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    columns[np.arange(len(bins)), 2 + bins] = confidence - evidence.correct
    return columns


def _figures(means: Floats) -> dict[Measure, Floats]:
    ece = np.abs(means[:, 2:]).sum(1)
    return {"error": means[:, 0], "nll": means[:, 1], "ece": ece}


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values corrected for their number, by Holm (1979).

    Example:
        >>> {name: round(p, 6) for name, p in holm({"a": 0.01, "b": 0.04, "c": 0.03}).items()}
        {'a': 0.03, 'c': 0.06, 'b': 0.06}
    """
    corrected, largest = {}, 0.0
    ordered = sorted(p_values.items(), key=lambda pair: pair[1])
    for rank, (name, p) in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - rank) * p))
        corrected[name] = largest
    return corrected


def verdicts(differences: Mapping[str, Difference]) -> dict[str, str]:
    """Return ``"+"``, ``"-"`` or ``"="`` for each row beside one baseline: less is better."""
    corrected = holm({name: found.p for name, found in differences.items()})
    return {
        name: "=" if corrected[name] >= LEVEL else ("+" if found.value < 0 else "-")
        for name, found in differences.items()
    }
