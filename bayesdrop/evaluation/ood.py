"""Out-of-distribution detection: scores, and how well they separate.

OOD is the positive class everywhere, and a higher score means more OOD.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from bayesdrop.errors import ConfigError, describe
from bayesdrop.evaluation.checks import Array, as_scores
from bayesdrop.inference.predict import Prediction


class OODMetrics(TypedDict):
    """Separation of OOD (positive) from in-distribution examples by one score."""

    auroc: float
    aupr: float
    fpr95: float


def ood_metrics(in_scores: Array, ood_scores: Array) -> OODMetrics:
    """Return how well a score separates OOD examples, the positives, from in-distribution ones.

    ``auroc``: probability that an OOD example scores higher (ties count half). ``aupr``: average
    precision with OOD positive; chance is the share of OOD examples. ``fpr95``: share of
    in-distribution examples flagged at the highest threshold that flags at least 95 % of the OOD
    examples; an example is flagged if its score reaches the threshold.

    Args:
        in_scores: Scores of in-distribution examples, ``(N,)``.
        ood_scores: Scores of OOD examples, ``(M,)``.

    Raises:
        DataError: If a set is empty or not finite; ``ShapeError`` if it is not ``(N,)``.

    Example:
        >>> ood_metrics(torch.zeros(3), torch.ones(2))["auroc"]
        1.0
    """
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

    inside = as_scores("ood_metrics", "in-distribution", in_scores)
    outside = as_scores("ood_metrics", "OOD", ood_scores)
    scores = torch.cat([inside, outside]).numpy()
    positive = np.repeat([0, 1], [len(inside), len(outside)])
    # Dropped collinear points could hide the first threshold that reaches 95 %.
    false_rate, true_rate, _ = roc_curve(positive, scores, drop_intermediate=False)
    return {
        "auroc": float(roc_auc_score(positive, scores)),
        "aupr": float(average_precision_score(positive, scores)),
        "fpr95": float(false_rate[np.argmax(true_rate >= 0.95)]),
    }


def uncertainty_scores(prediction: Prediction) -> dict[str, Tensor]:
    r"""Return the OOD scores of a classifier's prediction, each ``(N,)``, by name.

    ``entropy``: predictive entropy. ``max_probability``: :math:`1 - \max_c \bar p_{nc}`, for
    Bernoulli outputs the average of :math:`1 - \max(\bar p, 1 - \bar p)`. ``mutual_information``:
    only with several posterior samples, since it is zero with one.

    Args:
        prediction: What ``predict`` returned.

    Raises:
        ConfigError: If the prediction is a regression.

    Example:
        >>> import bayesdrop as bd
        >>> net = torch.nn.Sequential(bd.BetaBernoulliDropout(4), torch.nn.Linear(4, 3))
        >>> bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=100)
        >>> sorted(uncertainty_scores(bd.predict(bnn, torch.zeros(5, 4), num_samples=8)))
        ['entropy', 'max_probability', 'mutual_information']
    """
    entropy, confidence = prediction.predictive_entropy, prediction.confidence
    if entropy is None or confidence is None:
        raise ConfigError(
            describe(
                "uncertainty_scores",
                expected="a classifier's prediction",
                got="a regression's",
                hint="Score it with prediction.epistemic_variance and ood_metrics.",
            )
        )
    scores = {"entropy": entropy, "max_probability": 1.0 - confidence}
    if prediction.num_samples > 1 and prediction.mutual_information is not None:
        scores["mutual_information"] = prediction.mutual_information
    return scores
