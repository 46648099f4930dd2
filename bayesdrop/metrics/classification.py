"""Error, negative log-likelihood and Brier score of class probabilities."""

from __future__ import annotations

import torch

from bayesdrop.metrics.checks import Array, as_labels, as_probabilities


def error_percent(probabilities: Array, labels: Array) -> float:
    """Return the share of examples whose most probable class is not the label, in percent.

    Args:
        probabilities: ``(N, C)``, or P(y = 1) of shape ``(N,)``; of equal ones the first counts.
        labels: Integers ``(N,)``.

    Raises:
        DataError: If the values make no sense; ``ShapeError`` if the shapes do not.

    Example:
        >>> error_percent(torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 1]))
        50.0
    """
    values = as_probabilities("error_percent", probabilities)
    target = as_labels("error_percent", labels, values)
    return float((values.argmax(1) != target).double().mean()) * 100.0


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
        >>> negative_log_likelihood(torch.tensor([[1.0, 0.0]]), torch.tensor([0])) == 0.0
        True
    """
    values = as_probabilities("negative_log_likelihood", probabilities)
    target = as_labels("negative_log_likelihood", labels, values)
    chosen = values.gather(1, target[:, None]).clamp(min=torch.finfo(torch.float64).tiny)
    return float((-chosen.log()).mean() + 0.0)


def brier_score(probabilities: Array, labels: Array) -> float:
    r"""Return the Brier score, summed over classes: 0 is perfect, 2 is certain and always wrong.

    .. math:: \frac1N \sum_n \sum_c (p_{nc} - [y_n = c])^2

    Args:
        probabilities: ``(N, C)``, or P(y = 1) of shape ``(N,)``, which counts both classes.
        labels: Integers ``(N,)``.

    Raises:
        DataError: If the values make no sense; ``ShapeError`` if the shapes do not.

    Example:
        >>> brier_score(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
        2.0
    """
    values = as_probabilities("brier_score", probabilities)
    target = as_labels("brier_score", labels, values)
    one_hot = torch.nn.functional.one_hot(target, values.shape[1])
    return float((values - one_hot).square().sum(1).mean())
