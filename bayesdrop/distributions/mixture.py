"""A mixture whose components lie side by side in the last batch dimension."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from typing_extensions import override

from bayesdrop.typing import Shape


class Mixture(TorchDistribution):
    r"""A mixture of the last batch dimension of another distribution.

    .. math:: p(y) = \sum_{m=1}^{M} w_m\, p_m(y)

    Args:
        components: The components :math:`p_m`, batch shape ``(..., M)``.
        log_weights: :math:`\log w_m`, normalised, broadcast to ``(..., M)``; None is
            :math:`1 / M` each.

    Shape:  batch shape ``(...)``, event shape that of the components.

    Example:
        >>> from pyro.distributions import Normal
        >>> Mixture(Normal(torch.zeros(5, 3), 1.0)).log_prob(torch.zeros(5)).shape
        torch.Size([5])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, components: TorchDistribution, log_weights: Tensor | None = None) -> None:
        self.components, self.log_weights = components, log_weights
        super().__init__(components.batch_shape[:-1], components.event_shape, validate_args=False)

    @property
    @override
    def support(self) -> constraints.Constraint | None:
        return self.components.support

    @override
    def expand(self, batch_shape: Shape, _instance: object = None) -> Mixture:
        wide = torch.Size(batch_shape) + self.components.batch_shape[-1:]
        return Mixture(self.components.expand(wide), self.log_weights)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        terms = self.components.log_prob(value.unsqueeze(-1 - len(self.event_shape)))
        return log_mixture(terms, self.log_weights)

    @override
    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        values = self.components.sample(torch.Size(sample_shape))
        batch = values.shape[: values.ndim - len(self.event_shape)]
        log_weights = self.log_weights
        if log_weights is None:
            log_weights = torch.zeros(batch[-1], device=values.device)
        probs = log_weights.exp().expand(batch).reshape(-1, batch[-1])
        chosen = torch.multinomial(probs, 1).reshape(batch[:-1])
        by_component = values.reshape(-1, batch[-1], self.event_shape.numel())
        rows = torch.arange(len(by_component), device=values.device)
        return by_component[rows, chosen.flatten()].reshape(batch[:-1] + self.event_shape)


def log_mixture(log_probs: Tensor, log_weights: Tensor | None = None) -> Tensor:
    r"""Return :math:`\log \sum_m w_m e^{\ell_m}` over the last dimension.

    Args:
        log_probs: :math:`\ell`, ``(..., M)``.
        log_weights: As for ``Mixture``.
    """
    if log_weights is None:
        return log_probs.logsumexp(-1) - math.log(log_probs.shape[-1])
    return (log_probs + log_weights).logsumexp(-1)
