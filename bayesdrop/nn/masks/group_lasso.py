"""Structured sparsity learning: a norm of each unit's weights as penalty, and exact zeros."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import Delta, TorchDistribution
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.errors import ConfigError
from bayesdrop.nn.arguments import check_weights
from bayesdrop.nn.catalogue import register
from bayesdrop.nn.latents import LatentOwner
from bayesdrop.nn.mask import BayesianDropout
from bayesdrop.ops.proximal import metric_of, shrink_groups
from bayesdrop.ops.transforms import in_transform
from bayesdrop.typing import Latents


@register
class GroupLassoDropout(BayesianDropout):
    r"""Structured sparsity learning: the group lasso of each unit's weights.

    .. math::
        z_{nk} = \mathbb 1[w_k \ne 0], \qquad
        \mathrm{loss} = -\log p(y \mid x, w) + \lambda \sum_k \lVert w_k \rVert_2

    where :math:`w_k` are the weights that unit :math:`k` is multiplied by, or, where the mask is
    on a layer's outputs, those that compute it, with its bias. Nothing is random: it is the
    maximum of a posterior whose prior on the weights of a unit is
    :math:`p(w_k) \propto \exp(-\lambda \lVert w_k \rVert_2)`, and the non-Bayesian baseline of the
    masks that prune.

    A gradient never makes weights exactly zero. So ``fit`` takes a proximal step after each step
    of its optimiser, in the optimiser's own metric (Adam's second moments, SGD's momentum):

    .. math::
        w_k \leftarrow \arg\min_w \tfrac12 (w - w_k)^\top C_k (w - w_k)
        + \tfrac{\lambda}{N} \lVert w \rVert_2, \qquad
        C = \operatorname{diag}(\sqrt{\hat v} + \epsilon) / \eta \text{ for Adam}

    A point that both steps leave alone is one where zero is in the gradient of the loss plus the
    subdifferential of the penalty, whatever the metric: the group lasso's solution, in a convex
    problem. A unit whose weights are zero is pruned, and comes back if the loss pulls harder than
    :math:`\lambda`, unless the mask is on a layer's outputs: such a unit stays off, as a rectifier
    would keep it.

    Args:
        num_units: Number of units :math:`K`.
        unit_dim: The masked dimension: -1 for features, -3 for convolution maps.
        batch_dim: The dimension of the examples, counted from the first.
        threshold: Units with a keep probability below this are pruned; the keep probability is 0
            or 1.
        kl_scale: Factor on the penalty.
        cost_per_norm: :math:`\lambda \ge 0` in nats of the whole data set for a norm of 1: the
            literature's :math:`\lambda_g`, on the mean loss, times the number of examples. 0 is
            the network without the penalty. ``fit`` can schedule it.
        proximal: Whether the penalty acts by the proximal step alone, and has no gradient. Where
            nobody calls ``after_step(optimizer)`` after each step, as in Pyro's ``SVI``, the
            penalty then does nothing: False gives it its gradient, and weights that are small and
            never zero.

    Shape:  input and output ``(N, ..., K)``, or ``(N, ..., K, H, W)`` with ``unit_dim=-3``.
    Sites:  ``{module path}.z``, plate ``data``, event ``(K,)``, a constant; the penalty is the
        factor ``{module path}.penalty``.

    ``convert`` says which layer the units belong to (``bind_weights``). Without one there is no
    penalty, and all units are kept. Weight decay, if there is one, keeps its place in the loss: it
    holds what is before a unit from growing as what is behind it shrinks.

    References:
        Wen, Wu, Wang, Chen, Li (2016), "Learning Structured Sparsity in Deep Neural Networks",
        https://arxiv.org/abs/1608.03665; Yuan, Lin (2006) for the penalty.
        Deviations: one group a unit, where the paper has one for the filters and another for the
        channels; a proximal step, where the paper prunes small norms in the end.

    Example:
        >>> masks = GroupLassoDropout(4, cost_per_norm=10.0)
        >>> linear = nn.Linear(4, 3)
        >>> nn.init.zeros_(linear.weight[:, 1]).shape
        torch.Size([3])
        >>> masks.bind_weights(linear, dim=1)
        >>> masks.kept()
        tensor([ True, False,  True,  True])
    """

    key: ClassVar[str] = "group-lasso"
    reference: ClassVar[str] = "Wen et al. (2016), https://arxiv.org/abs/1608.03665"

    schedulable: ClassVar[tuple[str, ...]] = ("cost_per_norm",)
    always_shown: ClassVar[tuple[str, ...]] = ("cost_per_norm",)

    cost_per_norm: Tensor

    def __init__(
        self,
        num_units: int,
        *,
        unit_dim: int = -1,
        batch_dim: int = 0,
        threshold: float = 0.5,
        kl_scale: float = 1.0,
        cost_per_norm: float = 10.0,
        proximal: bool = True,
    ) -> None:
        super().__init__(
            num_units,
            unit_dim=unit_dim,
            batch_dim=batch_dim,
            threshold=threshold,
            kl_scale=kl_scale,
        )
        if not 0.0 <= cost_per_norm < math.inf:
            raise ConfigError(
                type(self).__name__,
                expected="a finite cost_per_norm >= 0",
                got=f"{cost_per_norm=}",
                hint="In nats of the whole data set; 0 is no penalty.",
            )
        self.proximal = proximal
        self.register_buffer("cost_per_norm", torch.full((), float(cost_per_norm)))
        # What the loss counted the penalty with: the gradient of a number that is added to it.
        self._counted: tuple[int, Tensor] | None = None

    @override
    def bind_weights(self, layer: nn.Module, dim: int) -> None:
        check_weights(self.name, layer, self.num_units, dim)
        if isinstance(layer, LatentOwner):
            raise ConfigError(
                self.name,
                expected="weights without a posterior of their own",
                got=type(layer).__name__,
                hint="The group lasso is a penalty on weights that are points.",
            )
        self._bound = (layer, dim)

    def _weights(self) -> list[tuple[Tensor, int]]:
        # The parameters of the units, and the dimension that counts these.
        if self._bound is None:
            return []
        layer: Any
        layer, dim = self._bound
        bias = layer.bias if dim == 0 else None
        return [(layer.weight, dim)] + ([] if bias is None else [(bias, 0)])

    def _norms(self) -> Tensor:
        squares = [_by_unit(value, dim).square().sum(1) for value, dim in self._weights()]
        total = sum(squares[1:], start=squares[0])
        # The gradient of a norm at zero is taken to be zero.
        return torch.where(total > 0, total, 1.0).sqrt() * (total > 0)

    @override
    def prior(self) -> dict[str, TorchDistribution]:
        return {}

    @override
    def posterior(self) -> dict[str, TorchDistribution]:
        return {}

    @override
    def penalty(self) -> Tensor | None:
        if self._bound is None:
            return None
        if not self.proximal:
            return self.cost_per_norm * self._norms().sum()
        total = (self.cost_per_norm * self._norms().sum()).detach()
        if in_transform() or not torch.is_grad_enabled():
            return total
        version = self._bound[0].weight._version
        if self._counted is None or self._counted[0] != version:
            self._counted = version, torch.zeros_like(total, requires_grad=True)
        return total + self._counted[1]

    @override
    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the proximal step, with the factor with which the loss counted the penalty.

        Args:
            optimizer: Adam, AdamW or SGD, which has made a step for that loss.
        """
        counted, self._counted = self._counted, None
        if counted is None or counted[1].grad is None or not self.proximal:
            return
        price = counted[1].grad * self.cost_per_norm
        weights = self._weights()
        metrics = [metric_of(optimizer, value) for value, _ in weights]
        if float(price) == 0.0 or any(metric is None for metric in metrics):
            return
        values = [_by_unit(value, dim) for value, dim in weights]
        forms = [
            _by_unit(metric.expand_as(value), dim)
            for metric, (value, dim) in zip(metrics, weights, strict=True)
            if metric is not None
        ]
        shrunk = shrink_groups(_joined(values), _joined(forms), price)
        sizes = [value.shape[1] for value in values]
        for (value, dim), new in zip(weights, shrunk.split(sizes, 1), strict=True):
            first = value.transpose(0, dim)
            first.copy_(new.reshape(first.shape))

    @override
    def mask_distribution(self, latents: Latents, x: Tensor | None = None) -> TorchDistribution:
        # Weights behind a mask get their gradient where they are zero too; a unit that its own
        # weights have switched off gets none.
        whole = self.training and (self._bound is None or self._bound[1] == 1)
        mask = self.cost_per_norm.new_ones(self.num_units) if whole else self.keep_prob()
        return Delta(mask, event_dim=1, validate_args=False)

    @override
    @torch.no_grad()
    def keep_prob(self) -> Tensor:
        if self._bound is None:
            return self.cost_per_norm.new_ones(self.num_units)
        return (self._norms() > 0).to(self.cost_per_norm.dtype)

    @override
    def mean_mask(self, x: Tensor | None = None) -> Tensor:
        return self.kept().to(self.cost_per_norm.dtype)


def _by_unit(value: Tensor, dim: int) -> Tensor:
    """Return a parameter with a row for each unit."""
    return value.transpose(0, dim).reshape(value.shape[dim], -1)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
