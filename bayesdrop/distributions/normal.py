"""Pyro's normal distribution with its noise from ``bayesdrop.ops.noise``."""

from __future__ import annotations

import torch
from pyro.distributions import Normal as PyroNormal
from torch import Tensor
from typing_extensions import override

from bayesdrop.ops import noise
from bayesdrop.typing import Shape


class Normal(PyroNormal):
    """Normal distribution whose noise can be replaced, as that of all our distributions.

    Everything else, its KL divergences included, is Pyro's.

    Args:
        loc: Mean.
        scale: Standard deviation, > 0.
        validate_args: Whether to check arguments and values.

    Example:
        >>> Normal(torch.zeros(2), torch.ones(2)).rsample((3,)).shape
        torch.Size([3, 2])
    """

    @override
    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.loc + self.scale * noise.normal(shape, self.loc)
