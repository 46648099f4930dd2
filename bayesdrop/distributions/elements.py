"""What a distribution over many units says about one."""

from __future__ import annotations

from typing import Any

from pyro.distributions import TorchDistribution
from torch.distributions import Independent


def elements(fn: TorchDistribution) -> Any:
    """Return the distribution of single units, as far as ``to_event`` joined them."""
    base: Any = fn
    while isinstance(base, Independent):
        base = base.base_dist
    return base
