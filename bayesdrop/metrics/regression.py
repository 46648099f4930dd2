"""Root mean squared error of predictive means."""

from __future__ import annotations

import math

import torch

from bayesdrop.errors import DataError, ShapeError
from bayesdrop.metrics.checks import Array


def root_mean_squared_error(mean: Array, y: Array) -> float:
    r"""Return :math:`\sqrt{\frac{1}{ND} \sum_{nd} (\mu_{nd} - y_{nd})^2}`, in the units of ``y``.

    Args:
        mean: Predictive means, ``(N, D)`` or ``(N,)``.
        y: Targets of the same shape; ``(N,)`` also goes with ``(N, 1)``.

    Raises:
        ShapeError: If the shapes differ.
        DataError: If there are no values or one is not finite.

    Example:
        >>> root_mean_squared_error(torch.zeros(2, 1), torch.tensor([3.0, -3.0]))
        3.0
    """
    predicted = torch.as_tensor(mean).detach().to("cpu", torch.float64)
    target = torch.as_tensor(y).detach().to("cpu", torch.float64)
    if target.ndim == 1 and predicted.shape[1:] == (1,):
        target = target.unsqueeze(-1)
    if predicted.shape != target.shape:
        raise ShapeError(
            "root_mean_squared_error",
            expected=f"targets of shape {tuple(predicted.shape)}",
            got=str(tuple(target.shape)),
            hint="Means and targets must have the same shape.",
        )
    squares = (predicted - target).square()
    if squares.numel() == 0 or not bool(torch.isfinite(squares).all()):
        raise DataError(
            "root_mean_squared_error",
            expected="finite means and targets of at least one example",
            got="none" if squares.numel() == 0 else "nan or infinity",
            hint="Is the data set empty, or did the network diverge?",
        )
    return math.sqrt(float(squares.mean()))
