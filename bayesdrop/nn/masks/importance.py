"""The order in which units matter, from a number for each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bayesdrop.errors import ConfigError, ShapeError


def importance_ranks(
    who: str, importance: Tensor | Sequence[float], num_units: int, device: torch.device
) -> Tensor:
    """Return the rank of each unit, 0 for the most important one; equal ones keep their order.

    Args:
        who: The layer, for messages.
        importance: A number for each unit, such as the norm of its weights, shape ``(K,)``.
        num_units: Number of units :math:`K`.
        device: Of the result.

    Raises:
        ShapeError: If there is not one number for each unit.
        ConfigError: If one is NaN.
    """
    values = torch.as_tensor(importance, device=device)
    if values.shape != (num_units,):
        raise ShapeError(
            f"{who}.rank_units",
            expected=f"one importance for each of the {num_units} units",
            got=f"shape {tuple(values.shape)}",
            hint="Take the norm over all dimensions of the weights but the units'.",
        )
    if bool(values.isnan().any()):
        raise ConfigError(
            f"{who}.rank_units",
            expected="numbers that can be ordered",
            got="NaN",
            hint="Are the weights finite?",
        )
    return values.argsort(descending=True, stable=True).argsort()
