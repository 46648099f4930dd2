"""The mask of units that come in groups, of which a prefix is kept."""

from __future__ import annotations

from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from typing_extensions import override

from bayesdrop.distributions import OrderedMask
from bayesdrop.typing import Shape


class UnitMask(TorchDistribution):
    """The mask of units whose groups have an ordered mask.

    Args:
        order: Law of the mask of the groups that are not always kept, event shape ``(D,)``.
        unit_group: Group of each unit, ``(K,)``; those below ``always_kept`` are kept.
        always_kept: Number of groups that are kept in every mask.

    Shape:  batch shape is the order's, event shape ``(K,)``.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.independent(constraints.boolean, 1)

    def __init__(self, order: OrderedMask, unit_group: Tensor, always_kept: int) -> None:
        self.order, self.unit_group, self.always_kept = order, unit_group, always_kept
        super().__init__(order.batch_shape, unit_group.shape, validate_args=False)

    @property
    @override
    def has_rsample(self) -> bool:  # type: ignore[override]
        return self.order.has_rsample

    @override
    def expand(self, batch_shape: Shape, _instance: object = None) -> UnitMask:
        return UnitMask(self.order.expand(batch_shape), self.unit_group, self.always_kept)

    @property
    @override
    def mean(self) -> Tensor:
        return self._of_units(self.order.mean)

    @override
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        with torch.no_grad():
            if self.has_rsample:
                return self.rsample(sample_shape)
            shape = self._extended_shape(torch.Size(sample_shape))
            mean = self.mean
            return (self.order.quantiles(shape[:-1]) < mean).to(mean.dtype)

    @override
    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        return self._of_units(self.order.rsample(torch.Size(sample_shape)))

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        groups = self.always_kept + self.order.event_shape[0]
        first = first_units(self.unit_group, groups)[self.always_kept :]
        return self.order.log_prob(value[..., first])

    def _of_units(self, order: Tensor) -> Tensor:
        return of_units(order, self.unit_group, self.always_kept)


def first_units(unit_group: Tensor, num_groups: int) -> Tensor:
    """Return one unit of each group, ``(G,)``."""
    group, unit = unit_group.sort(stable=True)
    return unit[torch.searchsorted(group, torch.arange(num_groups, device=group.device))]


def of_units(order: Tensor, unit_group: Tensor, always_kept: int) -> Tensor:
    """Return the mask of the units of a mask of the ordered groups, ``(..., K)``."""
    fixed = order.new_ones(order.shape[:-1] + (always_kept,))
    return torch.cat([fixed, order], -1).index_select(-1, unit_group)
