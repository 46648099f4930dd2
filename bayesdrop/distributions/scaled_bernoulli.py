"""A Bernoulli mask divided by its own probability, so that its mean is one."""

from __future__ import annotations

from typing import Any, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from typing_extensions import override

from bayesdrop.ops import noise
from bayesdrop.typing import Shape


class ScaledBernoulli(TorchDistribution):
    r"""Bernoulli divided by its probability: what ``nn.Dropout`` multiplies by in training.

    .. math:: P(z = 1 / \pi) = \pi, \qquad P(z = 0) = 1 - \pi, \qquad
              E[z] = 1, \quad \mathrm{Var}[z] = (1 - \pi) / \pi

    Args:
        probs: :math:`\pi` in (0, 1], the probability that ``z`` is not zero.
        validate_args: Whether to check arguments and values.

    Shape:  batch shape is that of ``probs``, event shape ``()``.

    Example:
        >>> ScaledBernoulli(torch.full((3,), 0.5)).sample((2,)).shape
        torch.Size([2, 3])
    """

    arg_constraints = {"probs": constraints.interval(0.0, 1.0)}
    support = constraints.nonnegative
    has_rsample = False

    def __init__(self, probs: Tensor, *, validate_args: bool | None = None) -> None:
        self.probs = probs
        super().__init__(probs.shape, validate_args=validate_args)

    @override
    def expand(self, batch_shape: Shape, _instance: Any = None) -> Self:
        new = self._get_checked_instance(type(self), _instance)
        new.probs = self.probs.expand(batch_shape)
        super(ScaledBernoulli, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    @override
    def mean(self) -> Tensor:
        return torch.ones_like(self.probs)

    @property
    @override
    def variance(self) -> Tensor:
        return (1 - self.probs) / self.probs

    @override
    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        u = noise.uniform(self._extended_shape(torch.Size(sample_shape)), self.probs)
        return (u < self.probs) / self.probs

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        kept = torch.isclose(value * self.probs, torch.ones_like(self.probs))
        dropped = torch.where(value == 0, torch.log1p(-self.probs), -torch.inf)
        return torch.where(kept, self.probs.log(), dropped)
