"""Bayesian dropout as probabilistic programs.

A dropout layer is a prior and a posterior over a mask. The same posterior gives calibrated
predictions, an account of their uncertainty, and a smaller network.
"""

from bayesdrop import distributions, networks
from bayesdrop.bayesian import BayesianNetwork
from bayesdrop.compression import (
    CompressionTable,
    compact,
    compression_table,
    count_flops,
    export_onnx,
    load_compact,
    save_compact,
)
from bayesdrop.convert import convert, to_deterministic
from bayesdrop.data import load_data
from bayesdrop.dropout import (
    BayesianDropout,
    BetaBernoulliDropout,
    impose_masks,
    kl_divergence,
    make_dropout,
    register_dropout,
    registered_dropouts,
)
from bayesdrop.evaluation import Evaluation, evaluate
from bayesdrop.inference import schedules
from bayesdrop.inference.checkpoint import load, save
from bayesdrop.inference.fit import FitResult, fit
from bayesdrop.inference.predict import Prediction, predict
from bayesdrop.likelihoods import Bernoulli, Categorical, Gaussian

__version__ = "0.1.0"

__all__ = [
    "BayesianDropout",
    "BayesianNetwork",
    "Bernoulli",
    "BetaBernoulliDropout",
    "Categorical",
    "CompressionTable",
    "Evaluation",
    "FitResult",
    "Gaussian",
    "Prediction",
    "compact",
    "compression_table",
    "convert",
    "count_flops",
    "distributions",
    "evaluate",
    "export_onnx",
    "fit",
    "impose_masks",
    "kl_divergence",
    "load",
    "load_compact",
    "load_data",
    "make_dropout",
    "networks",
    "predict",
    "register_dropout",
    "registered_dropouts",
    "save",
    "save_compact",
    "schedules",
    "to_deterministic",
]
