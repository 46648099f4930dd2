"""Units with one law beside units with another, and what Kumaraswamys diverge from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints, kl_divergence, register_kl
from typing_extensions import override

from bayesdrop.distributions.kumaraswamy import Kumaraswamy
from bayesdrop.typing import Shape


class Joined(TorchDistribution):
    r"""Units of several laws in one vector, joined along the last dimension.

    .. math:: p(x) = \prod_i p_i(x_i), \qquad x = (x_1, x_2, \dots)

    Args:
        parts: Distributions of single units with one support, whose batch shapes
            :math:`(\dots, K_i)` differ in the last dimension only.

    Shape:  batch shape :math:`(\dots, \sum_i K_i)`, event shape ``()``.

    Example:
        >>> from pyro.distributions import Beta
        >>> Joined([Beta(torch.ones(2), 1.0), Kumaraswamy(torch.ones(3), 1.0)]).rsample().shape
        torch.Size([5])
    """

    arg_constraints = {}

    def __init__(self, parts: Sequence[TorchDistribution]) -> None:
        self.parts = tuple(parts)
        self.sizes = [part.batch_shape[-1] for part in parts]
        size = (*parts[0].batch_shape[:-1], sum(self.sizes))
        super().__init__(torch.Size(size), validate_args=False)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        """That of the parts."""
        return self.parts[0].support

    @property
    @override
    def has_rsample(self) -> bool:  # type: ignore[override]
        return all(part.has_rsample for part in self.parts)

    @override
    def expand(self, batch_shape: Shape, _instance: object = None) -> Joined:
        outer = tuple(batch_shape)[:-1]
        return Joined(
            [part.expand(torch.Size((*outer, part.batch_shape[-1]))) for part in self.parts]
        )

    @override
    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        return torch.cat([part.rsample(torch.Size(sample_shape)) for part in self.parts], -1)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        values = value.split(self.sizes, -1)
        terms = [part.log_prob(x) for part, x in zip(self.parts, values, strict=True)]
        return torch.cat(terms, -1)

    @property
    @override
    def mean(self) -> Tensor:
        return torch.cat([part.mean for part in self.parts], -1)

    @property
    @override
    def variance(self) -> Tensor:
        return torch.cat([part.variance for part in self.parts], -1)


@register_kl(Kumaraswamy, Joined)
def _kl_kumaraswamy_joined(q: Kumaraswamy, p: Joined) -> Tensor:
    """As that from each part."""
    pairs = (x.split(p.sizes, -1) for x in (q.concentration1, q.concentration0))
    terms = [
        kl_divergence(Kumaraswamy(a, b, validate_args=False), part)
        for a, b, part in zip(*pairs, p.parts, strict=True)
    ]
    return torch.cat(terms, -1)
