"""Layers whose weights are random, one posterior a file."""

from bayesdrop.nn.weights.dropconnect import Dropconnect
from bayesdrop.nn.weights.fixed_rate import FixedRateWeights
from bayesdrop.nn.weights.gaussian_dropconnect import GaussianDropconnect
from bayesdrop.nn.weights.gaussian_weights import GaussianWeights
from bayesdrop.nn.weights.sparse_variational import SparseVariational
from bayesdrop.nn.weights.targeted_dropconnect import TargetedDropconnect

__all__ = [
    "Dropconnect",
    "FixedRateWeights",
    "GaussianDropconnect",
    "GaussianWeights",
    "SparseVariational",
    "TargetedDropconnect",
]
