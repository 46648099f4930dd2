"""Error, negative log-likelihood and Brier score of class probabilities."""

from __future__ import annotations

from bayesdrop.metrics.checks import Array
from bayesdrop.metrics.examples import as_examples


def error_percent(probabilities: Array, labels: Array) -> float:
    """Return the share of examples whose most probable class is not the label, in percent.

    Args:
        probabilities: ``(N, C)``, or P(y = 1) of shape ``(N,)``; of equal ones the first counts.
        labels: Integers ``(N,)``.

    Raises:
        DataError: If the values make no sense; ``ShapeError`` if the shapes do not.

    Example:
        >>> import torch
        >>> error_percent(torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 1]))
        50.0
    """
    examples = as_examples("error_percent", probabilities, labels)
    return float((~examples.correct).double().mean()) * 100.0


def negative_log_likelihood(probabilities: Array, labels: Array) -> float:
    r"""Return the average negative log-probability of the label, in nats per example.

    .. math:: -\frac1N \sum_n \log \max(p_{n y_n}, \epsilon), \qquad \epsilon = 2.2 \cdot 10^{-308}

    The bound, float64's smallest normal number, keeps a label of probability zero at 708 nats.

    Args:
        probabilities: ``(N, C)``, or P(y = 1) of shape ``(N,)``.
        labels: Integers ``(N,)``.

    Raises:
        DataError: If the values make no sense; ``ShapeError`` if the shapes do not.

    Example:
        >>> import torch
        >>> negative_log_likelihood(torch.tensor([[1.0, 0.0]]), torch.tensor([0])) == 0.0
        True
    """
    examples = as_examples("negative_log_likelihood", probabilities, labels)
    return float(examples.nll.mean())


def brier_score(probabilities: Array, labels: Array) -> float:
    r"""Return the Brier score, summed over classes: 0 is perfect, 2 is certain and always wrong.

    .. math:: \frac1N \sum_n \sum_c (p_{nc} - [y_n = c])^2

    Args:
        probabilities: ``(N, C)``, or P(y = 1) of shape ``(N,)``, which counts both classes.
        labels: Integers ``(N,)``.

    Raises:
        DataError: If the values make no sense; ``ShapeError`` if the shapes do not.

    Example:
        >>> import torch
        >>> brier_score(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
        2.0
    """
    return float(as_examples("brier_score", probabilities, labels).brier.mean())
