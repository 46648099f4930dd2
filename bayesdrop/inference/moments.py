"""What is kept of the posterior samples while ``predict`` streams them."""

from __future__ import annotations

import torch
from torch import Tensor

from bayesdrop.bayesian import BayesianNetwork
from bayesdrop.likelihoods import Bernoulli


class ClassMoments:
    """Running sums of class probabilities and of their entropy."""

    def __init__(self, bnn: BayesianNetwork) -> None:
        self.likelihood = bnn.likelihood
        bernoulli = isinstance(bnn.likelihood, Bernoulli)
        self.entropy = _bernoulli_entropy if bernoulli else _entropy
        self.confidence = _bernoulli_confidence if bernoulli else _confidence
        self.count = 0
        self.total: Tensor
        self.total_entropy: Tensor

    def add(self, output: Tensor) -> Tensor:
        """Add one posterior sample and return its probabilities."""
        probabilities, _ = self.likelihood.moments(output)
        if self.count == 0:
            self.total = torch.zeros_like(probabilities)
            self.total_entropy = torch.zeros_like(self.entropy(probabilities))
        self.count += 1
        self.total += probabilities
        self.total_entropy += self.entropy(probabilities)
        return probabilities

    def result(self) -> dict[str, Tensor]:
        """Return the mean and the split of its entropy."""
        mean = self.total / self.count
        predictive, expected = self.entropy(mean), self.total_entropy / self.count
        return {
            "mean": mean,
            "confidence": self.confidence(mean),
            "predictive_entropy": predictive,
            "expected_entropy": expected,
            # >= 0 by Jensen's inequality, but for rounding.
            "mutual_information": (predictive - expected).clamp(min=0.0),
        }


class GaussianMoments:
    """Running mean and variance of regression samples: law of total variance, Welford's update."""

    def __init__(self, bnn: BayesianNetwork, y: Tensor | None) -> None:
        self.likelihood = bnn.likelihood
        self.y = y
        self.count = 0
        self.mean: Tensor
        self.squares: Tensor
        self.noise: Tensor
        self.log_likelihood: Tensor | None = None

    def add(self, output: Tensor) -> Tensor:
        """Add one posterior sample and return its mean."""
        mean, variance = self.likelihood.moments(output)
        if self.count == 0:
            self.mean, self.squares, self.noise = (torch.zeros_like(mean) for _ in range(3))
        self.count += 1
        difference = mean - self.mean
        self.mean += difference / self.count
        self.squares += difference * (mean - self.mean)
        self.noise += torch.zeros_like(mean) if variance is None else variance
        if self.y is not None:
            fn = self.likelihood.distribution(output)
            term = fn.log_prob(self.likelihood.target(output, self.y.to(output.device)))
            former = self.log_likelihood
            self.log_likelihood = term if former is None else torch.logaddexp(former, term)
        return mean

    def result(self) -> dict[str, Tensor]:
        """Return the mean and the split of the variance."""
        aleatoric, epistemic = self.noise / self.count, self.squares / self.count
        result = {
            "mean": self.mean,
            "variance": aleatoric + epistemic,
            "aleatoric_variance": aleatoric,
            "epistemic_variance": epistemic,
        }
        if self.log_likelihood is not None:
            count = torch.tensor(float(self.count), device=self.log_likelihood.device)
            result["log_likelihood"] = self.log_likelihood - count.log()
        return result


def _entropy(probabilities: Tensor) -> Tensor:
    return torch.special.entr(probabilities).sum(-1)


def _bernoulli_entropy(probabilities: Tensor) -> Tensor:
    both = torch.special.entr(probabilities) + torch.special.entr(1.0 - probabilities)
    return both.reshape(len(both), -1).sum(1)


def _confidence(probabilities: Tensor) -> Tensor:
    return probabilities.amax(-1)


def _bernoulli_confidence(probabilities: Tensor) -> Tensor:
    sure = torch.maximum(probabilities, 1.0 - probabilities)
    return sure.reshape(len(sure), -1).mean(1)
