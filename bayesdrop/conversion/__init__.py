"""Bayesian layers put into an existing network, and taken out again."""

from bayesdrop.conversion.converter import convert, without_dropout
from bayesdrop.conversion.report import ConversionReport, Left, Placed, conversion_report

__all__ = [
    "ConversionReport",
    "Left",
    "Placed",
    "conversion_report",
    "convert",
    "without_dropout",
]
