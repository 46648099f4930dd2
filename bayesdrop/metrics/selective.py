"""Selective prediction: risk of the examples a network answers, against how many it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.metrics.arrays import check_index
from bayesdrop.metrics.checks import (
    Array,
    as_scores,
)
from bayesdrop.metrics.examples import as_examples
from bayesdrop.metrics.ties import share_ties, tied
from bayesdrop.record import Record, plain

_CURVE = ("threshold", "coverage", "risk")


@dataclass(frozen=True, eq=False)
class RiskCoverage(Record):
    """What ``risk_coverage`` returns: K points, one for each distinct confidence, float64.

    Args:
        threshold: Smallest confidence that is answered, falling, ``(K,)``.
        coverage: Share of the examples that are answered, rising to 1, ``(K,)``.
        risk: Average loss of those that are answered, ``(K,)``.
        aurc: Average of the risk over the coverages 1/N, 2/N, ..., 1.
        excess_aurc: ``aurc`` less that of the best possible order of the same losses.
        augrc: Average over the same coverages of risk times coverage.
        num_examples: Examples :math:`N`.
    """

    threshold: Tensor
    coverage: Tensor
    risk: Tensor
    aurc: float
    excess_aurc: float
    augrc: float
    num_examples: int

    def coverage_at_risk(self, target_risk: float) -> float:
        """Return the largest coverage of at most this risk; 0 if there is none."""
        reached = self.risk <= target_risk
        return float(self.coverage[reached].max()) if bool(reached.any()) else 0.0

    def risk_at_coverage(self, coverage: float) -> float:
        """Return the risk of the smallest coverage that is at least this one.

        Raises:
            ConfigError: If it is not in (0, 1].
        """
        if not 0.0 < coverage <= 1.0:
            raise ConfigError(
                "risk_at_coverage",
                expected="0 < coverage <= 1",
                got=f"coverage={coverage}",
                hint="Give a fraction: 80 % is 0.8.",
            )
        # The last coverage is exactly 1.
        return float(self.risk[(self.coverage >= coverage).nonzero()[0, 0]])

    @override
    def to_dict(self) -> dict[str, Any]:
        """Return the areas, the risk of answering all, and the curve at up to 101 points."""
        at = torch.linspace(0, len(self.risk) - 1, min(101, len(self.risk))).round().long()
        return {
            "aurc": self.aurc,
            "excess_aurc": self.excess_aurc,
            "augrc": self.augrc,
            "risk": float(self.risk[-1]),
            "num_examples": self.num_examples,
            "curve": plain({name: getattr(self, name)[at] for name in _CURVE}),
        }


def risk_coverage(
    predictions: Array, labels: Array, *, confidence: Array | None = None
) -> RiskCoverage:
    r"""Return the share of errors among the most confident examples, against how many there are.

    .. math::
        \mathrm{AURC} = \frac1N \sum_{k=1}^N r_k, \qquad r_k = \frac1k \sum_{i=1}^k \ell_{(i)}

    with losses :math:`\ell` (1 for a wrong class) from the most to the least confident example.
    Equally confident examples are answered together or not at all, and share their average loss
    in the areas, which is what a random order gives on average. Confidences within 1e-12 of their
    size are equal: they differ by rounding.

    Args:
        predictions: Probabilities ``(N, C)``, P(y = 1) of shape ``(N,)``, or posterior samples
            ``(S, N, C)``, which are averaged.
        labels: Integers ``(N,)``.
        confidence: Scores ``(N,)``, higher for an example to answer rather, such as
            ``-mutual_information``; None takes the probability of the most probable class.

    Raises:
        DataError: If the values make no sense; ``ShapeError`` if the shapes do not.

    References:
        Geifman, Uziel, El-Yaniv (2019), https://arxiv.org/abs/1805.08206; AUGRC: Traub et al.
        (2024), https://arxiv.org/abs/2407.01032. Deviation: the best order's area is that of the
        very losses, not its approximation :math:`r + (1 - r) \log(1 - r)`.

    Example:
        >>> curve = risk_coverage(torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 1]))
        >>> curve.coverage.tolist(), curve.risk.tolist(), curve.excess_aurc
        ([0.5, 1.0], [0.0, 0.5], 0.0)
    """
    losses, scores = losses_of("risk_coverage", predictions, labels, confidence)
    return curve_of(losses, scores)


def risk_coverage_of_losses(losses: Array, confidence: Array) -> RiskCoverage:
    """Return the same for losses of any kind, such as squared errors of a regression.

    Args:
        losses: ``(N,)``, not negative.
        confidence: ``(N,)``, higher for an example to answer rather, such as ``-variance``.

    Raises:
        DataError: If the values make no sense; ``ShapeError`` if the shapes do not.

    Example:
        >>> curve = risk_coverage_of_losses(torch.tensor([1.0, 3.0]), torch.tensor([0.9, 0.1]))
        >>> curve.risk.tolist()
        [1.0, 2.0]
    """
    who = "risk_coverage_of_losses"
    check_index(who, losses, confidence)
    values, scores = as_scores(who, "loss", losses), as_scores(who, "confidence", confidence)
    _require_same_length(who, values, scores)
    if values.min() < 0.0:
        raise DataError(
            who,
            expected="losses >= 0",
            got=f"{float(values.min()):g}",
            hint="Pass losses, not log-likelihoods or rewards.",
        )
    return curve_of(values, scores)


def curve_of(losses: Tensor, confidence: Tensor) -> RiskCoverage:
    """Return the risk-coverage curve of checked losses and confidences ``(N,)``, float64."""
    count = len(losses)
    ranks = torch.arange(1, count + 1, dtype=torch.float64)
    ordered, order = tied(confidence).sort(descending=True, stable=True)
    total = share_ties(losses[order], ordered).cumsum(0)
    best = losses.sort().values.cumsum(0)
    aurc = float((total / ranks).mean())
    last = torch.cat([ordered[1:] != ordered[:-1], torch.ones(1, dtype=torch.bool)])
    return RiskCoverage(
        threshold=ordered[last],
        coverage=ranks[last] / count,
        risk=(total / ranks)[last],
        aurc=aurc,
        # >= 0 but for rounding.
        excess_aurc=max(0.0, aurc - float((best / ranks).mean())),
        augrc=float(total.mean() / count),
        num_examples=count,
    )


def losses_of(
    who: str, predictions: Array, labels: Array, confidence: Array | None
) -> tuple[Tensor, Tensor]:
    """Return whether each example is wrong, 0 or 1, and its confidence, ``(N,)``, float64."""
    examples = as_examples(who, predictions, labels, average=True)
    losses, scores = (~examples.correct).double(), examples.confidence
    if confidence is not None:
        check_index(who, predictions, confidence)
        scores = as_scores(who, "confidence", confidence)
    _require_same_length(who, losses, scores)
    return losses, scores


def _require_same_length(who: str, losses: Tensor, scores: Tensor) -> None:
    if len(losses) != len(scores):
        raise ShapeError(
            who,
            expected=f"{len(losses)} confidences, one for each example",
            got=f"{len(scores)}",
            hint="Do both come from the same data?",
        )
