"""Which differences between methods the committed seeds bear: paired Student's t.

    python benchmarks/paired.py lenet-500-300-mnist

prints the differences of ``methods-lenet-500-300-mnist.json`` from the plain network and from the
ensemble. ``tables.py`` writes its verdicts into the pages.

Two methods are compared on the seeds that both have: initial weights, order of batches and test
images are the same, so that their difference varies less than either. A method is called better or
worse where the mean difference is not zero at the level of 5 % (two-sided: 4.3 standard errors of
three seeds, 2.8 of five) and, for an error, is larger than one standard error of the test set. All
else is level. Nothing is corrected for the number of comparisons: of twenty between equals one
will not be called level.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rows import read
from scipy import stats

LEVEL = 0.05

Verdict = Literal["better", "worse", "level", "one seed"]
SIGNS: dict[str, str] = {"better": "+", "worse": "-", "level": "=", "one seed": "?"}


@dataclass(frozen=True)
class Difference:
    """Mean difference over pairs, its standard error, and the number of pairs."""

    mean: float
    error: float
    pairs: int

    def verdict(self, higher_is_better: bool = False, at_least: float = 0.0) -> Verdict:
        """Return what the pairs say of the first method.

        Args:
            higher_is_better: Whether more is better.
            at_least: Size from which a difference is more than noise of the test set.
        """
        if self.pairs < 2:
            return "one seed"
        critical = float(stats.t.ppf(1 - LEVEL / 2, self.pairs - 1))
        if abs(self.mean) <= critical * self.error or abs(self.mean) <= at_least:
            return "level"
        return "better" if (self.mean > 0) == higher_is_better else "worse"

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ± {self.error:.4f} ({self.pairs})"


def difference(first: dict[int, float], second: dict[int, float]) -> Difference:
    """Return the first less the second over the seeds of both: seed to value."""
    pairs = [first[seed] - second[seed] for seed in first if seed in second]
    if not pairs:
        raise ValueError("expected a common seed, got none.")
    error = statistics.stdev(pairs) / math.sqrt(len(pairs)) if len(pairs) > 1 else math.nan
    return Difference(statistics.fmean(pairs), error, len(pairs))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number by Holm's step-down rule, in the given order.

    Rejecting those below a level keeps the chance of any false rejection below that level.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def over_seeds_and_images(
    by_seed: Sequence[float], image_variance: float
) -> tuple[float, float, float]:
    r"""Return a mean difference, its standard error and its two-sided p-value.

    Seeds and test images are crossed, and both are samples: with :math:`S` seeds

    .. math:: \mathrm{se}^2 = a + b, \qquad a = s^2 / S, \qquad
              t = \bar d / \mathrm{se} \sim t_\nu, \quad \nu = (S - 1)(a + b)^2 / a^2

    with the spread :math:`s` over seeds and :math:`b` over images (Satterthwaite's degrees of
    freedom). What varies from image to image in each seed anew is in both: se is a little large.

    Args:
        by_seed: The difference of each seed, at least two.
        image_variance: :math:`b`, the variance over images of the mean over seeds.
    """
    mean, of_seeds = statistics.fmean(by_seed), statistics.variance(by_seed) / len(by_seed)
    total = of_seeds + image_variance
    if total == 0.0:
        return mean, 0.0, 1.0 if mean == 0.0 else 0.0
    freedom = (len(by_seed) - 1) * (total / of_seeds) ** 2 if of_seeds else math.inf
    error = math.sqrt(total)
    return mean, error, float(2 * stats.t.sf(abs(mean) / error, freedom))


def noise_of_error(percent: float, examples: int = 10_000) -> float:
    """Return one standard error of an error rate on so many test examples, in percent."""
    return math.sqrt(percent * (100.0 - percent) / examples)


def by_seed(entries: list[dict], key: str) -> dict[int, float]:
    """Return seed to figure; ``key`` may be ``shift nll 3`` or ``shift nll area``."""
    measure, *path = key.split()
    found = {}
    for entry in entries:
        value = entry[measure]
        if path:
            values = value[path[0]]  # of severities 0 to 5
            value = statistics.fmean(values[1:]) if path[1] == "area" else values[int(path[1])]
        found[entry["seed"]] = value
    return found


HIGHER = ("auroc", "accuracy")


def compare(entries: list[dict], others: list[dict], key: str) -> tuple[Difference, Verdict]:
    """Return the paired difference in a figure of ``methods.py``, and what to call it."""
    own, other = by_seed(entries, key), by_seed(others, key)
    found = difference(own, other)
    noise = noise_of_error(statistics.fmean(other.values())) if key == "error" else 0.0
    return found, found.verdict(any(word in key for word in HIGHER), noise)


def signs(entries: list[dict], others: list[dict], keys: list[str]) -> str:
    """Return one sign for each figure, for a cell of a table."""
    return " ".join(SIGNS[compare(entries, others, key)[1]] for key in keys)


def main() -> None:
    result = read(f"methods-{sys.argv[1]}.json")["methods"]
    keys = ["error", "nll", "ece", "aurc", "auroc"]
    keys += [f"shift {name} area" for name in ("accuracy", "nll", "ece")]
    for way, title in (("mean", "the plain network"), ("ensemble", "the ensemble")):
        others = result["plain"]["rows"][way]
        for method, found in result.items():
            for own_way, entries in found["rows"].items():
                if entries is others:
                    continue
                print(f"{method}, {own_way}, less {title}:")
                for key in keys:
                    found_difference, verdict = compare(entries, others, key)
                    print(f"    {key}: {found_difference}, {verdict}")


if __name__ == "__main__":
    main()
