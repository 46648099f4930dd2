"""Estimators with scikit-learn's interface: tables in, predictions with their uncertainty out."""

from bayesdrop.estimators.classifier import BayesdropClassifier
from bayesdrop.estimators.estimator import NetworkEstimator, NetworkFactory
from bayesdrop.estimators.regressor import BayesdropRegressor

__all__ = ["BayesdropClassifier", "BayesdropRegressor", "NetworkEstimator", "NetworkFactory"]
