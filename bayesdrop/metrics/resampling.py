"""What the bootstrap resamples: sums per example, and scores of two sets."""

from __future__ import annotations

import torch
from torch import Tensor

from bayesdrop.metrics.bins import width_bins
from bayesdrop.metrics.checks import Array
from bayesdrop.metrics.examples import as_examples, nll_of
from bayesdrop.metrics.ties import tied

METRICS = ("error", "nll", "brier", "ece", "aurc")
"""What is resampled of every classifier, besides ``"auroc {OOD set}"``."""

CHUNK = 2_000_000
"""Numbers at a time."""

_NUM_BINS = 15


class Columns:
    """What a classifier's metrics are sums of, per example; called with how often each counts."""

    def __init__(self, predictions: Array, labels: Array, log_prob: Array | None = None) -> None:
        examples = as_examples("bootstrap_metrics", predictions, labels, average=True)
        confidence, correct, count = examples.confidence, examples.correct.double(), len(labels)
        gaps = torch.zeros(count, _NUM_BINS, dtype=torch.float64)
        gaps[torch.arange(count), width_bins(confidence, _NUM_BINS)] = correct - confidence
        nll = nll_of("bootstrap_metrics", examples, log_prob)
        figures = [100.0 * (1.0 - correct), nll, examples.brier]
        self.per_example = torch.cat([torch.stack(figures, dim=1), gaps], dim=1)
        self.wrong, self.confidence = 1.0 - correct, confidence
        ordered, self.order = tied(confidence).sort(descending=True, stable=True)
        ends = torch.cat([ordered[1:] != ordered[:-1], torch.ones(1, dtype=torch.bool)])
        self.last = ends.nonzero().squeeze(1)
        ranks = torch.arange(1, count + 1, dtype=torch.float64)
        self.harmonic = torch.cat([torch.zeros(1, dtype=torch.float64), (1.0 / ranks).cumsum(0)])

    def __call__(self, counts: Tensor) -> dict[str, Tensor]:
        """Return each metric ``(R,)`` of the examples taken ``counts`` ``(R, N)`` times."""
        means = counts @ self.per_example / counts.shape[1]
        simple = dict(zip(METRICS[:3], means[:, :3].T, strict=True))
        return simple | {"ece": means[:, 3:].abs().sum(1), "aurc": self._aurc(counts)}

    def calibrated_ece(self, number: int, level: float, seed: int) -> float:
        """Return the quantile of the ECE if an example is right as often as its confidence."""
        generator = torch.Generator().manual_seed(seed)
        count = len(self.confidence)
        bins = torch.nn.functional.one_hot(width_bins(self.confidence, _NUM_BINS), _NUM_BINS)
        parts = []
        rows = max(1, CHUNK // count)
        for start in range(0, number, rows):
            size = min(rows, number - start), count
            noise = torch.rand(size, generator=generator, dtype=torch.float64)
            gaps = (noise < self.confidence).double() - self.confidence
            parts.append((gaps @ bins.double() / count).abs().sum(1))
        return float(torch.cat(parts).quantile(level))

    def _aurc(self, counts: Tensor) -> Tensor:
        # Equally confident examples share their average loss m. A group of c after K examples with
        # losses L adds sum_j (L + j m) / (K + j) = c m + (L - m K) (H(K + c) - H(K)).
        sorted_counts = counts[:, self.order]
        answered = sorted_counts.cumsum(1)[:, self.last]
        lost = (sorted_counts * self.wrong[self.order]).cumsum(1)[:, self.last]
        size, loss = (
            total.diff(dim=1, prepend=total.new_zeros(len(total), 1)) for total in (answered, lost)
        )
        before = answered - size
        mean = loss / size.clamp(min=1.0)
        weight = self.harmonic[answered.long()] - self.harmonic[before.long()]
        terms = loss + (lost - loss - mean * before) * weight
        return terms.sum(1) / counts.shape[1]


class Pair:
    """Scores of the test set and of an OOD set; called with how often each example counts."""

    def __init__(self, inside: Tensor, outside: Tensor) -> None:
        inside, outside = tied(torch.cat([inside, outside])).split([len(inside), len(outside)])
        ordered, self.order = inside.sort()
        self.lower = torch.searchsorted(ordered, outside)
        self.upper = torch.searchsorted(ordered, outside, right=True)
        self.num_inside, self.num_outside = len(inside), len(outside)

    def __call__(self, inside: Tensor, outside: Tensor) -> Tensor:
        """Return the AUROC ``(R,)``: an OOD example scores higher; ties count half."""
        known = torch.nn.functional.pad(inside[:, self.order].cumsum(1), (1, 0))
        below = known[:, self.lower] + known[:, self.upper]
        return (outside * below).sum(1) / (2.0 * self.num_inside * self.num_outside)


def draw(number: int, size: int, generator: torch.Generator) -> Tensor:
    """Return how often each of ``size`` examples is in each of ``number`` resamples."""
    index = torch.randint(size, (number, size), generator=generator)
    counts = torch.zeros(number, size, dtype=torch.float64)
    return counts.scatter_add_(1, index, torch.ones_like(counts))
