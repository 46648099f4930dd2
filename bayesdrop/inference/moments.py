"""What is kept of the posterior samples while ``predict`` streams them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bayesdrop.errors import BayesdropError
from bayesdrop.likelihoods import Likelihood

BY_SAMPLE = frozenset(
    {"samples", "sample_variances", "group_mean", "group_log_likelihood", "group_pit"}
)
"""Results whose first dimension counts posterior samples, or groups of them, and the second rows.
"""


class ClassMoments:
    """Running sums of class probabilities, of their entropy and, where it has them, of logits.

    Args:
        likelihood: The likelihood.
        y: Labels of the rows, if there are any. If one is none of the likelihood's, as in data
            of other classes, there is no log-likelihood.
        keep_samples: As in ``ValueMoments``; it makes no difference.
        unbiased: As in ``predict``.
        num_groups: Groups of samples that are also summed each for itself; 0 for none.
    """

    def __init__(
        self,
        likelihood: Likelihood,
        y: Tensor | None = None,
        *,
        keep_samples: bool = False,
        unbiased: bool = False,
        num_groups: int = 0,
    ) -> None:
        self.likelihood = likelihood
        self.y = y
        self.unbiased = unbiased
        self.groups = _Groups(num_groups)
        self.count = 0
        self.total: Tensor
        self.total_entropy: Tensor
        self.total_logits: Tensor
        self.total_energy: Tensor
        self.log_likelihood: Tensor | None = None

    def add(self, output: Tensor) -> Tensor:
        """Add one posterior sample and return its probabilities."""
        probabilities, _ = self.likelihood.moments(output)
        entropy = self.likelihood.entropy(probabilities)
        if self.count == 0:
            self._check_labels(output)
            self.total = torch.zeros_like(probabilities)
            self.total_entropy = torch.zeros_like(entropy)
            if self.likelihood.has_logits:
                self.total_logits = torch.zeros_like(probabilities)
                self.total_energy = torch.zeros_like(probabilities[:, 0])
        self.total += probabilities
        self.total_entropy += entropy
        if self.likelihood.has_logits:
            logits = self.likelihood.logits(output)
            self.total_logits += logits
            self.total_energy -= logits.logsumexp(1)
        term = None
        if self.y is not None:
            term = _wide(self.likelihood.label_log_prob(output, self.y.to(output.device)))
            self.log_likelihood = _log_add(self.log_likelihood, term)
        self.groups.add(self.count, probabilities, term, None)
        self.count += 1
        return probabilities

    def _check_labels(self, output: Tensor) -> None:
        try:
            if self.y is not None:
                self.likelihood.target(output, self.y.to(output.device))
        except BayesdropError:
            self.y = None

    def result(self) -> dict[str, Tensor]:
        """Return the mean, the split of its entropy and what the logits alone tell."""
        mean = self.total / self.count
        predictive, expected = self.likelihood.entropy(mean), self.total_entropy / self.count
        # >= 0 by Jensen's inequality, but for rounding.
        information = (predictive - expected).clamp(min=0.0)
        result = {
            "mean": mean,
            "confidence": self.likelihood.confidence(mean),
            "predictive_entropy": predictive,
            "expected_entropy": expected,
            "mutual_information": information * _bessel(self.count, self.unbiased),
        }
        if self.likelihood.has_logits:
            result["energy"] = self.total_energy / self.count
            result["logit_norm"] = (self.total_logits / self.count).norm(dim=1)
        if self.log_likelihood is not None:
            result["log_likelihood"] = self.log_likelihood - math.log(self.count)
        return result | self.groups.result()


class ValueMoments:
    """Running mean and variance of regression samples: law of total variance, Welford's update.

    Args:
        likelihood: The likelihood.
        y: Targets of the rows, if there are any.
        keep_samples: Whether samples are kept, and with them their variances.
        unbiased: As in ``predict``.
        num_groups: Groups of samples that are also summed each for itself; 0 for none.
    """

    def __init__(
        self,
        likelihood: Likelihood,
        y: Tensor | None,
        *,
        keep_samples: bool,
        unbiased: bool = False,
        num_groups: int = 0,
    ) -> None:
        self.likelihood = likelihood
        self.y = y
        # Without a law of which they are the variances nobody can use them.
        known = likelihood.has_normal_noise or type(likelihood).crps is not Likelihood.crps
        self.keep_variances = keep_samples and known
        self.unbiased = unbiased
        self.groups = _Groups(num_groups)
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
        difference = mean - self.mean
        self.mean += difference / (self.count + 1)
        self.squares += difference * (mean - self.mean)
        noise = torch.zeros_like(mean) if variance is None else variance
        self.noise += noise
        if self.keep_variances:
            self.sample_variances.append(noise.cpu())
        term = below = None
        if self.y is not None:
            fn = self.likelihood.distribution(output)
            target = self.likelihood.target(output, self.y.to(output.device))
            below = self.likelihood.cdf(output, target)
            if below is not None:
                self.pit = below if self.pit is None else self.pit + below
            term = _wide(fn.log_prob(target))
            self.log_likelihood = _log_add(self.log_likelihood, term)
        self.groups.add(self.count, mean, term, below)
        self.count += 1
        return mean

    def result(self) -> dict[str, Tensor]:
        """Return the mean and the split of the variance."""
        aleatoric = self.noise / self.count
        epistemic = self.squares / self.count * _bessel(self.count, self.unbiased)
        result = {
            "mean": self.mean,
            "variance": aleatoric + epistemic,
            "aleatoric_variance": aleatoric,
            "epistemic_variance": epistemic,
        }
        if self.log_likelihood is not None:
            result["log_likelihood"] = self.log_likelihood - math.log(self.count)
        if self.pit is not None:
            result["pit"] = self.pit / self.count
        if self.sample_variances:
            result["sample_variances"] = torch.stack(self.sample_variances)
        return result | self.groups.result()


class _Groups:
    """The same sums over each of a few groups of samples, which take turns."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.counts = [0] * number
        self.means: list[Tensor] = []
        self.terms: list[Tensor] = []
        self.pits: list[Tensor] = []

    def add(self, index: int, mean: Tensor, term: Tensor | None, pit: Tensor | None) -> None:
        if not self.number:
            return
        group = index % self.number
        self.counts[group] += 1
        for sums, value in ((self.means, mean), (self.pits, pit)):
            if value is not None and index < self.number:
                sums.append(value.clone())
            elif value is not None:
                sums[group] += value
        if term is not None and index < self.number:
            self.terms.append(term)
        elif term is not None:
            self.terms[group] = torch.logaddexp(self.terms[group], term)

    def result(self) -> dict[str, Tensor]:
        found = {}
        for name, sums in (("group_mean", self.means), ("group_pit", self.pits)):
            if sums:
                pairs = zip(sums, self.counts, strict=True)
                found[name] = torch.stack([total / count for total, count in pairs])
        if self.terms:
            pairs = zip(self.terms, self.counts, strict=True)
            logs = [total - math.log(count) for total, count in pairs]
            found["group_log_likelihood"] = torch.stack(logs)
        return found


def _bessel(count: int, unbiased: bool) -> float:
    """Return what an average over ``count`` samples is multiplied by, to be unbiased or not."""
    return count / (count - 1) if unbiased and count > 1 else 1.0


def _log_add(former: Tensor | None, term: Tensor) -> Tensor:
    return term if former is None else torch.logaddexp(former, term)


def _wide(term: Tensor) -> Tensor:
    # One number an example; Apple's GPUs have no float64.
    return term if term.device.type == "mps" else term.double()
