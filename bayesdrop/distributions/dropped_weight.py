"""A fixed number or zero: the weights of Bernoulli dropconnect."""

from __future__ import annotations

from typing import Any, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints, register_kl
from torch.distributions.utils import broadcast_all
from typing_extensions import override

from bayesdrop.ops import noise
from bayesdrop.typing import Shape


class DroppedWeight(TorchDistribution):
    r"""A number divided by the probability that it is there, or zero.

    .. math:: w = \theta z / \pi, \quad z \sim \mathrm{Bernoulli}(\pi), \qquad
              E[w] = \theta, \quad \mathrm{Var}[w] = \theta^2 (1 - \pi) / \pi

    ``rsample`` has the gradient in :math:`\theta`, which is exact since :math:`z` does not depend
    on it; there is none in :math:`\pi`.

    Args:
        loc: :math:`\theta`.
        probs: :math:`\pi` in (0, 1], the probability that ``w`` is not zero.
        validate_args: Whether to check arguments and values.

    Shape:  batch shape is the broadcast shape of the arguments, event shape ``()``.

    Example:
        >>> DroppedWeight(torch.ones(3), torch.tensor(0.5)).rsample((2,)).shape
        torch.Size([2, 3])
    """

    arg_constraints = {"loc": constraints.real, "probs": constraints.interval(0.0, 1.0)}
    support = constraints.real
    has_rsample = True

    def __init__(self, loc: Tensor, probs: Tensor, *, validate_args: bool | None = None) -> None:
        self.loc, self.probs = broadcast_all(loc, probs)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @override
    def expand(self, batch_shape: Shape, _instance: Any = None) -> Self:
        new = self._get_checked_instance(type(self), _instance)
        new.loc, new.probs = self.loc.expand(batch_shape), self.probs.expand(batch_shape)
        super(DroppedWeight, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    @override
    def mean(self) -> Tensor:
        return self.loc

    @property
    @override
    def variance(self) -> Tensor:
        return self.loc.square() * (1 - self.probs) / self.probs

    @override
    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        u = noise.uniform(self._extended_shape(torch.Size(sample_shape)), self.probs)
        return self.loc * ((u < self.probs) / self.probs)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        kept = torch.isclose(value * self.probs, self.loc)
        probs = torch.where(self.loc == 0, 1.0, self.probs)
        dropped = torch.where(value == 0, torch.log1p(-probs), -torch.inf)
        return torch.where(kept, probs.log(), dropped)


@register_kl(DroppedWeight, DroppedWeight)
def _kl_dropped_weight(q: DroppedWeight, p: DroppedWeight) -> Tensor:
    # The one value that is not zero is loc / probs: with any other of either it is impossible.
    same = (q.loc == p.loc) & ((q.probs == p.probs) | (q.loc == 0))
    return torch.where(same, torch.zeros_like(q.loc), torch.inf)
