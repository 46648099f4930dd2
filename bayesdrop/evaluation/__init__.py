"""Figures of merit: error, likelihood, calibration, and out-of-distribution detection."""

from bayesdrop.evaluation.calibration import expected_calibration_error
from bayesdrop.evaluation.classification import (
    brier_score,
    error_percent,
    negative_log_likelihood,
)
from bayesdrop.evaluation.evaluate import Evaluation, evaluate
from bayesdrop.evaluation.ood import OODMetrics, ood_metrics, uncertainty_scores
from bayesdrop.evaluation.regression import root_mean_squared_error

__all__ = [
    "Evaluation",
    "OODMetrics",
    "brier_score",
    "error_percent",
    "evaluate",
    "expected_calibration_error",
    "negative_log_likelihood",
    "ood_metrics",
    "root_mean_squared_error",
    "uncertainty_scores",
]
