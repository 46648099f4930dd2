"""Thresholds with a guarantee: of confidence, for a risk; of an OOD score, for false alarms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bayesdrop.errors import DataError
from bayesdrop.metrics.arrays import as_tensor
from bayesdrop.metrics.binomial import upper_bound
from bayesdrop.metrics.checks import Array, as_mean_probabilities, as_scores
from bayesdrop.metrics.conformal import conformal_rank
from bayesdrop.metrics.options import require_fraction
from bayesdrop.metrics.selective import losses_of
from bayesdrop.record import Record

# Coverages at which a bounded choice starts; each has its share of the failure probability.
_STARTS = (0.1, 0.3)
_STEP = 0.05


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
    say :math:`\delta = 0.05`, the risk on new examples of the same distribution is at most
    ``target_risk`` except with that probability. Coverages are then tested one after the other,
    from 10 % up in steps of 5 %, and again from 30 % up, until the Clopper-Pearson bound at
    :math:`\delta / 2` is above the target; the largest coverage that was passed is taken. What is
    tested in a fixed order until the first failure costs no union bound over its length.

    Args:
        predictions: Probabilities ``(N, C)``, P(y = 1) of shape ``(N,)``, or posterior samples
            ``(S, N, C)``, which are averaged; of data not trained on.
        labels: Integers ``(N,)``.
        target_risk: Share of errors that is bearable, inside (0, 1).
        failure_probability: As above, inside (0, 1), or None. A small one needs data: with fewer
            than :math:`\log(\delta / 2) / \log(1 - r)` answered examples no bound is below
            :math:`r`, whatever the network (36 for 0.05 and 10 % risk).
        confidence: As in ``risk_coverage``.

    Raises:
        ConfigError: For bad options.
        DataError: If no coverage meets the target; if the values make no sense, ``ShapeError`` if
            the shapes do not.

    References:
        Angelopoulos, Bates, Candes, Jordan, Lei (2021), "Learn then Test", section 2.3.2,
        https://arxiv.org/abs/2110.01052; selective prediction: Geifman, El-Yaniv (2017),
        https://arxiv.org/abs/1705.08500.
        Deviation: what is tested are ranks, not values of the threshold, and the example that sets
        a threshold is not answered, so that the others above it are an independent sample, with
        ties too. The guarantee is exact where the risk does not fall again as more is answered
        once it has passed the target: that is what confidence is for.

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
    losses, scores = losses_of(who, predictions, labels, confidence)
    count = len(losses)
    ordered, order = scores.sort(descending=True, stable=True)
    errors = torch.cat([torch.zeros(1, dtype=torch.float64), losses[order].cumsum(0)])
    if failure_probability is None:
        sequences = [_Candidates.at(ordered, errors, torch.arange(1, count))]
        possible = [sequences[0].bound <= target_risk]
    else:
        failure = failure_probability / len(_STARTS)
        # Fewer cannot pass, even without an error, and are not tested.
        fewest = math.ceil(math.log(failure) / math.log1p(-target_risk))
        step = max(1, math.ceil(_STEP * count))
        sequences, possible = [], []
        for start in _STARTS:
            first = min(max(math.ceil(start * count), fewest), count)
            found = _Candidates.at(ordered, errors, torch.arange(first, count, step), failure)
            sequences.append(found.with_at_least(fewest))
            possible.append((sequences[-1].bound <= target_risk).cumprod(0).bool())
    merged = _Candidates(*(torch.cat(parts) for parts in zip(*sequences, strict=True)))
    passed = torch.cat(possible)
    if not bool(passed.any()):
        best = float(merged.bound.min()) if len(passed) else 1.0
        raise DataError(
            who,
            expected=f"some coverage with a risk of at most {target_risk:g}",
            got=f"{'a risk' if failure_probability is None else 'bounds'} from {best:.3g} up",
            hint="Allow more risk, or bring more validation data or a better network.",
        )
    chosen = int(torch.where(passed, merged.answered, -1).argmax())
    return SelectiveThreshold(
        threshold=float(merged.threshold[chosen]),
        coverage=float(merged.answered[chosen]) / count,
        risk=float(merged.risk[chosen]),
        risk_bound=None if failure_probability is None else float(merged.bound[chosen]),
        target_risk=target_risk,
        failure_probability=failure_probability,
        num_examples=count,
    )


class _Candidates(NamedTuple):
    # Thresholds from the strictest on, the last of which answers all.
    threshold: Tensor
    answered: Tensor
    risk: Tensor
    bound: Tensor

    @classmethod
    def at(
        cls, ordered: Tensor, errors: Tensor, refused: Tensor, failure: float | None = None
    ) -> _Candidates:
        """Return those that the examples of some ranks set, which are the first not answered."""
        # What equals a threshold is not answered either.
        threshold = torch.cat([ordered[refused], ordered.new_tensor([-math.inf])])
        answered = torch.searchsorted(-ordered, -threshold)
        wrong, risk = errors[answered], errors[answered] / answered
        bound = risk if failure is None else upper_bound(wrong, answered, failure)
        return cls(threshold, answered, risk, bound).with_at_least(1)

    def with_at_least(self, fewest: int) -> _Candidates:
        """Return those that answer so many examples."""
        return _Candidates(*(values[self.answered >= fewest] for values in self))


@dataclass(frozen=True)
class OODThreshold(Record):
    """What ``select_ood_threshold`` returns.

    Args:
        threshold: What scores more is flagged.
        flagged: Share of the in-distribution examples that are flagged.
        rate_bound: What the false-alarm rate on new data exceeds with at most
            ``failure_probability``; None without one.
        false_alarm_rate: As asked for.
        failure_probability: As asked for.
        num_examples: In-distribution examples.
    """

    threshold: float
    flagged: float
    rate_bound: float | None
    false_alarm_rate: float
    failure_probability: float | None
    num_examples: int

    def flag(self, scores: Array) -> Tensor:
        """Return which examples to take for out-of-distribution, booleans ``(N,)``.

        Args:
            scores: ``(N,)``, higher for what is farther out.

        Raises:
            DataError: If the values make no sense; ``ShapeError`` if the shapes do not.
        """
        return as_scores("OODThreshold.flag", "OOD", scores) > self.threshold


def select_ood_threshold(
    scores: Array, *, false_alarm_rate: float, failure_probability: float | None = None
) -> OODThreshold:
    r"""Choose, on in-distribution data alone, above which score an input is out of distribution.

    Without ``failure_probability`` a new in-distribution example is flagged with probability at
    most ``false_alarm_rate``, on average over validation sets: the threshold is the order
    statistic of conformal prediction. With it, say 0.05, the share of false alarms among all new
    in-distribution examples is at most ``false_alarm_rate`` except with that probability. As the
    share can only grow with every example more that is flagged, the test of one number of flagged
    examples after the other, as in ``select_threshold``, is one Clopper-Pearson bound.

    How many inputs of other distributions are then found, no in-distribution data can tell: see
    ``compare_ood``.

    Args:
        scores: Of in-distribution data not trained on, ``(N,)``, higher for what is farther out;
            see ``uncertainty_scores``.
        false_alarm_rate: Share of in-distribution examples that may be flagged, inside (0, 1).
        failure_probability: As above, inside (0, 1), or None.

    Raises:
        ConfigError: For bad options.
        DataError: If there are too few examples for that rate, or the values make no sense;
            ``ShapeError`` if the shapes do not.

    References:
        Bates, Candes, Lei, Romano, Sesia (2023), "Testing for outliers with conformal p-values",
        https://arxiv.org/abs/2104.08279; Clopper, Pearson (1934).

    Example:
        >>> chosen = select_ood_threshold(torch.arange(99.0), false_alarm_rate=0.05)
        >>> chosen.threshold, chosen.flag(torch.tensor([3.0, 200.0])).tolist()
        (94.0, [False, True])
    """
    who = "select_ood_threshold"
    require_fraction(who, "false_alarm_rate", false_alarm_rate)
    values = as_scores(who, "OOD", scores).sort().values
    count = len(values)
    if failure_probability is None:
        rank = conformal_rank(who, count, false_alarm_rate)
        bound = None
    else:
        require_fraction(who, "failure_probability", failure_probability)
        flagged = torch.arange(count)
        bounds = upper_bound(flagged, torch.tensor(count), failure_probability)
        allowed = int((bounds <= false_alarm_rate).sum())
        if not allowed:
            least = math.ceil(math.log(failure_probability) / math.log1p(-false_alarm_rate))
            raise DataError(
                who,
                expected=f"at least {least} examples for a rate of {false_alarm_rate:g} with "
                f"probability {1 - failure_probability:g}",
                got=f"{count}",
                hint="Bring more validation data, or allow more false alarms.",
            )
        rank, bound = count - (allowed - 1), float(bounds[allowed - 1])
    threshold = float(values[rank - 1])
    return OODThreshold(
        threshold=threshold,
        flagged=float((values > threshold).double().mean()),
        rate_bound=bound,
        false_alarm_rate=false_alarm_rate,
        failure_probability=failure_probability,
        num_examples=count,
    )
