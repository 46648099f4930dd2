"""Pyro distributions for masks and their rates; importing them registers their KLs."""

from bayesdrop.distributions.binary_concrete import BinaryConcrete, BinaryConcreteStraightThrough
from bayesdrop.distributions.kumaraswamy import Kumaraswamy
from bayesdrop.distributions.logit_binary_concrete import LogitBinaryConcrete
from bayesdrop.distributions.normal import Normal

__all__ = [
    "BinaryConcrete",
    "BinaryConcreteStraightThrough",
    "Kumaraswamy",
    "LogitBinaryConcrete",
    "Normal",
]
