"""Every figure of merit of a network on a test set, from one prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from bayesdrop.errors import ConfigError, DataError
from bayesdrop.inference.batches import Data
from bayesdrop.inference.predict import predict
from bayesdrop.metrics.brier import BrierDecomposition, brier_decomposition
from bayesdrop.metrics.calibration import (
    adaptive_calibration_error,
    classwise_calibration_error,
    expected_calibration_error,
    maximum_calibration_error,
)
from bayesdrop.metrics.classification import (
    brier_score,
    error_percent,
    negative_log_likelihood,
)
from bayesdrop.metrics.coverage import interval_coverage
from bayesdrop.metrics.crps import continuous_ranked_probability_score
from bayesdrop.metrics.ood import OODMetrics, ood_metrics, uncertainty_scores
from bayesdrop.metrics.prediction import Prediction
from bayesdrop.metrics.regression import root_mean_squared_error
from bayesdrop.metrics.selective import risk_coverage
from bayesdrop.program.program import Program

COVERAGE_LEVELS = (0.5, 0.9, 0.95)
_CLASSIFICATION = ("error", "brier", "ece", "adaptive_ece", "mce", "classwise_ece", "aurc")
_NUMBERS = ("nll", *_CLASSIFICATION, "excess_aurc", "rmse", "crps")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What ``evaluate`` returns.

    Args:
        nll: Negative log-likelihood in nats per example: of the averaged probabilities, or of the
            mixture of the samples' densities.
        num_samples: Posterior samples behind the figures; 1 for a mean mask.
        prediction: The prediction of the test set.
        error: Share of wrong classes, in percent; classifiers only.
        brier: Brier score, summed over classes; classifiers only.
        ece: Expected calibration error with 15 bins over the whole set; classifiers only.
        adaptive_ece: The same with bins of equal mass; classifiers only.
        mce: Largest gap of any of ECE's bins; classifiers only.
        classwise_ece: Calibration error averaged over classes; classifiers only, and only if the
            test set has several classes.
        brier_parts: Reliability, resolution and uncertainty; as for ``classwise_ece``. Of several
            Bernoulli outputs, the average.
        aurc: Area under the risk-coverage curve; classifiers only.
        excess_aurc: The same less that of the best order; classifiers only.
        rmse: Root mean squared error, in the units of ``y``; regression only.
        crps: Continuous ranked probability score, in the units of ``y``; regression with normal
            noise only, and only with ``keep_samples``, since it compares all pairs of samples.
        coverage: Nominal probability to the share of targets inside the central interval of that
            probability; regression only, and only if the likelihood has a ``cdf``.
        ood: Data set name to score name to AUROC, AUPR and FPR95, OOD being positive.
    """

    nll: float
    num_samples: int
    prediction: Prediction
    error: float | None = None
    brier: float | None = None
    ece: float | None = None
    adaptive_ece: float | None = None
    mce: float | None = None
    classwise_ece: float | None = None
    brier_parts: BrierDecomposition | None = None
    aurc: float | None = None
    excess_aurc: float | None = None
    rmse: float | None = None
    crps: float | None = None
    coverage: dict[float, float] | None = None
    ood: dict[str, dict[str, OODMetrics]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures that apply, as plain numbers, without the prediction."""
        figures: dict[str, Any] = {name: getattr(self, name) for name in _NUMBERS}
        if self.brier_parts is not None:
            figures["brier_parts"] = self.brier_parts.to_dict()
        if self.coverage is not None:
            figures["coverage"] = {f"{level:g}": v for level, v in self.coverage.items()}
        present = {k: v for k, v in figures.items() if v is not None}
        ood = {
            name: {score: dict(values) for score, values in scores.items()}
            for name, scores in self.ood.items()
        }
        return present | {"ood": ood, "num_samples": self.num_samples}


def evaluate(
    bnn: Program,
    data: Data,
    *,
    ood: Mapping[str, Data] | None = None,
    num_samples: int = 64,
    sample: bool = True,
    shared_by: Literal["batch", "example"] = "batch",
    batch_size: int | None = None,
    memory_limit: int = 2**30,
    keep_samples: bool = False,
    seed: int | None = None,
) -> Evaluation:
    """Evaluate a network on a test set and, optionally, on out-of-distribution inputs.

    A likelihood with several labels an example (Bernoulli outputs, classes of pixels) is evaluated
    as that many problems: error and ECE are taken over all of them, NLL and Brier score are summed
    over the labels of an example; calibration and selection take each for an example. Missing
    labels are left out. The mutual-information
    score is left out where there is one posterior sample.

    Args:
        bnn: The Bayesian network.
        data: ``(x, y)``, a Dataset or a DataLoader.
        ood: Name to inputs the network was not trained for; their targets are not looked at.
            Classifiers only.
        num_samples: Posterior samples.
        sample: Whether to sample; False runs once with the mean masks.
        shared_by: As in ``predict``.
        batch_size: As in ``predict``.
        memory_limit: As in ``predict``, in bytes.
        keep_samples: Whether ``prediction`` keeps each posterior sample; for regression then also
            the CRPS.
        seed: Makes the draw reproducible; the OOD sets then meet the same posterior samples.

    Raises:
        DataError: If the data has no targets, or they do not fit the likelihood.
        ConfigError: For bad options, or OOD sets with a regression.

    Example:
        >>> import torch, bayesdrop as bd
        >>> net = torch.nn.Sequential(bd.BetaBernoulliDropout(4), torch.nn.Linear(4, 3))
        >>> bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=100)
        >>> test = torch.zeros(5, 4), torch.arange(5) % 3
        >>> result = evaluate(bnn, test, ood={"ones": torch.ones(6, 4)}, num_samples=8)
        >>> {"aurc", "brier", "ece", "error", "nll", "ood"} <= result.to_dict().keys()
        True
    """
    if ood and isinstance(bnn, Program) and not bnn.likelihood.is_classifier:
        raise ConfigError(
            "evaluate",
            expected="a classifier for ood=...",
            got=f"likelihood {type(bnn.likelihood).__name__}",
            hint="For regression score predict(...).epistemic_variance with ood_metrics.",
        )

    def run(data: Data, keep_samples: bool) -> Prediction:
        return predict(
            bnn,
            data,
            num_samples=num_samples,
            sample=sample,
            shared_by=shared_by,
            batch_size=batch_size,
            memory_limit=memory_limit,
            keep_samples=keep_samples,
            seed=seed,
        )

    prediction = run(data, keep_samples)
    if prediction.y is None:
        raise DataError(
            "evaluate",
            expected="data with targets",
            got="inputs alone",
            hint="Pass (x, y), or use predict for inputs without targets.",
        )
    return Evaluation(
        prediction=prediction,
        num_samples=prediction.num_samples,
        ood=_evaluate_ood(prediction, {name: run(d, False) for name, d in (ood or {}).items()}),
        **_figures(bnn, prediction, prediction.y),
    )


def _figures(bnn: Program, prediction: Prediction, y: Tensor) -> dict[str, Any]:
    if not bnn.likelihood.is_classifier:
        return _regression_figures(prediction, y)
    probabilities, y = bnn.likelihood.flatten_labels(prediction.mean, y)
    if len(y) == 0:
        raise DataError(
            "evaluate",
            expected="at least one label",
            got=f"{len(prediction.mean)} examples, all labels missing",
            hint="Use predict for inputs without targets.",
        )
    outputs = len(y) / len(prediction.mean)
    curve = risk_coverage(probabilities, y)
    figures: dict[str, Any] = {
        "error": error_percent(probabilities, y),
        "nll": negative_log_likelihood(probabilities, y) * outputs,
        "brier": brier_score(probabilities, y) * outputs,
        "ece": expected_calibration_error(probabilities, y),
        "adaptive_ece": adaptive_calibration_error(probabilities, y),
        "mce": maximum_calibration_error(probabilities, y),
        "aurc": curve.aurc,
        "excess_aurc": curve.excess_aurc,
    }
    if len(y.unique()) > 1:
        figures["classwise_ece"] = classwise_calibration_error(probabilities, y)
        figures["brier_parts"] = brier_decomposition(probabilities, y)
    return figures


def _regression_figures(prediction: Prediction, y: Tensor) -> dict[str, Any]:
    figures: dict[str, Any] = {"rmse": root_mean_squared_error(prediction.mean, y)}
    if prediction.log_likelihood is not None:
        figures["nll"] = -float(prediction.log_likelihood.double().mean())
    if prediction.pit is not None:
        figures["coverage"] = {p: interval_coverage(prediction.pit, p) for p in COVERAGE_LEVELS}
    if prediction.samples is not None and prediction.sample_variances is not None:
        figures["crps"] = continuous_ranked_probability_score(
            prediction.samples, y, prediction.sample_variances
        )
    return figures


def _evaluate_ood(
    inside: Prediction, sets: Mapping[str, Prediction]
) -> dict[str, dict[str, OODMetrics]]:
    if not sets:
        return {}
    in_scores = uncertainty_scores(inside)
    return {
        name: {
            score: ood_metrics(in_scores[score], values)
            for score, values in uncertainty_scores(outside).items()
        }
        for name, outside in sets.items()
    }
