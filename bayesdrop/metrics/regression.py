"""Root mean squared error of predictive means."""

from __future__ import annotations

import math

from bayesdrop.metrics.arrays import as_tensor, check_index
from bayesdrop.metrics.checks import Array, as_mixture


def root_mean_squared_error(mean: Array, y: Array) -> float:
    r"""Return :math:`\sqrt{\frac{1}{ND} \sum_{nd} (\mu_{nd} - y_{nd})^2}`, in the units of ``y``.

    Args:
        mean: Predictive means, ``(N, D)`` or ``(N,)``.
        y: Targets of the same shape; ``(N,)`` also goes with ``(N, 1)``.

    Raises:
        ShapeError: If the shapes differ.
        DataError: If there are no values or one is not finite.

    Example:
        >>> import torch
        >>> root_mean_squared_error(torch.zeros(2, 1), torch.tensor([3.0, -3.0]))
        3.0
    """
    who = "root_mean_squared_error"
    check_index(who, mean, y)
    mixture = as_mixture(who, as_tensor(who, mean)[None], y, None)
    return math.sqrt(float((mixture.means[0] - mixture.y).square().mean()))
