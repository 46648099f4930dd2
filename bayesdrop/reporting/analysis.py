"""The longer part of a report: everything needed to decide whether to trust a classifier."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
from bayesdrop.diagnostics.guide import GuideDiagnostic, guide_diagnostic
from bayesdrop.errors import CompactionError, DataError
from bayesdrop.inference.predict import predict
from bayesdrop.metrics import (
    Bootstrap,
    ClassifierFigures,
    ReliabilityDiagram,
    RiskCoverage,
    UncertaintyTable,
    bootstrap_metrics,
    fit_temperature,
    reliability,
    risk_coverage,
    select_threshold,
    table_by_class,
    uncertainty_scores,
)
from bayesdrop.metrics.prediction import Prediction
from bayesdrop.program.network import BayesianNetwork
from bayesdrop.record import Record, plain
from bayesdrop.reporting.shift_analysis import ShiftAnalysis, analyse_shift

if TYPE_CHECKING:
    from bayesdrop.reporting.report import Report

Pair = tuple[Tensor, Tensor]

TARGET_RISKS = (0.001, 0.005, 0.01, 0.02, 0.05)
"""Shares of errors for which the coverage is reported."""

CREDIBLE_LEVEL = 0.9
"""Posterior probability of the intervals of size."""

MAX_ERROR_INCREASE = 0.1
"""Percentage points that the threshold marked on the frontier may cost on validation data."""

_TARGET_RISK, _FAILURE_PROBABILITY = 0.01, 0.05
_SEED = 0
_SIZE_SAMPLES = 200
_DIAGNOSTIC_SAMPLES, _DIAGNOSTIC_MASKS = 100, 8
_ELBO_EXAMPLES = 256


@dataclass(frozen=True, eq=False)
class Analysis(Record):
    """What ``analyse`` found out, beyond the report.

    Args:
        main: The method that the single figures are about.
        bootstrap: Figures of all methods with confidence intervals.
        reliability: Method to reliability diagram.
        calibration: Method to calibration errors and the Brier score's parts.
        temperature: Temperature scaling fitted on validation data: figures of the test set before
            and after; None without.
        classes: Error, likelihood and uncertainty of each class.
        risk_coverage: Method to risk-coverage curve.
        threshold: Confidence chosen on validation data, and what it did on the test set; or None.
        scores: Data set to OOD scores of the main method, the test set first.
        shift: Shift curves of each method, if any.
        size: Posterior over size, or None.
        frontier: Accuracy, calibration and FLOPs by threshold, on validation data, or None.
        chosen: The frontier's threshold within ``MAX_ERROR_INCREASE``.
        diagnostic: Pareto k of the guide, on request.
        elbo: The table of ``check_elbo``, on request.
        notes: Section to why something is not there.
        images: The test images.
        predictions: Class probabilities of the main method.
        labels: The test labels.
        class_names: One name for each class.
    """

    main: str
    bootstrap: Bootstrap
    reliability: dict[str, ReliabilityDiagram]
    calibration: dict[str, dict[str, Any]]
    temperature: dict[str, float] | None
    classes: UncertaintyTable
    risk_coverage: dict[str, RiskCoverage]
    threshold: dict[str, Any] | None
    scores: dict[str, dict[str, Tensor]]
    shift: ShiftAnalysis
    size: SizePosterior | None
    frontier: Frontier | None
    chosen: float | None
    diagnostic: GuideDiagnostic | None
    elbo: ELBOCheck | None
    notes: dict[str, str]
    images: Tensor = field(repr=False)
    predictions: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    class_names: tuple[str, ...] = ()

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
    report: Report,
    bnn: BayesianNetwork,
    plain: BayesianNetwork | None,
    test: Pair,
    *,
    validation: Pair | None = None,
    train: Pair | None = None,
    class_names: tuple[str, ...] = (),
    shift: bool | None = None,
) -> Report:
    """Return a report with intervals, calibration, shift, selection, size and the frontier.

    Nothing is chosen on the test set: temperature, confidence and pruning thresholds come from
    validation data, or are left out.

    Args:
        report: What ``build_report`` returned for these networks and test set; not changed.
        bnn: The Bayesian network.
        plain: The network without Bayesian dropout, or None.
        test: The test images and labels.
        validation: Validation images and labels, if there are any.
        train: Training images and labels, to check the objective and the guide by, which takes
            minutes to hours (``check_elbo``, and ``guide_diagnostic``'s passes over all of them).
        class_names: One name for each class.
        shift: Whether to corrupt up to 2,000 test images in all ways and severities; None does so
            with as many as take a minute or two, unless these are too few.

    Raises:
        ImportError: If ``train`` is given and ArviZ is not installed.
    """
    methods, labels = report.methods, test[1]
    inside = {method: report.inside[method] for method in methods}
    main = list(methods)[-1]
    notes: dict[str, str] = {}
    held_out = None
    if validation is None:
        notes["validation"] = (
            "The run held out no validation data, so nothing was chosen: no temperature, no "
            "threshold of confidence, and no frontier along the pruning threshold."
        )
    else:
        options: dict[str, Any] = {"num_samples": report.values["num_samples"]}
        options |= {"seed": int(report.values["seed"]), "keep_samples": False}
        held_out = predict(bnn, validation, **options)
    shifted = analyse_shift(report, bnn, plain, test, wanted=shift)
    if shifted.note:
        notes["shift"] = shifted.note
    frontier = _frontier(bnn, validation, notes)
    analysis = Analysis(
        main=main,
        bootstrap=_bootstrap(report, inside, labels),
        reliability={m: reliability(p.mean, labels) for m, p in inside.items()},
        calibration={m: _calibration(p.mean, labels) for m, p in inside.items()},
        temperature=_temperature(held_out, inside[main], labels, notes),
        classes=_classes(inside[main], labels),
        risk_coverage={m: risk_coverage(p.mean, labels) for m, p in inside.items()},
        threshold=_threshold(held_out, inside[main], labels, notes),
        scores={
            name: uncertainty_scores(prediction)
            for name, prediction in {"test set": inside[main], **report.outside[main]}.items()
        },
        shift=shifted,
        size=_size(bnn, test[0], int(report.values["seed"]), notes),
        frontier=frontier,
        chosen=None
        if frontier is None
        else choose_threshold(frontier, max_error_increase=MAX_ERROR_INCREASE),
        notes=notes,
        images=test[0],
        predictions=inside[main].mean,
        labels=labels,
        class_names=class_names,
        **_diagnostics(bnn, train),
    )
    values = {**report.values, "analysis": analysis.to_dict()}
    return dataclasses.replace(report, values=values, analysis=analysis)


def _bootstrap(report: Report, inside: Mapping[str, Prediction], labels: Tensor) -> Bootstrap:
    entropy = "predictive_entropy"
    sets = next(iter(report.outside.values()))
    return bootstrap_metrics(
        {method: prediction.mean for method, prediction in inside.items()},
        labels,
        ood={
            name: {method: getattr(report.outside[method][name], entropy) for method in inside}
            for name in sets
        },
        scores={method: getattr(prediction, entropy) for method, prediction in inside.items()},
    )


def _calibration(probabilities: Tensor, labels: Tensor) -> dict[str, Any]:
    figures = ClassifierFigures.from_predictions(probabilities, labels)
    names = ("ece", "adaptive_ece", "mce", "classwise_ece", "brier_parts")
    return {name: plain(getattr(figures, name)) for name in names}


def _temperature(
    held_out: Prediction | None, prediction: Prediction, labels: Tensor, notes: dict[str, str]
) -> dict[str, float] | None:
    if held_out is None or held_out.y is None:
        return None
    try:
        scaling = fit_temperature(held_out.mean, held_out.y)
    except DataError as error:
        notes["temperature"] = f"No temperature could be fitted. {error}"
        return None
    before, after = (
        ClassifierFigures.from_predictions(probabilities, labels)
        for probabilities in (prediction.mean, scaling(prediction.mean))
    )
    return {
        "temperature": scaling.temperature,
        "nll_before": before.nll,
        "nll_after": after.nll,
        "ece_before": before.ece,
        "ece_after": after.ece,
    }


def _threshold(
    held_out: Prediction | None, prediction: Prediction, labels: Tensor, notes: dict[str, str]
) -> dict[str, Any] | None:
    """Return a confidence chosen on validation data, with a guarantee where there is one."""
    if held_out is None or held_out.y is None:
        return None
    reason = ""
    for failure in (_FAILURE_PROBABILITY, None):
        try:
            chosen = select_threshold(
                held_out.mean,
                held_out.y,
                target_risk=_TARGET_RISK,
                failure_probability=failure,
            )
        except DataError as error:
            reason = str(error)
            continue
        answered = chosen.accept(prediction.mean)
        wrong = prediction.mean.argmax(1) != labels
        return chosen.to_dict() | {
            "test_coverage": float(answered.double().mean()),
            "test_risk": float(wrong[answered].double().mean()) if answered.any() else None,
        }
    notes["threshold"] = f"No threshold of confidence could be chosen. {reason}"
    return None


def _classes(prediction: Prediction, labels: Tensor) -> UncertaintyTable:
    information = prediction.mutual_information if prediction.num_samples > 1 else None
    return table_by_class(prediction.mean, labels, mutual_information=information)


def _size(
    bnn: BayesianNetwork, images: Tensor, seed: int, notes: dict[str, str]
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
