"""Bayesian dropout as probabilistic programs.

A dropout layer is a prior and a posterior over a mask. The same posterior gives calibrated
predictions, an account of their uncertainty, and a smaller network.
"""

from bayesdrop import distributions, networks
from bayesdrop.autoencoder import VariationalAutoencoder
from bayesdrop.bayesian import BayesianNetwork
from bayesdrop.compression import (
    CompressionTable,
    Frontier,
    PerInputCost,
    SizePosterior,
    choose_threshold,
    compact,
    compression_table,
    count_flops,
    export_onnx,
    load_compact,
    per_input_cost,
    pruning_frontier,
    save_compact,
    size_posterior,
)
from bayesdrop.convert import convert, to_deterministic
from bayesdrop.data import load_data
from bayesdrop.dropout import (
    BayesianDropout,
    BetaBernoulliDropout,
    DependentBetaBernoulliDropout,
    HierarchicalIndianBuffetDropout,
    IndianBuffetDropout,
    IndianBuffetSticks,
    impose_masks,
    kl_divergence,
    make_dropout,
    register_dropout,
    registered_dropouts,
    to_dependent,
)
from bayesdrop.evaluation import (
    ClassificationMetrics,
    ELBOCheck,
    Evaluation,
    OODTable,
    ShiftCurves,
    TemperatureScaling,
    bootstrap_metrics,
    check_elbo,
    class_uncertainty,
    corrupt,
    corruptions,
    evaluate,
    fit_temperature,
    log_likelihood_bound,
    ood_table,
    reliability_diagram,
    risk_coverage,
    select_threshold,
    shift_curves,
)
from bayesdrop.inference import schedules
from bayesdrop.inference.checkpoint import load, save
from bayesdrop.inference.closing import close_unused_units
from bayesdrop.inference.fit import FitResult, fit
from bayesdrop.inference.predict import Prediction, predict
from bayesdrop.likelihoods import Bernoulli, Categorical, Gaussian
from bayesdrop.reporting.compare import Comparison, compare_predictions
from bayesdrop.reporting.guide_diagnostic import GuideDiagnostic, guide_diagnostic
from bayesdrop.reporting.inference_data import to_inference_data
from bayesdrop.reporting.mask_plots import class_averaged_masks

__version__ = "0.1.0"

__all__ = [
    "BayesianDropout",
    "BayesianNetwork",
    "Bernoulli",
    "BetaBernoulliDropout",
    "Categorical",
    "ClassificationMetrics",
    "Comparison",
    "CompressionTable",
    "DependentBetaBernoulliDropout",
    "ELBOCheck",
    "Evaluation",
    "FitResult",
    "Frontier",
    "Gaussian",
    "GuideDiagnostic",
    "HierarchicalIndianBuffetDropout",
    "IndianBuffetDropout",
    "IndianBuffetSticks",
    "OODTable",
    "PerInputCost",
    "Prediction",
    "ShiftCurves",
    "SizePosterior",
    "TemperatureScaling",
    "VariationalAutoencoder",
    "bootstrap_metrics",
    "check_elbo",
    "choose_threshold",
    "class_averaged_masks",
    "class_uncertainty",
    "close_unused_units",
    "compact",
    "compare_predictions",
    "compression_table",
    "convert",
    "corrupt",
    "corruptions",
    "count_flops",
    "distributions",
    "evaluate",
    "export_onnx",
    "fit",
    "fit_temperature",
    "guide_diagnostic",
    "impose_masks",
    "kl_divergence",
    "load",
    "load_compact",
    "load_data",
    "log_likelihood_bound",
    "make_dropout",
    "networks",
    "ood_table",
    "per_input_cost",
    "predict",
    "pruning_frontier",
    "register_dropout",
    "registered_dropouts",
    "reliability_diagram",
    "risk_coverage",
    "save",
    "save_compact",
    "schedules",
    "select_threshold",
    "shift_curves",
    "size_posterior",
    "to_dependent",
    "to_deterministic",
    "to_inference_data",
]
