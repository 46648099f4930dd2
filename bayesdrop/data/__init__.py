"""Data sets by name, as tensors in memory with fixed splits."""

from bayesdrop.data.classification import DataSplits, load_data, load_ood, parse_name
from bayesdrop.data.regression import RegressionSplit, load_regression, regression_sets
from bayesdrop.data.sources import DataSource, Pair, data_root, register_data, registered_data

__all__ = [
    "DataSource",
    "DataSplits",
    "Pair",
    "RegressionSplit",
    "data_root",
    "load_data",
    "load_ood",
    "load_regression",
    "parse_name",
    "register_data",
    "registered_data",
    "regression_sets",
]
