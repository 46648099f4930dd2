"""Data sets by name, as tensors in memory with fixed splits."""

from bayesdrop.data.classification import (
    DataSource,
    DataSplits,
    Pair,
    data_root,
    load_data,
    load_ood,
    parse_name,
    register_data,
    registered_data,
)
from bayesdrop.data.regression import RegressionSplit, load_regression, regression_sets

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
