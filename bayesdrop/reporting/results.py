"""What one method makes of the test set, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bayesdrop.diagnostics.evaluator import figures_of, monte_carlo_error_of, ood_errors
from bayesdrop.errors import DataError
from bayesdrop.inference.predict import predict_in_groups
from bayesdrop.metrics import ClassifierFigures, RegressionFigures, compare_ood, uncertainty_scores
from bayesdrop.metrics.ood import OODMetrics
from bayesdrop.metrics.prediction import Prediction
from bayesdrop.program.inputs import GivenInputs, Inputs
from bayesdrop.program.network import BayesianNetwork

Pair = tuple[Inputs, Tensor]
"""Inputs and targets."""

GivenPair = tuple[GivenInputs, Tensor] | Dataset[Any] | DataLoader[Any]
"""What users pass for them."""

SHOWN_SCORES = ("entropy", "mutual_information", "energy")
"""Scores that figures show; tables have all."""


def check_pair(who: str, name: str, given: object) -> None:
    """Raise ``DataError`` unless something is inputs and targets, in a tuple or list.

    Args:
        who: Who asks, for the message.
        name: The argument's.
        given: Anything. A tensor of two rows has two entries as well, and is no pair.
    """
    if not isinstance(given, tuple | list) or len(given) != 2:
        many = f"{len(given)} entries" if isinstance(given, tuple | list) else None
        raise DataError(
            who,
            expected=f"{name} to be a pair, of inputs (or probabilities) and targets",
            got=many or ("None" if given is None else f"a {type(given).__name__}"),
            hint="For example (x_test, y_test).",
        )


@dataclass(frozen=True, eq=False)
class MethodResult:
    """One method's line in the comparison, and what it was computed from.

    Args:
        title: What to call it.
        figures: Figures of merit on the test set.
        prediction: Of the test set.
        outside: OOD set to its prediction.
        ood: OOD set to score to how well the score tells it from the test set.
        probabilities: Of each label, as ``Likelihood.flatten_labels`` has them; None of a
            regression.
        labels: The labels; None of a regression.
        units: Units kept by each dropout layer, or the widths of a network without.
        params: Parameters of the network that predicts.
        flops: Operations per example, multiply and add both counted.
        latency_ms: Measured milliseconds per batch; None if not measured.
        monte_carlo_error: Figure to its Monte Carlo standard error, as ``evaluate`` has it.
    """

    title: str
    figures: ClassifierFigures | RegressionFigures
    prediction: Prediction = field(repr=False)
    outside: dict[str, Prediction] = field(default_factory=dict, repr=False)
    ood: dict[str, dict[str, OODMetrics]] = field(default_factory=dict)
    probabilities: Tensor | None = field(default=None, repr=False)
    labels: Tensor | None = field(default=None, repr=False)
    units: Sequence[int] = ()
    params: int | None = None
    flops: int | None = None
    latency_ms: float | None = None
    monte_carlo_error: dict[str, float] = field(default_factory=dict)

    def headline(self) -> dict[str, float | dict[float, float] | None]:
        """Return the figures that ``report.json`` has for each method."""
        names = ("error", "nll", "brier", "ece")
        if isinstance(self.figures, RegressionFigures):
            names = ("rmse", "nll", "crps", "coverage")
        return {name: getattr(self.figures, name) for name in names}

    def auroc(self, name: str) -> float | None:
        """Return the AUROC of the predictive entropy on an OOD set; None if it was not asked."""
        return self.ood[name]["entropy"]["auroc"] if name in self.ood else None

    def shown_scores(self) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
        """Return the scores that figures show, of the test set and of each OOD set."""
        inside, *outside = (
            {k: v for k, v in uncertainty_scores(prediction).items() if k in SHOWN_SCORES}
            for prediction in (self.prediction, *self.outside.values())
        )
        return inside, dict(zip(self.outside, outside, strict=True))


def measure_method(
    title: str,
    network: BayesianNetwork,
    test: Pair,
    ood: Mapping[str, Tensor],
    *,
    sample: bool = False,
    num_samples: int = 64,
    seed: int = 0,
) -> MethodResult:
    """Return what a network makes of the test set and of inputs from elsewhere.

    Args:
        title: What to call it.
        network: The network.
        test: Test inputs and targets.
        ood: OOD set to inputs; of a classifier only.
        sample: Whether to average over posterior samples.
        num_samples: How many.
        seed: Of the samples, the same for all sets.

    Raises:
        DataError: If there is no target, or one does not fit the likelihood.
    """
    classifier = network.likelihood.is_classifier

    options: dict[str, Any] = {"sample": sample, "num_samples": num_samples, "seed": seed}
    # The CRPS is that of the samples' mixture.
    prediction, groups = predict_in_groups(
        network, test, keep_samples=not classifier, bar="predict", **options
    )
    figures = figures_of(network, prediction)
    outside, groups_outside = {}, {}
    for name, inputs in ood.items():
        outside[name], groups_outside[name] = predict_in_groups(
            network, inputs, keep_samples=False, bar="predict", **options
        )
    errors = monte_carlo_error_of(network, prediction, groups)
    errors |= ood_errors(network, groups, groups_outside, same_samples=True)
    flat: tuple[Tensor | None, Tensor | None] = (None, None)
    if classifier and prediction.y is not None:
        flat = network.likelihood.flatten_labels(prediction.mean, prediction.y)
    return MethodResult(
        title=title,
        figures=figures,
        prediction=prediction,
        outside=outside,
        ood=compare_ood(prediction, outside).metrics if outside else {},
        probabilities=flat[0],
        labels=flat[1],
        monte_carlo_error=errors,
    )
