"""Networks with dropout layers as probabilistic programs: objective, Pyro model and guide."""

from bayesdrop.program.autoencoder import VariationalAutoencoder
from bayesdrop.program.network import BayesianNetwork
from bayesdrop.program.program import Program

__all__ = ["BayesianNetwork", "Program", "VariationalAutoencoder"]
