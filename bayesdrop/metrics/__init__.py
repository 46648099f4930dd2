"""Figures of merit of arrays: error, likelihood, calibration, uncertainty, selection, OOD."""

from bayesdrop.metrics.bootstrap import Bootstrap, Estimate, bootstrap_metrics
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
from bayesdrop.metrics.corruptions import corrupt, corruptions
from bayesdrop.metrics.coverage import (
    RegressionCalibration,
    pit_values,
    predictive_interval,
    regression_calibration,
)
from bayesdrop.metrics.crps import continuous_ranked_probability_score
from bayesdrop.metrics.ood import (
    OODMetrics,
    OODTable,
    ood_metrics,
    ood_table,
    uncertainty_scores,
)
from bayesdrop.metrics.prediction import Prediction
from bayesdrop.metrics.regression import root_mean_squared_error
from bayesdrop.metrics.reliability import ReliabilityDiagram, reliability_diagram
from bayesdrop.metrics.selective import (
    RiskCoverage,
    SelectiveThreshold,
    risk_coverage,
    risk_coverage_of_losses,
    select_threshold,
)
from bayesdrop.metrics.streaming import ClassificationFigures, ClassificationMetrics
from bayesdrop.metrics.temperature import TemperatureScaling, fit_temperature
from bayesdrop.metrics.uncertainty import (
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
    "ClassUncertainty",
    "ClassificationFigures",
    "ClassificationMetrics",
    "Estimate",
    "OODMetrics",
    "OODTable",
    "RegressionCalibration",
    "RegressionUncertainty",
    "Prediction",
    "ReliabilityDiagram",
    "RiskCoverage",
    "SelectiveThreshold",
    "TemperatureScaling",
    "UncertaintyTable",
    "adaptive_calibration_error",
    "bootstrap_metrics",
    "brier_decomposition",
    "brier_score",
    "class_table",
    "class_uncertainty",
    "classwise_calibration_error",
    "continuous_ranked_probability_score",
    "corrupt",
    "corruptions",
    "error_percent",
    "example_table",
    "expected_calibration_error",
    "fit_temperature",
    "least_uncertain",
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
    "uncertainty_scores",
]
