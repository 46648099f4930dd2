"""What is kept of the posterior samples while ``predict`` streams them."""

from __future__ import annotations

import torch
from torch import Tensor

from bayesdrop.likelihoods import Bernoulli, Categorical
from bayesdrop.program.network import BayesianNetwork


class ClassMoments:
    """Running sums of class probabilities, of their entropy and, if Categorical, of the logits."""

    def __init__(self, bnn: BayesianNetwork) -> None:
        self.likelihood = bnn.likelihood
        bernoulli = isinstance(bnn.likelihood, Bernoulli)
        self.entropy = _bernoulli_entropy if bernoulli else _entropy
        self.confidence = _bernoulli_confidence if bernoulli else _confidence
        self.has_logits = isinstance(bnn.likelihood, Categorical)
        self.count = 0
        self.total: Tensor
        self.total_entropy: Tensor
        self.total_logits: Tensor
        self.total_energy: Tensor

    def add(self, output: Tensor) -> Tensor:
        """Add one posterior sample and return its probabilities."""
        probabilities, _ = self.likelihood.moments(output)
        if self.count == 0:
            self.total = torch.zeros_like(probabilities)
            self.total_entropy = torch.zeros_like(self.entropy(probabilities))
            if self.has_logits:
                self.total_logits = torch.zeros_like(output)
                self.total_energy = torch.zeros_like(output[..., 0])
        self.count += 1
        self.total += probabilities
        self.total_entropy += self.entropy(probabilities)
        if self.has_logits:
            self.total_logits += output
            self.total_energy -= output.logsumexp(-1)
        return probabilities

    def result(self) -> dict[str, Tensor]:
        """Return the mean, the split of its entropy and what the logits alone tell."""
        mean = self.total / self.count
        predictive, expected = self.entropy(mean), self.total_entropy / self.count
        result = {
            "mean": mean,
            "confidence": self.confidence(mean),
            "predictive_entropy": predictive,
            "expected_entropy": expected,
            # >= 0 by Jensen's inequality, but for rounding.
            "mutual_information": (predictive - expected).clamp(min=0.0),
        }
        if self.has_logits:
            result["energy"] = self.total_energy / self.count
            result["logit_norm"] = (self.total_logits / self.count).norm(dim=-1)
        return result


class GaussianMoments:
    """Running mean and variance of regression samples: law of total variance, Welford's update."""

    def __init__(self, bnn: BayesianNetwork, y: Tensor | None, *, keep_samples: bool) -> None:
        self.likelihood = bnn.likelihood
        self.y = y
        self.keep_samples = keep_samples
        self.count = 0
        self.mean: Tensor
        self.squares: Tensor
        self.noise: Tensor
        self.log_likelihood: Tensor | None = None
        self.pit: Tensor | None = None
        self.sample_variances: list[Tensor] = []

    def add(self, output: Tensor) -> Tensor:
        """Add one posterior sample and return its mean."""
        mean, variance = self.likelihood.moments(output)
        if self.count == 0:
            self.mean, self.squares, self.noise = (torch.zeros_like(mean) for _ in range(3))
        self.count += 1
        difference = mean - self.mean
        self.mean += difference / self.count
        self.squares += difference * (mean - self.mean)
        noise = torch.zeros_like(mean) if variance is None else variance
        self.noise += noise
        if self.keep_samples:
            self.sample_variances.append(noise.cpu())
        if self.y is not None:
            fn = self.likelihood.distribution(output)
            target = self.likelihood.target(output, self.y.to(output.device))
            # A sample without noise is a step, of height one half at the target itself.
            scale = noise.sqrt().clamp(min=torch.finfo(noise.dtype).tiny)
            below = torch.special.ndtr((target - mean) / scale)
            self.pit = below if self.pit is None else self.pit + below
            term = fn.log_prob(target)
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
        if self.pit is not None:
            result["pit"] = self.pit / self.count
        if self.sample_variances:
            result["sample_variances"] = torch.stack(self.sample_variances)
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
