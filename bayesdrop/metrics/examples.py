"""What each example adds to the figures of a classifier."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bayesdrop.errors import ShapeError
from bayesdrop.metrics.bins import ClassBins
from bayesdrop.metrics.checks import (
    Array,
    as_labels,
    as_mean_probabilities,
    as_probabilities,
    as_scores,
)

TINY = torch.finfo(torch.float64).tiny
"""What the probability of a label counts at least: 708 nats at most."""


class Examples(NamedTuple):
    """Checked predictions and labels, and what is averaged over them; on the CPU, in float64."""

    probabilities: Tensor
    """``(N, C)``"""
    labels: Tensor
    """``(N,)``, int64."""
    confidence: Tensor
    """Probability of the most probable class, ``(N,)``."""
    correct: Tensor
    """Whether that class is the label, booleans ``(N,)``."""

    @property
    def nll(self) -> Tensor:
        """Negative log-probability of the label, in nats, ``(N,)``."""
        chosen = self.probabilities.gather(1, self.labels[:, None]).squeeze(1)
        return -chosen.clamp(min=TINY).log() + 0.0

    @property
    def brier(self) -> Tensor:
        """Squared distance from the label, summed over classes, ``(N,)``."""
        one_hot = torch.nn.functional.one_hot(self.labels, self.probabilities.shape[1])
        return (self.probabilities - one_hot).square().sum(1)

    def bins(self, num_bins: int) -> ClassBins:
        """Return sums over so many bins of each class's probability."""
        bins = ClassBins(self.probabilities.shape[1], num_bins)
        bins.add(self.probabilities, self.labels)
        return bins


def as_examples(who: str, predictions: Array, labels: Array, *, average: bool = False) -> Examples:
    """Check predictions and labels, or say what is wrong.

    Args:
        who: The function that asks.
        predictions: ``(N, C)``, or P(y = 1) of shape ``(N,)``.
        labels: Integers ``(N,)``.
        average: Whether posterior samples ``(S, N, C)`` are taken too, and averaged.

    Raises:
        DataError: If the values make no sense; ``ShapeError`` if the shapes do not.
    """
    values = (as_mean_probabilities if average else as_probabilities)(who, predictions)
    return examples_of(values, as_labels(who, labels, values, predictions))


def examples_of(probabilities: Tensor, labels: Tensor) -> Examples:
    """Return the same of checked probabilities ``(N, C)`` and labels ``(N,)``."""
    confidence, predicted = probabilities.max(1)
    return Examples(probabilities, labels, confidence, predicted == labels)


def nll_of(who: str, examples: Examples, log_likelihood: Array | None) -> Tensor:
    """Return the negative log-likelihood ``(N,)``: that given, or that of the probabilities.

    Raises:
        DataError: If one is not finite; ``ShapeError`` if there is not one for each label.
    """
    if log_likelihood is None:
        return examples.nll
    return -one_for_each(who, "log-likelihood", log_likelihood, len(examples.labels))


def one_for_each(who: str, name: str, scores: Array, count: int) -> Tensor:
    """Return scores ``(N,)`` in float64, as ``as_scores``, of as many examples.

    Raises:
        DataError: If one is not finite; ``ShapeError`` if there is not one for each label.
    """
    values = as_scores(who, name, scores)
    if len(values) != count:
        raise ShapeError(
            who,
            expected=f"{count} values of {name}, one for each label",
            got=f"{len(values)}",
            hint="Do all come from the same data?",
        )
    return values


def entropy_of(probabilities: Tensor) -> Tensor:
    """Return the entropy of probabilities ``(..., C)`` in nats, ``(...)``."""
    return torch.special.entr(probabilities).sum(-1)
