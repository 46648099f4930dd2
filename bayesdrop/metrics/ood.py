"""Out-of-distribution detection: scores, and how well they separate.

OOD is the positive class everywhere, and a higher score means more OOD.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypedDict

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from bayesdrop.errors import ConfigError, DataError, ShapeError, unknown_name
from bayesdrop.metrics.arrays import as_tensor
from bayesdrop.metrics.checks import Array, as_scores
from bayesdrop.metrics.options import require_names
from bayesdrop.metrics.prediction import Prediction
from bayesdrop.metrics.ties import of_one_precision, tied
from bayesdrop.metrics.uncertainty import parts_of
from bayesdrop.record import TableRecord

Scorable: TypeAlias = "Prediction | Mapping[str, Array] | Array"
"""A prediction, scores by name, scores ``(N,)``, or probabilities ``(N, C)`` or ``(S, N, C)``."""


class OODMetrics(TypedDict):
    """Separation of OOD (positive) from in-distribution examples by one score."""

    auroc: float
    aupr: float
    aupr_in: float
    fpr95: float
    detection_error: float


def ood_metrics(in_scores: Array, ood_scores: Array) -> OODMetrics:
    r"""Return how well a score separates OOD examples, the positives, from in-distribution ones.

    ``auroc``: probability that an OOD example scores higher (ties count half). ``aupr``: average
    precision with OOD positive ("AUPR out"); chance is the share of OOD examples. ``aupr_in``: the
    same with in-distribution positive and the score's sign turned. ``fpr95``: share of
    in-distribution examples flagged at the highest threshold that flags at least 95 % of the OOD
    examples; an example is flagged if its score reaches the threshold. ``detection_error``:
    smallest error of any threshold if both kinds are equally frequent,
    :math:`\min_t \frac12 (1 - \mathrm{TPR}_t + \mathrm{FPR}_t)`.

    Scores within 1e-12 of their size are ties, as they differ by rounding, and sets of two dtypes
    are compared in the coarser one.

    Args:
        in_scores: Scores of in-distribution examples, ``(N,)``.
        ood_scores: Scores of OOD examples, ``(M,)``.

    Raises:
        DataError: If a set is empty or not finite; ``ShapeError`` if it is not ``(N,)``.

    References:
        Liang, Li, Srikant (2018), https://arxiv.org/abs/1706.02690; Lee et al. (2018),
        https://arxiv.org/abs/1807.03888.
        Deviation: both take in-distribution as positive, which gives another FPR95. Their
        detection error is at a true positive rate of 95 % in the first, and ours in the second.

    Example:
        >>> ood_metrics(torch.zeros(3), torch.ones(2))["auroc"]
        1.0
    """
    from sklearn.metrics import auc, average_precision_score, roc_curve

    who = "ood_metrics"
    first, second = of_one_precision(as_tensor(who, in_scores), as_tensor(who, ood_scores))
    inside = as_scores(who, "in-distribution", first)
    outside = as_scores(who, "OOD", second)
    scores = tied(torch.cat([inside, outside])).numpy()
    positive = np.repeat([0, 1], [len(inside), len(outside)])
    # Dropped collinear points could hide the first threshold that reaches 95 %.
    false_rate, true_rate, _ = roc_curve(positive, scores, drop_intermediate=False)
    return {
        "auroc": float(auc(false_rate, true_rate)),
        "aupr": float(average_precision_score(positive, scores)),
        "aupr_in": float(average_precision_score(1 - positive, -scores)),
        "fpr95": float(false_rate[np.argmax(true_rate >= 0.95)]),
        "detection_error": float(0.5 * np.min(1.0 - true_rate + false_rate)),
    }


def uncertainty_scores(
    prediction: Prediction | Array, *, logits: Array | None = None
) -> dict[str, Tensor]:
    r"""Return the OOD scores of a classifier's prediction, each ``(N,)``, by name.

    All have one sign: the higher, the more OOD.

    ``entropy``: predictive entropy. ``max_probability``: :math:`1 - \max_c \bar p_{nc}`, for
    Bernoulli outputs the average of :math:`1 - \max(\bar p, 1 - \bar p)`. ``mutual_information``:
    only with several posterior samples, since it is zero with one. From the logits
    :math:`f_{nsc}`, where there are any: ``energy``,
    :math:`-\frac1S \sum_s \log \sum_c e^{f_{nsc}}`, and ``logit_norm``, minus the norm of the
    expected logits, :math:`-\lVert \frac1S \sum_s f_{ns} \rVert_2`. These two change if a constant
    is added to an example's logits, which the probabilities do not notice. Where an example has
    many labels, such as one a pixel, its score is the average over all of them, labelled or not.

    Args:
        prediction: What ``predict`` returned, or probabilities: ``(N, C)``, or ``(S, N, C)`` for
            S posterior samples or ensemble members.
        logits: Goes with an array of probabilities: their logits, of the same shape.

    Raises:
        ConfigError: If the prediction is a regression.
        DataError: If an array makes no sense; ``ShapeError`` if its shape does not.

    References:
        Energy: Liu, Wang, Owens, Li (2020), https://arxiv.org/abs/2010.03759, at temperature 1,
        averaged over posterior samples.

    Example:
        >>> import bayesdrop as bd
        >>> net = torch.nn.Sequential(bd.BetaBernoulliDropout(4), torch.nn.Linear(4, 3))
        >>> bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=100)
        >>> sorted(uncertainty_scores(bd.predict(bnn, torch.zeros(5, 4), num_samples=8)))
        ['energy', 'entropy', 'logit_norm', 'max_probability', 'mutual_information']
    """
    if not isinstance(prediction, Prediction):
        prediction = _prediction(prediction, logits)
    entropy, confidence = prediction.predictive_entropy, prediction.confidence
    if entropy is None or confidence is None:
        raise ConfigError(
            "uncertainty_scores",
            expected="a classifier's prediction",
            got="a regression's",
            hint="Score it with prediction.epistemic_variance and ood_metrics.",
        )
    scores = {"entropy": entropy, "max_probability": 1.0 - confidence}
    if prediction.num_samples > 1 and prediction.mutual_information is not None:
        scores["mutual_information"] = prediction.mutual_information
    if prediction.energy is not None:
        scores["energy"] = prediction.energy
    if prediction.logit_norm is not None:
        scores["logit_norm"] = -prediction.logit_norm
    return {name: by_example(values) for name, values in scores.items()}


def by_example(values: Tensor) -> Tensor:
    """Return the average over the labels of each example, ``(N, ...)`` to ``(N,)``.

    Args:
        values: Scores of all labels.
    """
    return values.flatten(1).mean(1) if values.ndim > 1 else values


@dataclass(frozen=True)
class OODTable(TableRecord):
    """Several OOD sets against one in-distribution set.

    Args:
        metrics: OOD set (or group of sets) to score to metrics.
        groups: Group to its sets; a group's metrics are the plain averages of theirs.
    """

    metrics: dict[str, dict[str, OODMetrics]]
    groups: dict[str, tuple[str, ...]]
    text_columns = 2

    @override
    def table(self) -> tuple[list[str], list[list[str]]]:
        rows = []
        for name, scores in self.metrics.items():
            members = f" (mean of {len(self.groups[name])})" if name in self.groups else ""
            for score, values in scores.items():
                numbers = [f"{value:.4f}" for value in values.values()]
                rows.append([name + members, score, *numbers])
        return ["OOD set", "score", *OODMetrics.__annotations__], rows


def compare_ood(
    inside: Scorable,
    outside: Mapping[str, Scorable],
    *,
    groups: Mapping[str, str | Sequence[str]] | None = None,
) -> OODTable:
    """Return how well every score separates several OOD sets from one in-distribution set.

    Args:
        inside: The in-distribution test set: a prediction, scores by name, scores ``(N,)``, or
            probabilities ``(N, C)`` or ``(S, N, C)``. Predict all sets with one ``seed``: they
            then meet the same posterior samples.
        outside: OOD set's name to the same.
        groups: Name to OOD sets that are averaged, or to one, such as
            ``{"near": ["fashion-mnist"], "far": ["noise", "digits"]}``.

    Raises:
        ConfigError: If there is no OOD set, a group is empty or clashes with a set, or a group's
            set is unknown.
        DataError: If two sets do not have the same scores.

    Example:
        >>> table = compare_ood(torch.zeros(3), {"near": torch.ones(2), "far": torch.ones(4)})
        >>> table.metrics["far"]["score"]["auroc"]
        1.0
    """
    who = "compare_ood"
    require_names(who, "outside", outside, "OOD set")
    require_names(who, "groups", groups, "group")
    members = {name: _members(sets) for name, sets in (groups or {}).items()}
    _check_groups(outside or {}, members)
    own = _scores(inside)
    metrics: dict[str, dict[str, OODMetrics]] = {}
    for name, value in outside.items():
        known, scores = _scores_of_both(inside, value) or (own, _scores(value))
        if set(scores) != set(own):
            raise DataError(
                "compare_ood",
                expected=f"the scores {sorted(own)} of the in-distribution set",
                got=f"{sorted(scores)} for {name!r}",
                hint="Predict all sets in the same way and with as many posterior samples.",
            )
        metrics[name] = {score: ood_metrics(known[score], scores[score]) for score in own}
    sets = dict(metrics)
    for group, names in members.items():
        metrics[group] = {score: _average([sets[n][score] for n in names]) for score in own}
    return OODTable(metrics, members)


def _members(sets: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(sets, str) or not isinstance(sets, Iterable):
        return (sets,)
    return tuple(sets)


def _average(metrics: Sequence[OODMetrics]) -> OODMetrics:
    mean = {key: float(np.mean([dict(m)[key] for m in metrics])) for key in metrics[0]}
    return OODMetrics(**mean)  # type: ignore[typeddict-item]


def _scores(value: Scorable) -> dict[str, Tensor]:
    if isinstance(value, Mapping):
        return {name: as_tensor("compare_ood", scores) for name, scores in value.items()}
    if not isinstance(value, Prediction) and as_tensor("compare_ood", value).ndim == 1:
        return {"score": as_tensor("compare_ood", value)}
    return uncertainty_scores(value)


def _scores_of_both(first: Scorable, second: Scorable) -> tuple[dict[str, Tensor], ...] | None:
    """Return the scores of two arrays of different dtypes, both in the coarser one; else None."""
    if isinstance(first, Prediction | Mapping) or isinstance(second, Prediction | Mapping):
        return None
    given = as_tensor("compare_ood", first), as_tensor("compare_ood", second)
    return (
        tuple(map(_scores, of_one_precision(*given))) if given[0].dtype != given[1].dtype else None
    )


def _check_groups(sets: Mapping[str, object], groups: Mapping[str, Sequence[str]]) -> None:
    clash = [name for name, members in groups.items() if name in sets or not members]
    if not sets or clash:
        raise ConfigError(
            "compare_ood",
            expected="at least one OOD set, and groups of sets under names of their own",
            got=f"sets {sorted(sets)} and groups {dict(groups)}",
            hint='For example groups={"near": ["a", "b"], "far": ["c"]}.',
        )
    for name in (member for members in groups.values() for member in members):
        if name not in sets:
            raise unknown_name("OOD set", name, sets)


def _prediction(probabilities: Array, logits: Array | None) -> Prediction:
    samples = as_tensor("uncertainty_scores", probabilities).to("cpu", torch.float64)
    if samples.ndim not in (2, 3) or samples.shape[-1] < 2:
        raise ShapeError(
            "uncertainty_scores",
            expected="probabilities of shape (N, classes) or (samples, N, classes)",
            got=str(tuple(samples.shape)),
            hint="Two classes? Pass torch.stack([1 - p, p], -1).",
        )
    parts = parts_of("uncertainty_scores", samples)
    energy = norm = None
    if logits is not None:
        values = as_tensor("uncertainty_scores", logits).to("cpu", torch.float64)
        if values.shape != samples.shape:
            raise ShapeError(
                "uncertainty_scores",
                expected=f"logits of shape {tuple(samples.shape)}",
                got=str(tuple(values.shape)),
                hint="Pass the logits whose softmax the probabilities are.",
            )
        values = values.reshape(-1, *samples.shape[-2:])
        energy, norm = -values.logsumexp(-1).mean(0), values.mean(0).norm(dim=-1)
    return Prediction(
        mean=parts.mean,
        num_samples=parts.num_samples,
        confidence=parts.mean.amax(-1),
        predictive_entropy=parts.predictive_entropy,
        expected_entropy=parts.expected_entropy,
        mutual_information=parts.mutual_information,
        energy=energy,
        logit_norm=norm,
    )
