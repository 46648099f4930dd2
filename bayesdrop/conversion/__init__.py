"""Bayesian layers put into an existing network, and taken out again."""

from bayesdrop.conversion.converter import convert, to_deterministic

__all__ = ["convert", "to_deterministic"]
