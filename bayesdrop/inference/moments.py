"""What is kept of the posterior samples while ``predict`` streams them."""

from __future__ import annotations

import torch
from torch import Tensor

from bayesdrop.likelihoods import Likelihood

BY_SAMPLE = frozenset({"samples", "sample_variances"})
"""Fields of a prediction whose first dimension counts posterior samples, and the second rows."""


class ClassMoments:
    """Running sums of class probabilities, of their entropy and, where it has them, of logits."""

    def __init__(self, likelihood: Likelihood) -> None:
        self.likelihood = likelihood
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
            self.total_entropy = torch.zeros_like(self.likelihood.entropy(probabilities))
            if self.likelihood.has_logits:
                self.total_logits = torch.zeros_like(output)
                self.total_energy = torch.zeros_like(output[:, 0])
        self.count += 1
        self.total += probabilities
        self.total_entropy += self.likelihood.entropy(probabilities)
        if self.likelihood.has_logits:
            self.total_logits += output
            self.total_energy -= output.logsumexp(1)
        return probabilities

    def result(self) -> dict[str, Tensor]:
        """Return the mean, the split of its entropy and what the logits alone tell."""
        mean = self.total / self.count
        predictive, expected = self.likelihood.entropy(mean), self.total_entropy / self.count
        result = {
            "mean": mean,
            "confidence": self.likelihood.confidence(mean),
            "predictive_entropy": predictive,
            "expected_entropy": expected,
            # >= 0 by Jensen's inequality, but for rounding.
            "mutual_information": (predictive - expected).clamp(min=0.0),
        }
        if self.likelihood.has_logits:
            result["energy"] = self.total_energy / self.count
            result["logit_norm"] = (self.total_logits / self.count).norm(dim=1)
        return result


class ValueMoments:
    """Running mean and variance of regression samples: law of total variance, Welford's update."""

    def __init__(self, likelihood: Likelihood, y: Tensor | None, *, keep_samples: bool) -> None:
        self.likelihood = likelihood
        self.y = y
        # Others' samples are no mixture of normals, whatever their variances.
        self.keep_variances = keep_samples and likelihood.has_normal_noise
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
        if self.keep_variances:
            self.sample_variances.append(noise.cpu())
        if self.y is not None:
            fn = self.likelihood.distribution(output)
            target = self.likelihood.target(output, self.y.to(output.device))
            below = self.likelihood.cdf(output, target)
            if below is not None:
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
