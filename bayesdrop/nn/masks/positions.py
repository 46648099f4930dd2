"""What a mask that looks at its input sees of it: a number for each unit."""

from __future__ import annotations

import torch
from torch import Tensor

from bayesdrop.errors import ShapeError
from bayesdrop.nn.mask import BayesianDropout


def mean_over_positions(layer: BayesianDropout, x: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return the mean of each unit over positions, such as the pixels of a map, ``(N, K)``.

    Args:
        layer: The layer.
        x: Its input.
        dtype: Of the result, as autocast may have lowered the input's.

    Raises:
        ShapeError: If there is no input.
    """
    if x is None:
        raise ShapeError(
            type(layer).__name__,
            expected="the layer's input",
            got="None",
            hint="Its masks depend on the input: pass x.",
        )
    x = x.to(dtype)
    unit, batch = x.ndim + layer.unit_dim, layer.batch_dim
    if layer.rows_of(x) is None:
        batch = unit
    positions = [dim for dim in range(x.ndim) if dim not in (unit, batch)]
    features = x.mean(positions) if positions else x
    return features.T if batch > unit else features
