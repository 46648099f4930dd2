"""Zero, or a number divided by the probability that it is there: inverted dropout."""

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


class ScaledBernoulli(TorchDistribution):
    r"""A Bernoulli mask divided by its probability, times a number.

    .. math:: w = \theta z / \pi, \quad z \sim \mathrm{Bernoulli}(\pi), \qquad
              E[w] = \theta, \quad \mathrm{Var}[w] = \theta^2 (1 - \pi) / \pi

    With :math:`\theta = 1` it is what ``nn.Dropout`` multiplies by in training, with a weight
    for :math:`\theta` what Bernoulli dropconnect makes of it. ``rsample`` has the gradient in
    :math:`\theta`, which is exact since :math:`z` does not depend on it, and none in :math:`\pi`.

    Args:
        probs: :math:`\pi` in (0, 1], the probability that ``w`` is not zero.
        loc: The mean :math:`\theta`.
        validate_args: Whether to check arguments and values.

    Shape:  batch shape is the broadcast shape of the arguments, event shape ``()``.

    Example:
        >>> ScaledBernoulli(torch.full((3,), 0.5)).sample((2,)).shape
        torch.Size([2, 3])
    """

    arg_constraints = {"probs": constraints.interval(0.0, 1.0), "loc": constraints.real}
    support = constraints.real
    has_rsample = True

    def __init__(
        self, probs: Tensor, loc: Tensor | float = 1.0, *, validate_args: bool | None = None
    ) -> None:
        self.probs, self.loc = broadcast_all(probs, loc)
        super().__init__(self.probs.shape, validate_args=validate_args)

    @override
    def expand(self, batch_shape: Shape, _instance: Any = None) -> Self:
        new = self._get_checked_instance(type(self), _instance)
        new.probs, new.loc = self.probs.expand(batch_shape), self.loc.expand(batch_shape)
        super(ScaledBernoulli, new).__init__(torch.Size(batch_shape), validate_args=False)
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
        probs = self.probs.detach()
        u = noise.uniform(self._extended_shape(torch.Size(sample_shape)), probs)
        return torch.where(u < probs, self.loc * probs.reciprocal(), 0.0)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        kept = torch.isclose(value * self.probs, self.loc, atol=0.0)
        probs = torch.where(self.loc == 0, 1.0, self.probs)
        dropped = torch.where(value == 0, torch.log1p(-probs), -torch.inf)
        return torch.where(kept, probs.log(), dropped)


@register_kl(ScaledBernoulli, ScaledBernoulli)
def _kl_scaled_bernoulli(q: ScaledBernoulli, p: ScaledBernoulli) -> Tensor:
    # The one value that is not zero is loc / probs: with any other of either it is impossible.
    same = (q.loc == p.loc) & ((q.probs == p.probs) | (q.loc == 0))
    return torch.where(same, torch.zeros_like(q.loc), torch.inf)
