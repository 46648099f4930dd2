"""A number that is there, or zero in its place."""

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


class MaskedDelta(TorchDistribution):
    r"""A point that is kept with some probability, and zero otherwise.

    .. math:: w = \theta z, \quad z \sim \mathrm{Bernoulli}(\pi), \qquad
              E[w] = \pi \theta, \quad \mathrm{Var}[w] = \pi (1 - \pi)\, \theta^2

    Unlike ``ScaledBernoulli`` it does not rescale what is kept, and :math:`\pi` may be 0.
    ``rsample`` has the gradient in :math:`\theta`, through what was kept, and none in
    :math:`\pi`.

    Args:
        value: The point :math:`\theta`.
        probs: :math:`\pi` in [0, 1], the probability that it is kept.
        validate_args: Whether to check arguments and values.

    Shape:  batch shape is the broadcast shape of the arguments, event shape ``()``.

    Example:
        >>> MaskedDelta(torch.full((3,), 2.0), torch.tensor([0.0, 0.5, 1.0])).mean
        tensor([0., 1., 2.])
    """

    arg_constraints = {"value": constraints.real, "probs": constraints.unit_interval}
    support = constraints.real
    has_rsample = True

    def __init__(
        self, value: Tensor | float, probs: Tensor, *, validate_args: bool | None = None
    ) -> None:
        self.value, self.probs = broadcast_all(value, probs)
        super().__init__(self.probs.shape, validate_args=validate_args)

    @override
    def expand(self, batch_shape: Shape, _instance: Any = None) -> Self:
        new = self._get_checked_instance(type(self), _instance)
        new.value, new.probs = self.value.expand(batch_shape), self.probs.expand(batch_shape)
        super(MaskedDelta, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    @override
    def mean(self) -> Tensor:
        return self.value * self.probs

    @property
    @override
    def variance(self) -> Tensor:
        return self.value.square() * self.probs * (1 - self.probs)

    @override
    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        probs = self.probs.detach()
        u = noise.uniform(self._extended_shape(torch.Size(sample_shape)), probs)
        return torch.where(u < probs, self.value, 0.0)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        kept = torch.where(value == self.value, self.probs, 0.0)
        dropped = torch.where(value == 0, 1 - self.probs, 0.0)
        return (kept + dropped).log()


@register_kl(MaskedDelta, MaskedDelta)
def _kl_masked_delta(q: MaskedDelta, p: MaskedDelta) -> Tensor:
    kept, dropped = (_term(a, b) for a, b in ((q.probs, p.probs), (1 - q.probs, 1 - p.probs)))
    kl = torch.where((q.value != p.value) & (q.probs > 0), torch.inf, kept + dropped)
    return torch.where((q.value == 0) & (p.value == 0), 0.0, kl)


def _term(q: Tensor, p: Tensor) -> Tensor:
    # q log(q / p), which is 0 where both are 0.
    return torch.where(q == p, 0.0, torch.xlogy(q, q / p))
