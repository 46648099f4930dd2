"""Elementary functions that keep their precision near the ends of their domain."""

from __future__ import annotations

import math

import torch
from torch import Tensor

EULER_GAMMA = 0.5772156649015329


def log1mexp(x: Tensor) -> Tensor:
    r"""Return :math:`\log(1 - e^x)` for :math:`x < 0`, accurate at both ends.

    References:
        Maechler (2012), "Accurately computing log(1 - exp(-|a|))".
    """
    near = x > -math.log(2.0)
    # Each branch sees only arguments it is finite for, so that no NaN enters the gradient.
    inside = torch.where(near, x, -torch.ones_like(x))
    outside = torch.where(near, -torch.ones_like(x), x)
    return torch.where(near, (-torch.expm1(inside)).log(), torch.log1p(-outside.exp()))


def inverse_softplus(y: float) -> float:
    r"""Return the :math:`x` with :math:`\log(1 + e^x) = y > 0`."""
    return y + math.log(-math.expm1(-y))


def clamp_open_unit(x: Tensor) -> Tensor:
    """Clamp to the open unit interval: the smallest normal number up to 1 - eps."""
    info = torch.finfo(x.dtype)
    return x.clamp(min=info.tiny, max=1.0 - info.eps)


def wide(x: Tensor) -> Tensor:
    """Return ``x`` in float64 where the device has it, for differences of large numbers."""
    return x if x.device.type == "mps" else x.double()
