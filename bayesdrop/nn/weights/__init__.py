"""Layers whose weights are random, one posterior a file."""

from bayesdrop.nn.weights.conv import ConvWeights
from bayesdrop.nn.weights.dropconnect import (
    BernoulliDropconnect,
    Dropconnect,
    DropconnectConv2d,
    DropconnectLinear,
    GaussianDropconnect,
    GaussianDropconnectConv2d,
    GaussianDropconnectLinear,
)
from bayesdrop.nn.weights.linear import LinearWeights
from bayesdrop.nn.weights.sparse_variational import (
    SparseVariational,
    SparseVariationalConv2d,
    SparseVariationalLinear,
)

__all__ = [
    "BernoulliDropconnect",
    "ConvWeights",
    "Dropconnect",
    "DropconnectConv2d",
    "DropconnectLinear",
    "GaussianDropconnect",
    "GaussianDropconnectConv2d",
    "GaussianDropconnectLinear",
    "LinearWeights",
    "SparseVariational",
    "SparseVariationalConv2d",
    "SparseVariationalLinear",
]
