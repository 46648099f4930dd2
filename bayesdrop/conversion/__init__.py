"""Bayesian layers put into an existing network, and taken out again."""

from bayesdrop.conversion.converter import convert, without_dropout
from bayesdrop.conversion.lora import mask_lora_ranks
from bayesdrop.conversion.report import ConversionReport, Left, Placed, conversion_report

__all__ = [
    "ConversionReport",
    "Left",
    "Placed",
    "conversion_report",
    "convert",
    "mask_lora_ranks",
    "without_dropout",
]
