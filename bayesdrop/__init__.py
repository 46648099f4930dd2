"""Bayesian dropout as probabilistic programs.

A dropout layer is a prior and a posterior over a mask. The same posterior gives calibrated
predictions, an account of their uncertainty, and a smaller network.
"""

from bayesdrop import distributions, networks, nn
from bayesdrop.compression import (
    CompressionTable,
    Frontier,
    PerInputCost,
    SizePosterior,
    SparsityTable,
    WidthSweep,
    choose_threshold,
    choose_width,
    compact,
    count_flops,
    cut_to_width,
    hold_width,
    load_plain,
    measure_compression,
    measure_per_input,
    measure_size,
    measure_sparsity,
    save_plain,
    sweep_thresholds,
    sweep_widths,
)
from bayesdrop.conversion import convert, without_dropout
from bayesdrop.data import load_data
from bayesdrop.diagnostics import (
    ELBOCheck,
    Evaluation,
    ShiftCurves,
    check_elbo,
    class_averaged_masks,
    evaluate,
    log_likelihood_bound,
    measure_shift,
)
from bayesdrop.diagnostics.guide import GuideDiagnostic, guide_diagnostic
from bayesdrop.diagnostics.inference_data import to_inference_data
from bayesdrop.inference import schedules
from bayesdrop.inference.checkpoint import load, save
from bayesdrop.inference.fit import FitResult, fit
from bayesdrop.inference.predict import predict
from bayesdrop.inference.pruning import prune_unused_units
from bayesdrop.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood
from bayesdrop.metrics import (
    ClassificationMetrics,
    OODTable,
    TemperatureScaling,
    bootstrap_metrics,
    compare_ood,
    corrupt,
    corruptions,
    entropy_parts,
    fit_temperature,
    reliability,
    risk_coverage,
    select_threshold,
)
from bayesdrop.metrics.prediction import Prediction
from bayesdrop.nn import (
    BayesianDropout,
    BayesianWeights,
    BetaBernoulliDropout,
    ConcreteDropout,
    DependentBetaBernoulliDropout,
    GaussianDropout,
    HardConcreteDropout,
    HierarchicalIndianBuffetDropout,
    IndianBuffetDropout,
    IndianBuffetSticks,
    MonteCarloDropout,
    NestedDropout,
    StructuredBayesianPruningDropout,
    VariationalNestedDropout,
    impose_masks,
    kl_divergence,
    to_dependent,
)
from bayesdrop.program.autoencoder import VariationalAutoencoder
from bayesdrop.program.network import BayesianNetwork
from bayesdrop.reporting import Comparison, compare_predictions, report

__version__ = "0.1.0"

__all__ = [
    "BayesianDropout",
    "BayesianNetwork",
    "BayesianWeights",
    "Bernoulli",
    "BetaBernoulliDropout",
    "Categorical",
    "ClassificationMetrics",
    "Comparison",
    "CompressionTable",
    "ConcreteDropout",
    "DependentBetaBernoulliDropout",
    "ELBOCheck",
    "Evaluation",
    "FitResult",
    "Frontier",
    "Gaussian",
    "GaussianDropout",
    "GuideDiagnostic",
    "HardConcreteDropout",
    "HierarchicalIndianBuffetDropout",
    "IndianBuffetDropout",
    "IndianBuffetSticks",
    "Likelihood",
    "MonteCarloDropout",
    "NestedDropout",
    "OODTable",
    "PerInputCost",
    "Prediction",
    "ShiftCurves",
    "SizePosterior",
    "SparsityTable",
    "StructuredBayesianPruningDropout",
    "TemperatureScaling",
    "VariationalAutoencoder",
    "VariationalNestedDropout",
    "WidthSweep",
    "cut_to_width",
    "bootstrap_metrics",
    "check_elbo",
    "choose_threshold",
    "choose_width",
    "class_averaged_masks",
    "entropy_parts",
    "prune_unused_units",
    "compact",
    "compare_predictions",
    "measure_compression",
    "convert",
    "corrupt",
    "corruptions",
    "count_flops",
    "distributions",
    "evaluate",
    "fit",
    "fit_temperature",
    "guide_diagnostic",
    "impose_masks",
    "kl_divergence",
    "load",
    "load_plain",
    "load_data",
    "log_likelihood_bound",
    "networks",
    "nn",
    "compare_ood",
    "measure_per_input",
    "predict",
    "sweep_thresholds",
    "reliability",
    "report",
    "risk_coverage",
    "save",
    "save_plain",
    "schedules",
    "select_threshold",
    "measure_shift",
    "measure_size",
    "measure_sparsity",
    "to_dependent",
    "without_dropout",
    "to_inference_data",
    "sweep_widths",
    "hold_width",
]
