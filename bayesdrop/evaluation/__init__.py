"""Figures of merit: error, likelihood, calibration, uncertainty, selection, OOD detection."""

from bayesdrop.evaluation.bootstrap import Bootstrap, Estimate, bootstrap_metrics
from bayesdrop.evaluation.brier import BrierDecomposition, brier_decomposition
from bayesdrop.evaluation.calibration import (
    adaptive_calibration_error,
    classwise_calibration_error,
    expected_calibration_error,
    maximum_calibration_error,
)
from bayesdrop.evaluation.check_elbo import CheckRow, ELBOCheck, check_elbo
from bayesdrop.evaluation.classification import (
    brier_score,
    error_percent,
    negative_log_likelihood,
)
from bayesdrop.evaluation.corruptions import corrupt, corruptions
from bayesdrop.evaluation.coverage import (
    RegressionCalibration,
    pit_values,
    predictive_interval,
    regression_calibration,
)
from bayesdrop.evaluation.crps import continuous_ranked_probability_score
from bayesdrop.evaluation.evaluate import Evaluation, evaluate
from bayesdrop.evaluation.likelihood_bound import LikelihoodBound, log_likelihood_bound
from bayesdrop.evaluation.ood import (
    OODMetrics,
    OODTable,
    ood_metrics,
    ood_table,
    uncertainty_scores,
)
from bayesdrop.evaluation.regression import root_mean_squared_error
from bayesdrop.evaluation.reliability import ReliabilityDiagram, reliability_diagram
from bayesdrop.evaluation.selective import (
    RiskCoverage,
    SelectiveThreshold,
    risk_coverage,
    risk_coverage_of_losses,
    select_threshold,
)
from bayesdrop.evaluation.shift import ShiftCurves, ShiftRow, shift_curves
from bayesdrop.evaluation.streaming import ClassificationFigures, ClassificationMetrics
from bayesdrop.evaluation.temperature import TemperatureScaling, fit_temperature
from bayesdrop.evaluation.uncertainty import (
    ClassUncertainty,
    RegressionUncertainty,
    UncertaintyTable,
    class_table,
    class_uncertainty,
    example_table,
    least_uncertain,
    most_uncertain,
    regression_uncertainty,
)

__all__ = [
    "Bootstrap",
    "BrierDecomposition",
    "CheckRow",
    "ClassUncertainty",
    "ClassificationFigures",
    "ClassificationMetrics",
    "ELBOCheck",
    "Estimate",
    "Evaluation",
    "LikelihoodBound",
    "OODMetrics",
    "OODTable",
    "RegressionCalibration",
    "RegressionUncertainty",
    "ReliabilityDiagram",
    "RiskCoverage",
    "SelectiveThreshold",
    "ShiftCurves",
    "ShiftRow",
    "TemperatureScaling",
    "UncertaintyTable",
    "adaptive_calibration_error",
    "bootstrap_metrics",
    "brier_decomposition",
    "brier_score",
    "check_elbo",
    "class_table",
    "class_uncertainty",
    "classwise_calibration_error",
    "continuous_ranked_probability_score",
    "corrupt",
    "corruptions",
    "error_percent",
    "evaluate",
    "example_table",
    "expected_calibration_error",
    "fit_temperature",
    "least_uncertain",
    "log_likelihood_bound",
    "maximum_calibration_error",
    "most_uncertain",
    "negative_log_likelihood",
    "ood_metrics",
    "ood_table",
    "pit_values",
    "predictive_interval",
    "regression_calibration",
    "regression_uncertainty",
    "reliability_diagram",
    "risk_coverage",
    "risk_coverage_of_losses",
    "root_mean_squared_error",
    "select_threshold",
    "shift_curves",
    "uncertainty_scores",
]
