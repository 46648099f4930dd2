"""Bayesian layers put into an existing network, and taken out again."""

from bayesdrop.conversion.converter import convert, without_dropout

__all__ = ["convert", "without_dropout"]
