"""The longer part of a report: everything needed to decide whether to trust a classifier."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from typing_extensions import override

from bayesdrop.compression import (
    Frontier,
    SizePosterior,
    choose_threshold,
    measure_size,
    sweep_thresholds,
)
from bayesdrop.diagnostics import ELBOCheck, check_elbo
from bayesdrop.diagnostics.evaluator import figures_of
from bayesdrop.diagnostics.guide import GuideDiagnostic, guide_diagnostic
from bayesdrop.errors import CompactionError, DataError
from bayesdrop.inference.predict import predict
from bayesdrop.metrics import (
    Bootstrap,
    ReliabilityDiagram,
    RiskCoverage,
    UncertaintyTable,
    bootstrap_metrics,
    reliability,
    risk_coverage,
    table_by_class,
)
from bayesdrop.metrics.prediction import Prediction
from bayesdrop.program.inputs import Inputs
from bayesdrop.program.network import BayesianNetwork
from bayesdrop.record import Record, plain
from bayesdrop.reporting.held_out import temperature_effect, threshold_effect
from bayesdrop.reporting.methods import Method
from bayesdrop.reporting.results import MethodResult, Pair
from bayesdrop.reporting.shift_analysis import ShiftAnalysis, analyse_shift

TARGET_RISKS = (0.001, 0.005, 0.01, 0.02, 0.05)
"""Shares of errors for which the coverage is reported."""

CREDIBLE_LEVEL = 0.9
"""Posterior probability of the intervals of size."""

MAX_ERROR_INCREASE = 0.1
"""Percentage points that the threshold marked on the frontier may cost on validation data."""

_CALIBRATION = ("ece", "adaptive_ece", "mce", "classwise_ece", "brier_parts")
_SEED = 0
_SIZE_SAMPLES = 200
_DIAGNOSTIC_SAMPLES, _DIAGNOSTIC_MASKS = 100, 8
_ELBO_EXAMPLES = 256


@dataclass(frozen=True, eq=False)
class Analysis(Record):
    """What ``analyse`` found out, beyond the report.

    Args:
        main: The method that the single figures are about.
        quoted: The method that the summary quotes: the one with the lower NLL, on validation data
            if there are any, else on the test set.
        results: What each method that differs makes of the test set.
        images: The test inputs.
        bootstrap: Figures of all methods with confidence intervals.
        reliability: Method to reliability diagram.
        temperature: Temperature scaling fitted on validation data: figures of the test set before
            and after; None without.
        classes: Error, likelihood and uncertainty of each class.
        risk_coverage: Method to risk-coverage curve.
        threshold: Confidence chosen on validation data, and what it did on the test set; or None.
        shift: Shift curves of each method, if any.
        size: Posterior over size, or None.
        frontier: Accuracy, calibration and FLOPs by threshold, on validation data, or None.
        chosen: The frontier's threshold within ``MAX_ERROR_INCREASE``.
        notes: Section to why something is not there.
        validated: Whether there were validation data.
        class_names: One name for each class.
        diagnostic: Pareto k of the guide, on request.
        elbo: The table of ``check_elbo``, on request.
    """

    main: Method
    quoted: Method
    results: dict[Method, MethodResult] = field(repr=False)
    images: Inputs = field(repr=False)
    bootstrap: Bootstrap
    reliability: dict[Method, ReliabilityDiagram]
    temperature: dict[str, float] | None
    classes: UncertaintyTable
    risk_coverage: dict[Method, RiskCoverage]
    threshold: dict[str, Any] | None
    shift: ShiftAnalysis
    size: SizePosterior | None
    frontier: Frontier | None
    chosen: float | None
    notes: dict[str, str]
    validated: bool
    class_names: tuple[str, ...] = ()
    diagnostic: GuideDiagnostic | None = None
    elbo: ELBOCheck | None = None

    @property
    def calibration(self) -> dict[Method, dict[str, Any]]:
        """Method to its calibration errors and the parts of its Brier score."""
        return {
            method: {name: plain(getattr(result.figures, name)) for name in _CALIBRATION}
            for method, result in self.results.items()
        }

    @override
    def to_dict(self) -> dict[str, Any]:
        """Return all numbers, ready for JSON."""
        selective = {
            method: curve.to_dict()
            | {"coverage_at_risk": {f"{r:g}": curve.coverage_at_risk(r) for r in TARGET_RISKS}}
            for method, curve in self.risk_coverage.items()
        }
        return plain(
            {
                "main": self.main,
                "quoted": self.quoted,
                "bootstrap": self.bootstrap,
                "calibration": self.calibration,
                "reliability": self.reliability,
                "temperature_scaling": self.temperature,
                "classes": self.classes.to_dict(),
                "selective": selective,
                "selective_threshold": self.threshold,
                "shift": self.shift.to_dict(),
                "size": None if self.size is None else self.size.to_dict(CREDIBLE_LEVEL),
                "frontier": self.frontier,
                "frontier_threshold": self.chosen,
                "guide_diagnostic": self.diagnostic,
                "check_elbo": self.elbo,
                "notes": self.notes,
            }
        )


def analyse(
    results: Mapping[Method, MethodResult],
    bnn: BayesianNetwork,
    plain: BayesianNetwork | None,
    test: Pair,
    *,
    num_samples: int = 64,
    seed: int = 0,
    validation: Pair | None = None,
    train: Pair | None = None,
    class_names: tuple[str, ...] = (),
    shift: bool | None = None,
) -> Analysis:
    """Return intervals, calibration, shift, selection, size and the frontier of a classifier.

    Nothing is chosen on the test set: temperature, confidence and pruning thresholds come from
    validation data, or are left out.

    Args:
        results: What each method that differs makes of the test set; one label an example.
        bnn: The Bayesian network.
        plain: The network without Bayesian dropout, or None.
        test: The test images and labels.
        num_samples: Posterior samples for validation data.
        seed: Of the posterior samples.
        validation: Validation images and labels, if there are any.
        train: Training images and labels, to check the objective and the guide by, which takes
            minutes to hours (``check_elbo``, and ``guide_diagnostic``'s passes over all of them).
        class_names: One name for each class.
        shift: Whether to corrupt up to 2,000 test images in all ways and severities; None does so
            with as many as take a minute or two, unless these are too few.

    Raises:
        ImportError: If ``train`` is given and ArviZ is not installed.
    """
    main, labels = list(results)[-1], test[1]
    prediction = results[main].prediction
    notes: dict[str, str] = {}
    held_out = None
    if validation is None:
        notes["validation"] = (
            "No validation data were held out, so nothing was chosen: no temperature, no "
            "threshold of confidence, and no frontier along the pruning threshold."
        )
    else:
        held_out = predict(bnn, validation, num_samples=num_samples, seed=seed, keep_samples=False)
    shifted = analyse_shift(results, bnn, plain, test, num_samples=num_samples, wanted=shift)
    if shifted.note:
        notes["shift"] = shifted.note
    frontier = _frontier(bnn, validation, notes)
    chosen = None
    if frontier is not None:
        chosen = choose_threshold(frontier, max_error_increase=MAX_ERROR_INCREASE)
    return Analysis(
        main=main,
        quoted=_quoted(results, bnn, validation, held_out),
        results=dict(results),
        images=test[0],
        bootstrap=_bootstrap(results, labels),
        reliability={m: reliability(r.prediction.mean, labels) for m, r in results.items()},
        temperature=_temperature(held_out, prediction, labels, notes),
        classes=_classes(prediction, labels),
        risk_coverage={m: risk_coverage(r.prediction.mean, labels) for m, r in results.items()},
        threshold=_threshold(held_out, prediction, labels, notes),
        shift=shifted,
        size=_size(bnn, test[0], seed, notes),
        frontier=frontier,
        chosen=chosen,
        notes=notes,
        validated=validation is not None,
        class_names=class_names,
        **_diagnostics(bnn, train),
    )


def _quoted(
    results: Mapping[Method, MethodResult],
    bnn: BayesianNetwork,
    validation: Pair | None,
    held_out: Prediction | None,
) -> Method:
    """Return which of the Bayesian network's methods has the lower NLL."""
    bayesian = [method for method in results if method is not Method.PLAIN]
    if not bayesian:
        return next(iter(results))
    figures = {method: results[method].figures for method in bayesian}
    if validation is not None and held_out is not None:
        mean = predict(bnn, validation, sample=False, keep_samples=False)
        figures = {m: figures_of(bnn, held_out if m.samples else mean) for m in bayesian}
    return min(bayesian, key=lambda method: figures[method].nll or 0.0)


def _bootstrap(results: Mapping[Method, MethodResult], labels: Tensor) -> Bootstrap:
    entropy = "predictive_entropy"
    sets = next(iter(results.values())).outside
    return bootstrap_metrics(
        {method: result.prediction.mean for method, result in results.items()},
        labels,
        ood={
            name: {m: getattr(result.outside[name], entropy) for m, result in results.items()}
            for name in sets
        },
        scores={m: getattr(result.prediction, entropy) for m, result in results.items()},
        log_likelihood={
            method: result.prediction.log_likelihood
            for method, result in results.items()
            if result.prediction.log_likelihood is not None
        },
    )


def _temperature(
    held_out: Prediction | None, prediction: Prediction, labels: Tensor, notes: dict[str, str]
) -> dict[str, float] | None:
    if held_out is None or held_out.y is None:
        return None
    try:
        return temperature_effect(held_out.mean, held_out.y, prediction.mean, labels)
    except DataError as error:
        notes["temperature"] = f"No temperature could be fitted. {error}"
        return None


def _threshold(
    held_out: Prediction | None, prediction: Prediction, labels: Tensor, notes: dict[str, str]
) -> dict[str, Any] | None:
    """Return a confidence chosen on validation data, with a guarantee where there is one."""
    if held_out is None or held_out.y is None:
        return None
    try:
        return threshold_effect(held_out.mean, held_out.y, prediction.mean, labels)
    except DataError as error:
        notes["threshold"] = f"No threshold of confidence could be chosen. {error}"
        return None


def _classes(prediction: Prediction, labels: Tensor) -> UncertaintyTable:
    information = prediction.mutual_information if prediction.num_samples > 1 else None
    return table_by_class(
        prediction.mean,
        labels,
        mutual_information=information,
        log_likelihood=prediction.log_likelihood,
    )


def _size(
    bnn: BayesianNetwork, images: Inputs, seed: int, notes: dict[str, str]
) -> SizePosterior | None:
    if not bnn.named_dropout_layers():
        return None
    try:
        example = images[:_SIZE_SAMPLES]
        return measure_size(bnn, num_samples=_SIZE_SAMPLES, example_input=example, seed=seed)
    except CompactionError as error:
        notes["size"] = f"No posterior over size: {error}"
        return None


def _frontier(
    bnn: BayesianNetwork, validation: Pair | None, notes: dict[str, str]
) -> Frontier | None:
    if validation is None or not bnn.named_dropout_layers():
        return None
    try:
        return sweep_thresholds(bnn, validation)
    except CompactionError as error:
        notes["frontier"] = f"No frontier: {error}"
        return None


def _diagnostics(bnn: BayesianNetwork, train: Pair | None) -> dict[str, Any]:
    if train is None or not bnn.is_random:
        return {"diagnostic": None, "elbo": None}
    # A run is loaded without its data, and both ask for the ELBO of the whole training set.
    whole = copy.deepcopy(bnn)
    whole.num_data = len(train[1])
    few = min(_ELBO_EXAMPLES, len(train[1]))
    return {
        "elbo": check_elbo(whole, train[0][:few], train[1][:few]),
        "diagnostic": guide_diagnostic(
            whole,
            train,
            num_samples=_DIAGNOSTIC_SAMPLES,
            num_masks=_DIAGNOSTIC_MASKS,
            seed=_SEED,
        ),
    }
