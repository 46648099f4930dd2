"""Networks with dropout layers as probabilistic programs: objective, Pyro model and guide."""

from bayesdrop.program.autoencoder import VariationalAutoencoder
from bayesdrop.program.network import BayesianNetwork

__all__ = ["BayesianNetwork", "VariationalAutoencoder"]
