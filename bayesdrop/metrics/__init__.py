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
from bayesdrop.metrics.conformal import (
    ConformalIntervals,
    ConformalSets,
    conformal_intervals,
    conformal_sets,
)
from bayesdrop.metrics.corruption import corrupt, corruptions
from bayesdrop.metrics.coverage import (
    RegressionCalibration,
    pit_values,
    predictive_interval,
    regression_calibration,
)
from bayesdrop.metrics.crps import continuous_ranked_probability_score
from bayesdrop.metrics.figures import ClassifierFigures, RegressionFigures
from bayesdrop.metrics.monte_carlo import SampleGroups, jackknife_error, monte_carlo_errors
from bayesdrop.metrics.ood import (
    OODMetrics,
    OODTable,
    compare_ood,
    ood_metrics,
    uncertainty_scores,
)
from bayesdrop.metrics.prediction import Prediction
from bayesdrop.metrics.regression import root_mean_squared_error
from bayesdrop.metrics.reliability_diagram import ReliabilityDiagram, reliability
from bayesdrop.metrics.selective import (
    RiskCoverage,
    risk_coverage,
    risk_coverage_of_losses,
)
from bayesdrop.metrics.streaming import ClassificationMetrics
from bayesdrop.metrics.temperature import TemperatureScaling, fit_temperature
from bayesdrop.metrics.thresholds import (
    OODThreshold,
    SelectiveThreshold,
    select_ood_threshold,
    select_threshold,
)
from bayesdrop.metrics.uncertainty import (
    EntropyParts,
    UncertaintyTable,
    VarianceParts,
    entropy_parts,
    example_table,
    least_uncertain,
    most_uncertain,
    table_by_class,
    variance_parts,
)

__all__ = [
    "Bootstrap",
    "BrierDecomposition",
    "EntropyParts",
    "ClassifierFigures",
    "ClassificationMetrics",
    "ConformalIntervals",
    "ConformalSets",
    "Estimate",
    "OODMetrics",
    "OODTable",
    "OODThreshold",
    "RegressionCalibration",
    "RegressionFigures",
    "VarianceParts",
    "Prediction",
    "ReliabilityDiagram",
    "RiskCoverage",
    "SampleGroups",
    "SelectiveThreshold",
    "TemperatureScaling",
    "UncertaintyTable",
    "adaptive_calibration_error",
    "bootstrap_metrics",
    "brier_decomposition",
    "brier_score",
    "table_by_class",
    "entropy_parts",
    "classwise_calibration_error",
    "conformal_intervals",
    "conformal_sets",
    "continuous_ranked_probability_score",
    "corrupt",
    "corruptions",
    "error_percent",
    "example_table",
    "expected_calibration_error",
    "fit_temperature",
    "jackknife_error",
    "least_uncertain",
    "maximum_calibration_error",
    "monte_carlo_errors",
    "most_uncertain",
    "negative_log_likelihood",
    "ood_metrics",
    "compare_ood",
    "pit_values",
    "predictive_interval",
    "regression_calibration",
    "variance_parts",
    "reliability",
    "risk_coverage",
    "risk_coverage_of_losses",
    "root_mean_squared_error",
    "select_ood_threshold",
    "select_threshold",
    "uncertainty_scores",
]
