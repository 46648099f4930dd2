"""What stands at the top: every name of ``bayesdrop`` itself, in the room that it is from."""

from bayesdrop import compression, diagnostics, distributions, metrics, networks, nn
from bayesdrop.compression import (
    choose_width,
    compact,
    cut_to_width,
    load_plain,
    save_plain,
)
from bayesdrop.conversion import convert, without_dropout
from bayesdrop.data import load_data
from bayesdrop.diagnostics import check_elbo, evaluate, guide_diagnostic, loo, to_inference_data
from bayesdrop.inference import schedules
from bayesdrop.inference.checkpoint import load, save
from bayesdrop.inference.fit import fit
from bayesdrop.inference.predict import predict
from bayesdrop.inference.pruning import prune_unused_units
from bayesdrop.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood
from bayesdrop.nn import (
    BayesianDropout,
    BetaBernoulliDropout,
    ConcreteDropout,
    DependentBetaBernoulliDropout,
    GaussianDropout,
    HardConcreteDropout,
    HierarchicalIndianBuffetDropout,
    IndianBuffetDropout,
    MonteCarloDropout,
    NestedDropout,
    StructuredBayesianPruningDropout,
    VariationalNestedDropout,
    impose_masks,
    kl_divergence,
    to_dependent,
    update_prior,
)
from bayesdrop.program import BayesianNetwork, VariationalAutoencoder
from bayesdrop.reporting import report

__all__ = [
    "BayesianDropout",
    "BayesianNetwork",
    "Bernoulli",
    "BetaBernoulliDropout",
    "Categorical",
    "ConcreteDropout",
    "DependentBetaBernoulliDropout",
    "Gaussian",
    "GaussianDropout",
    "HardConcreteDropout",
    "HierarchicalIndianBuffetDropout",
    "IndianBuffetDropout",
    "Likelihood",
    "MonteCarloDropout",
    "NestedDropout",
    "StructuredBayesianPruningDropout",
    "VariationalAutoencoder",
    "VariationalNestedDropout",
    "check_elbo",
    "choose_width",
    "compact",
    "compression",
    "convert",
    "cut_to_width",
    "diagnostics",
    "distributions",
    "evaluate",
    "fit",
    "guide_diagnostic",
    "impose_masks",
    "kl_divergence",
    "load",
    "load_data",
    "load_plain",
    "loo",
    "metrics",
    "networks",
    "nn",
    "predict",
    "prune_unused_units",
    "report",
    "save",
    "save_plain",
    "schedules",
    "to_dependent",
    "to_inference_data",
    "update_prior",
    "without_dropout",
]
