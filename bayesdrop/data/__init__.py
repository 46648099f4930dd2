"""Data sets by name, as tensors in memory with fixed splits."""

from bayesdrop.data.classification import DataSplits, load_images, load_ood, parse_name
from bayesdrop.data.loading import load_data
from bayesdrop.data.regression import RegressionSource, RegressionSplit, regression_sets
from bayesdrop.data.sources import DataSource, Pair, data_root, register, registry

__all__ = [
    "DataSource",
    "DataSplits",
    "Pair",
    "RegressionSource",
    "RegressionSplit",
    "data_root",
    "load_data",
    "load_images",
    "load_ood",
    "parse_name",
    "register",
    "registry",
    "regression_sets",
]
