"""What is asked of a network: its objective, its guide, its figures on data, its posterior."""

from bayesdrop.diagnostics.class_masks import class_averaged_masks, class_correlations
from bayesdrop.diagnostics.elbo import CheckRow, ELBOCheck, check_elbo
from bayesdrop.diagnostics.evaluator import Evaluation, evaluate
from bayesdrop.diagnostics.guide import GuideDiagnostic, guide_diagnostic
from bayesdrop.diagnostics.inference_data import to_inference_data
from bayesdrop.diagnostics.leave_one_out import LeaveOneOut, loo
from bayesdrop.diagnostics.likelihood_bound import LikelihoodBound, log_likelihood_bound
from bayesdrop.diagnostics.shift import ShiftCurves, ShiftRow, measure_shift
from bayesdrop.diagnostics.simulation import (
    SimulationBasedCalibration,
    simulation_based_calibration,
)

__all__ = [
    "CheckRow",
    "ELBOCheck",
    "Evaluation",
    "GuideDiagnostic",
    "LeaveOneOut",
    "LikelihoodBound",
    "ShiftCurves",
    "ShiftRow",
    "SimulationBasedCalibration",
    "check_elbo",
    "class_averaged_masks",
    "class_correlations",
    "evaluate",
    "guide_diagnostic",
    "log_likelihood_bound",
    "loo",
    "measure_shift",
    "simulation_based_calibration",
    "to_inference_data",
]
