"""Selective prediction: risk of the examples a network answers, against how many it answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.metrics.arrays import as_tensor
from bayesdrop.metrics.binomial import upper_bound
from bayesdrop.metrics.bins import share_ties
from bayesdrop.metrics.checks import (
    Array,
    as_mean_probabilities,
    as_scores,
    require_fraction,
)
from bayesdrop.metrics.examples import as_examples
from bayesdrop.record import Record, plain

# Coverages among which a bounded choice is made: each one costs some of the failure probability.
_CANDIDATES = 20

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
    in the areas, which is what a random order gives on average.

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
    losses, scores = _losses("risk_coverage", predictions, labels, confidence)
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


@dataclass(frozen=True)
class SelectiveThreshold(Record):
    """What ``select_threshold`` returns.

    Args:
        threshold: Answer where the confidence is greater; minus infinity answers all.
        coverage: Share of the validation examples that are answered.
        risk: Share of errors among them.
        risk_bound: What the risk on new data exceeds with at most ``failure_probability``; None
            without one.
        target_risk: As asked for.
        failure_probability: As asked for.
        num_examples: Validation examples.
    """

    threshold: float
    coverage: float
    risk: float
    risk_bound: float | None
    target_risk: float
    failure_probability: float | None
    num_examples: int

    def accept(self, confidence: Array) -> Tensor:
        """Return which examples to answer, booleans ``(N,)``.

        Args:
            confidence: Scores ``(N,)``, or probabilities ``(N, C)`` or ``(S, N, C)``, of which the
                most probable class's is taken.

        Raises:
            DataError: If the values make no sense; ``ShapeError`` if the shapes do not.
        """
        who = "SelectiveThreshold.accept"
        if as_tensor(who, confidence).ndim in (2, 3):
            return as_mean_probabilities(who, confidence).amax(1) > self.threshold
        return as_scores(who, "confidence", confidence) > self.threshold


def select_threshold(
    predictions: Array,
    labels: Array,
    *,
    target_risk: float,
    failure_probability: float | None = None,
    confidence: Array | None = None,
) -> SelectiveThreshold:
    r"""Choose, on validation data, how confident a network must be to answer.

    Without ``failure_probability`` the largest coverage whose share of errors on the validation
    data is at most ``target_risk`` is taken; on new data the share may come out higher. With it,
    say 0.05, the risk on new examples of the same distribution is at most ``target_risk`` except
    with that probability: the choice is among twenty coverages fixed in advance, 5 % to 100 %, and
    the Clopper-Pearson bound of each at ``failure_probability / 20`` must be below the target.

    Args:
        predictions: Probabilities ``(N, C)``, P(y = 1) of shape ``(N,)``, or posterior samples
            ``(S, N, C)``, which are averaged; of data not trained on.
        labels: Integers ``(N,)``.
        target_risk: Share of errors that is bearable, inside (0, 1).
        failure_probability: As above, inside (0, 1), or None.
        confidence: As in ``risk_coverage``.

    Raises:
        ConfigError: For bad options.
        DataError: If no coverage meets the target; if the values make no sense, ``ShapeError`` if
            the shapes do not.

    References:
        Geifman, El-Yaniv (2017), https://arxiv.org/abs/1705.08500. Deviation: the candidates are
        fixed ranks, not found by bisection on the same data, and the example that sets a threshold
        is not answered, so that the others above it are an independent sample and the bound holds
        exactly, with ties too.

    Example:
        >>> p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]])
        >>> chosen = select_threshold(p, torch.tensor([0, 0, 1]), target_risk=0.1)
        >>> chosen.accept(p).tolist()
        [True, True, False]
    """
    who = "select_threshold"
    require_fraction(who, "target_risk", target_risk)
    if failure_probability is not None:
        require_fraction(who, "failure_probability", failure_probability)
    losses, scores = _losses(who, predictions, labels, confidence)
    count = len(losses)
    ordered, order = scores.sort(descending=True, stable=True)
    errors = torch.cat([torch.zeros(1, dtype=torch.float64), losses[order].cumsum(0)])
    # The first example not answered sets the threshold; what equals it is not answered either.
    if failure_probability is None:
        refused = torch.arange(1, count)
    else:
        steps = torch.arange(1, _CANDIDATES)
        refused = torch.unique((steps * count + _CANDIDATES - 1) // _CANDIDATES)
        refused = refused[refused < count]
    threshold = torch.cat([ordered[refused], torch.tensor([-math.inf], dtype=torch.float64)])
    answered = torch.searchsorted(-ordered, -threshold)
    wrong = errors[answered]
    risk = wrong / answered
    bound = risk
    if failure_probability is not None:
        bound = upper_bound(wrong, answered, failure_probability / _CANDIDATES)
    possible = (answered > 0) & (bound <= target_risk)
    if not bool(possible.any()):
        best = float(bound[answered > 0].min())
        raise DataError(
            who,
            expected=f"some coverage with a risk of at most {target_risk:g}",
            got=f"{'a risk' if failure_probability is None else 'bounds'} from {best:.3g} up",
            hint="Allow more risk, or bring more validation data or a better network.",
        )
    chosen = int(torch.where(possible, answered, -1).argmax())
    return SelectiveThreshold(
        threshold=float(threshold[chosen]),
        coverage=float(answered[chosen]) / count,
        risk=float(risk[chosen]),
        risk_bound=None if failure_probability is None else float(bound[chosen]),
        target_risk=target_risk,
        failure_probability=failure_probability,
        num_examples=count,
    )


def curve_of(losses: Tensor, confidence: Tensor) -> RiskCoverage:
    """Return the risk-coverage curve of checked losses and confidences ``(N,)``, float64."""
    count = len(losses)
    ranks = torch.arange(1, count + 1, dtype=torch.float64)
    ordered, order = confidence.sort(descending=True, stable=True)
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


def _losses(
    who: str, predictions: Array, labels: Array, confidence: Array | None
) -> tuple[Tensor, Tensor]:
    examples = as_examples(who, predictions, labels, average=True)
    losses, scores = (~examples.correct).double(), examples.confidence
    if confidence is not None:
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
