"""A Gaussian code of which a random prefix is used: ordered spikes and slabs."""

from __future__ import annotations

from typing import Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints, register_kl
from torch.distributions import kl_divergence as torch_kl_divergence
from typing_extensions import override

from bayesdrop.distributions.ordered_mask import OrderedMask, chain_kl
from bayesdrop.errors import ShapeError
from bayesdrop.ops import noise
from bayesdrop.typing import Shape


class NestedNormal(TorchDistribution):
    r"""Normal features behind an ordered mask, closed features being exactly zero.

    .. math::
        c_k = z_k h_k, \qquad z \sim \mathrm{OrderedMask}(\beta), \quad
        h_k \sim N(\mu_k, \sigma_k^2)

        p(c) = P(t) \prod_{k \le F + t} N(c_k \mid \mu_k, \sigma_k^2)

    where :math:`F` features are always open and :math:`t` of the others are. It is the law of one
    thing, the code, so that what is closed costs nothing: its KL divergence is that of the masks
    plus that of every feature, weighted with the probability that it is open.

    Args:
        loc: :math:`\mu`, ``(..., K)``.
        scale: :math:`\sigma > 0`, ``(..., K)``.
        order: The mask's law, of event shape ``(D,)`` with :math:`D \le K`; the first
            :math:`F = K - D` features are always open. ``OrderedMaskStraightThrough`` gives
            samples a gradient in :math:`\beta`.
        validate_args: Whether to check arguments and values.

    Shape:  batch shape is the broadcast shape of the arguments', event shape ``(K,)``.

    A value's mask is read off it: features up to the last that is not zero are open.

    References:
        Cui et al. (2023), "Variational Nested Dropout", https://arxiv.org/abs/2101.11353.
        Deviation: a feature's divergence is weighted with :math:`P(z_k = 1)`; the authors' code
        takes the weights of the feature before it.

    Example:
        >>> order = OrderedMask(torch.full((3,), 0.5))
        >>> NestedNormal(torch.zeros(4), torch.ones(4), order).rsample((2,)).shape
        torch.Size([2, 4])
    """

    arg_constraints = {
        "loc": constraints.independent(constraints.real, 1),
        "scale": constraints.independent(constraints.positive, 1),
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        order: OrderedMask,
        *,
        validate_args: bool | None = None,
    ) -> None:
        (size,) = order.event_shape
        if loc.ndim < 1 or loc.shape[-1] < size or scale.shape[-1:] != loc.shape[-1:]:
            raise ShapeError(
                "NestedNormal",
                expected=f"loc and scale with one value for each of at least {size} features",
                got=f"shapes {tuple(loc.shape)} and {tuple(scale.shape)}",
                hint="The order has one unit for each feature that is not always open.",
            )
        batch_shape = torch.broadcast_shapes(loc.shape[:-1], scale.shape[:-1], order.batch_shape)
        self.loc = loc.expand(batch_shape + loc.shape[-1:])
        self.scale = scale.expand(batch_shape + loc.shape[-1:])
        self.order = order.expand(batch_shape)
        super().__init__(batch_shape, loc.shape[-1:], validate_args=validate_args)

    @override
    def expand(self, batch_shape: Shape, _instance: object = None) -> Self:
        new = self._get_checked_instance(type(self), _instance)
        shape = torch.Size(batch_shape)
        new.loc = self.loc.expand(shape + self.event_shape)
        new.scale = self.scale.expand(shape + self.event_shape)
        new.order = self.order.expand(shape)
        super(NestedNormal, new).__init__(shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def open_prob(self) -> Tensor:
        r"""Return :math:`P(z_k = 1)` of each feature, ``(..., K)``."""
        return self._with_frozen(self.order.mean)

    @property
    @override
    def mean(self) -> Tensor:
        return self.open_prob() * self.loc

    @property
    @override
    def variance(self) -> Tensor:
        second = self.open_prob() * (self.scale.square() + self.loc.square())
        return second - self.mean.square()

    @override
    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        features = self.loc + self.scale * noise.normal(shape, self.loc)
        order = self.order
        draw = order.rsample if order.has_rsample else order.sample
        mask = self._with_frozen(draw(torch.Size(sample_shape)))
        code = features * mask
        # What the code was made of, with the gradients that reading it off would lose.
        code._parts = mask, features  # type: ignore[attr-defined]
        return code

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        frozen = self.event_shape[0] - self.order.event_shape[0]
        mask, features = getattr(value, "_parts", (None, value))
        order = (open_features(value) if mask is None else mask)[..., frozen:]
        mask = self._with_frozen(order)
        normal = torch.distributions.Normal(self.loc, self.scale, validate_args=False)
        slabs = (mask * normal.log_prob(features)).sum(-1)
        return self.order.log_prob(order) + slabs

    def _with_frozen(self, order: Tensor) -> Tensor:
        frozen = self.event_shape[0] - self.order.event_shape[0]
        return torch.cat([order.new_ones(order.shape[:-1] + (frozen,)), order], -1)


def open_features(code: Tensor) -> Tensor:
    """Return the mask of a code: one up to its last feature that is not zero, ``(..., K)``."""
    used = (code != 0).to(code.dtype)
    return used.flip(-1).cummax(-1).values.flip(-1)


@register_kl(NestedNormal, NestedNormal)
def _kl_nested_nested(q: NestedNormal, p: NestedNormal) -> Tensor:
    r"""Return :math:`\mathrm{KL}(z) + \sum_k P_q(z_k = 1)\,\mathrm{KL}(N_k \,\|\, N_k')`."""
    slabs = torch_kl_divergence(
        torch.distributions.Normal(q.loc, q.scale, validate_args=False),
        torch.distributions.Normal(p.loc, p.scale, validate_args=False),
    )
    order = chain_kl(*torch.broadcast_tensors(q.order.logits, p.order.logits))
    return order + (q.open_prob() * slabs).sum(-1)
