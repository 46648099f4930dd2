"""What the network's output means: the distribution of the observation given it."""

from bayesdrop.likelihoods.bernoulli import Bernoulli
from bayesdrop.likelihoods.categorical import Categorical
from bayesdrop.likelihoods.gaussian import Gaussian
from bayesdrop.likelihoods.likelihood import Likelihood
from bayesdrop.likelihoods.negative_binomial import NegativeBinomial
from bayesdrop.likelihoods.poisson import Poisson
from bayesdrop.likelihoods.student_t import StudentT

__all__ = [
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "Likelihood",
    "NegativeBinomial",
    "Poisson",
    "StudentT",
]
