"""The relaxed ordered mask, which falls from 1 towards 0, and its density."""

from __future__ import annotations

import math
from typing import Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from typing_extensions import override

from bayesdrop.distributions.ordered_mask import FALLING, OrderedMask, prefix_mask
from bayesdrop.errors import ConfigError
from bayesdrop.ops import noise
from bayesdrop.typing import Shape


class Downhill(TorchDistribution):
    r"""Downhill distribution: an ordered mask relaxed to :math:`1 > v_1 > \dots > v_D > 0`.

    .. math::
        v_k = \sum_{t \ge k} c_t, \qquad c \sim \mathrm{Concrete}(\lambda, P(0), \dots, P(D))

        \log p(v) = \log\Gamma(n) + (n - 1) \log\lambda - n \log \sum_t P(t)\,c_t^{-\lambda}
        + \sum_t [\log P(t) - (\lambda + 1) \log c_t]

    with :math:`n = D + 1`, :math:`c_t = v_t - v_{t+1}`, :math:`v_0 = 1`, :math:`v_{D+1} = 0`, and
    :math:`P(t)` the probability of :math:`t` open units under ``OrderedMask``, its limit at
    temperature 0. The map from :math:`c` has a unit Jacobian.

    Args:
        temperature: :math:`\lambda > 0`.
        probs: :math:`\beta`, ``(..., D)``. Give this or ``logits``.
        logits: :math:`\mathrm{logit}\,\beta`, ``(..., D)``. Give this or ``probs``.
        validate_args: Whether to check arguments and values.

    Shape:  batch shape ``(...)``, event shape ``(D,)``.

    Steps :math:`c_t` below the rounding of :math:`v` are lost in a sample, so that the density of
    a sample is exact for temperatures of about 0.5 and above in float32. There is no closed KL.

    References:
        Cui et al. (2023), "Variational Nested Dropout", https://arxiv.org/abs/2101.11353; concrete
        density: Maddison, Mnih, Teh (2017), https://arxiv.org/abs/1611.00712.

    Example:
        >>> v = Downhill(0.5, logits=torch.zeros(4)).rsample((10,))
        >>> bool((v.diff(dim=-1) <= 0).all())
        True
    """

    arg_constraints = OrderedMask.arg_constraints
    support = FALLING
    has_rsample = True

    def __init__(
        self,
        temperature: float,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        if not 0.0 < temperature < math.inf:
            raise ConfigError(
                "Downhill",
                expected="a finite temperature > 0",
                got=f"temperature={temperature}",
                hint="At 0 it is OrderedMask.",
            )
        self.temperature = float(temperature)
        self.order = OrderedMask(probs, logits, validate_args=validate_args)
        super().__init__(self.order.batch_shape, self.order.event_shape, validate_args=False)
        self._validate_args = self.order._validate_args

    @property
    def probs(self) -> Tensor:
        r"""Probabilities :math:`\beta` of the exact chain."""
        return self.order.probs

    @property
    def logits(self) -> Tensor:
        r"""Log-odds of the exact chain."""
        return self.order.logits

    @override
    def expand(self, batch_shape: Shape, _instance: object = None) -> Self:
        new = self._get_checked_instance(type(self), _instance)
        new.temperature = self.temperature
        new.order = self.order.expand(batch_shape)
        super(Downhill, new).__init__(
            torch.Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    @override
    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        log_tail = self.order.log_tail_probs.expand(shape[:-1] + (shape[-1] + 1,))
        gumbel = -(-noise.uniform(log_tail.shape, log_tail).log()).log()
        return prefix_mask(torch.softmax((log_tail + gumbel) / self.temperature, -1)).clamp(max=1)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        one, zero = torch.ones_like(value[..., :1]), torch.zeros_like(value[..., :1])
        steps = torch.cat([one, value], -1) - torch.cat([value, zero], -1)
        log_c = steps.clamp(min=torch.finfo(value.dtype).tiny).log()
        log_tail, n = self.order.log_tail_probs, self.event_shape[0] + 1
        constant = math.lgamma(n) + (n - 1) * math.log(self.temperature)
        normaliser = (log_tail - self.temperature * log_c).logsumexp(-1)
        return constant - n * normaliser + (log_tail - (self.temperature + 1) * log_c).sum(-1)
