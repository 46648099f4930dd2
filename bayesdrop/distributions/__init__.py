"""Pyro distributions for masks and their rates; importing them registers their KLs."""

from bayesdrop.distributions.binary_concrete import BinaryConcrete, BinaryConcreteStraightThrough
from bayesdrop.distributions.kumaraswamy import Kumaraswamy

__all__ = ["BinaryConcrete", "BinaryConcreteStraightThrough", "Kumaraswamy"]
