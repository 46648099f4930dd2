"""The log-odds of a binary concrete mask: a logistic distribution whose scale is a temperature."""

from __future__ import annotations

import math
from typing import Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints, register_kl
from torch.distributions.utils import broadcast_all
from torch.nn.functional import softplus
from typing_extensions import override

from bayesdrop.ops import noise
from bayesdrop.typing import Shape


class LogitBinaryConcrete(TorchDistribution):
    r"""Distribution of :math:`y = \mathrm{logit}\,z` for a binary concrete mask :math:`z`.

    .. math::
        y = (\ell + \log u - \log(1 - u)) / \lambda, \quad u \sim U(0, 1), \qquad
        \log p(y) = \log\lambda + (\ell - \lambda y) - 2\,\mathrm{softplus}(\ell - \lambda y)

    It is the latent to use where a mask's density matters, as in a variational auto-encoder: at
    temperature 0.3 many masks are 0 or 1 to machine precision, and a density evaluated at a
    rounded value is the wrong one. The Jacobian of the sigmoid cancels between two of these.

    Args:
        temperature: :math:`\lambda > 0`; at 0 the sign of ``y`` is all that is left.
        logits: :math:`\ell`, the log-odds that ``y > 0``.
        validate_args: Whether to check arguments and values.

    Shape:  batch shape is the broadcast shape of the arguments, event shape ``()``.

    The KL divergence between two of the same temperature is closed, with :math:`d` the difference
    of their logits: :math:`d \coth(d / 2) - 2`. It does not depend on the temperature. Between
    different temperatures there is none, and ``TraceMeanField_ELBO`` samples it.

    References:
        Maddison, Mnih, Teh (2017), appendix C.3.2, https://arxiv.org/abs/1611.00712.

    Example:
        >>> LogitBinaryConcrete(0.3, torch.zeros(3)).rsample((2,)).shape
        torch.Size([2, 3])
    """

    arg_constraints = {"temperature": constraints.positive, "logits": constraints.real}
    support = constraints.real
    has_rsample = True

    def __init__(
        self,
        temperature: Tensor | float,
        logits: Tensor | float,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.temperature, self.logits = broadcast_all(temperature, logits)
        super().__init__(self.logits.shape, validate_args=validate_args)

    @override
    def expand(self, batch_shape: Shape, _instance: object = None) -> Self:
        new = self._get_checked_instance(type(self), _instance)
        new.temperature = self.temperature.expand(batch_shape)
        new.logits = self.logits.expand(batch_shape)
        super(LogitBinaryConcrete, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @override
    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        return (self.logits + noise.logistic(shape, self.logits)) / self.temperature

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        shifted = self.logits - self.temperature * value
        return self.temperature.log() + shifted - 2 * softplus(shifted)

    @override
    def cdf(self, value: Tensor) -> Tensor:
        return torch.sigmoid(self.temperature * value - self.logits)

    @override
    def icdf(self, value: Tensor) -> Tensor:
        return (self.logits + torch.logit(value)) / self.temperature

    @property
    @override
    def mean(self) -> Tensor:
        return self.logits / self.temperature

    @property
    @override
    def variance(self) -> Tensor:
        return math.pi**2 / (3 * self.temperature.square())


@register_kl(LogitBinaryConcrete, LogitBinaryConcrete)
def _kl_same_temperature(q: LogitBinaryConcrete, p: LogitBinaryConcrete) -> Tensor:
    if not bool((q.temperature == p.temperature).all()):
        raise NotImplementedError("no closed KL between binary concretes of two temperatures")
    d = q.logits - p.logits
    # The series' next term is below 1e-8 of the result where it is used.
    near = d.abs() < 0.5
    small = torch.where(near, d, 0.0).square()
    series = small / 6 * (1 - small / 60 * (1 - small / 42 * (1 - small / 40)))
    large = torch.where(near, 1.0, d)
    return torch.where(near, series, large / torch.tanh(large / 2) - 2)
