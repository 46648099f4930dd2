"""Pyro distributions for masks and their rates; importing them registers their KLs."""

from torch.distributions import kl_divergence

from bayesdrop.distributions.bernoulli_straight_through import BernoulliStraightThrough
from bayesdrop.distributions.binary_concrete import BinaryConcrete, BinaryConcreteStraightThrough
from bayesdrop.distributions.downhill import Downhill
from bayesdrop.distributions.hard_concrete import HardConcrete
from bayesdrop.distributions.joined import Joined
from bayesdrop.distributions.kumaraswamy import Kumaraswamy
from bayesdrop.distributions.log_normal import LogNormal
from bayesdrop.distributions.log_uniform import LogUniform
from bayesdrop.distributions.logit_binary_concrete import LogitBinaryConcrete
from bayesdrop.distributions.masked_delta import MaskedDelta
from bayesdrop.distributions.mixture import Mixture, log_mixture
from bayesdrop.distributions.nested_normal import NestedNormal
from bayesdrop.distributions.normal import Normal
from bayesdrop.distributions.ordered_mask import (
    OrderedMask,
    OrderedMaskInterpolated,
    OrderedMaskStraightThrough,
)
from bayesdrop.distributions.scaled_bernoulli import ScaledBernoulli
from bayesdrop.distributions.truncated_log_normal import TruncatedLogNormal, TruncatedLogUniform

__all__ = [
    "BernoulliStraightThrough",
    "BinaryConcrete",
    "BinaryConcreteStraightThrough",
    "Downhill",
    "HardConcrete",
    "Joined",
    "Kumaraswamy",
    "LogNormal",
    "LogUniform",
    "LogitBinaryConcrete",
    "MaskedDelta",
    "Mixture",
    "NestedNormal",
    "Normal",
    "OrderedMask",
    "OrderedMaskInterpolated",
    "OrderedMaskStraightThrough",
    "ScaledBernoulli",
    "TruncatedLogNormal",
    "TruncatedLogUniform",
    "log_mixture",
]

# Torch's compiler cannot look up a divergence that two are registered for, as for a pair of an
# exponential family; one that has been asked for is remembered.
kl_divergence(Normal(0.0, 1.0), Normal(0.0, 1.0))
