"""Log-normal distribution: the posterior of positive latents, such as scales."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import Gamma, InverseGamma, Normal
from pyro.distributions import LogNormal as PyroLogNormal
from torch import Tensor
from torch.distributions import ExpTransform, register_kl
from typing_extensions import override

from bayesdrop.ops import noise
from bayesdrop.typing import Shape


class LogNormal(PyroLogNormal):
    r"""Log-normal distribution whose noise can be replaced, as that of all our distributions.

    .. math:: x = \exp(\mu + \sigma \epsilon), \qquad \epsilon \sim \mathcal N(0, 1)

    Its divergences from ``Gamma`` and ``InverseGamma`` priors are registered in closed form; from
    another log-normal it is Pyro's.

    Args:
        loc: Mean :math:`\mu` of the logarithm.
        scale: Standard deviation :math:`\sigma` of the logarithm, > 0.
        validate_args: Whether to check arguments and values.

    References:
        Louizos, Ullrich, Welling (2017), "Bayesian Compression for Deep Learning", appendix,
        https://arxiv.org/abs/1705.08665, for the divergences.

    Example:
        >>> LogNormal(torch.zeros(2), torch.ones(2)).rsample((3,)).shape
        torch.Size([3, 2])
    """

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        # Pyro's own checks the base whatever it is told, and torch.compile cannot trace that.
        base = Normal(loc, scale, validate_args=validate_args)
        super(torch.distributions.LogNormal, self).__init__(
            base, ExpTransform(), validate_args=validate_args
        )

    @override
    def expand(self, batch_shape: Shape, _instance: Any = None) -> LogNormal:
        return super().expand(batch_shape, self._get_checked_instance(LogNormal, _instance))

    @override
    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        return (self.loc + self.scale * noise.normal(shape, self.loc)).exp()


@register_kl(LogNormal, Gamma)
def _kl_log_normal_gamma(q: LogNormal, p: Gamma) -> Tensor:
    # E[log x] = mu, E[x] = exp(mu + sigma^2 / 2).
    mean = (q.loc + 0.5 * q.scale.square()).exp()
    a, rate = p.concentration, p.rate
    return _negative_entropy(q) - a * rate.log() + a.lgamma() - (a - 1) * q.loc + rate * mean


@register_kl(LogNormal, InverseGamma)
def _kl_log_normal_inverse_gamma(q: LogNormal, p: InverseGamma) -> Tensor:
    # E[1 / x] = exp(-mu + sigma^2 / 2).
    mean = (-q.loc + 0.5 * q.scale.square()).exp()
    a, rate = p.concentration, p.rate
    return _negative_entropy(q) - a * rate.log() + a.lgamma() + (a + 1) * q.loc + rate * mean


def _negative_entropy(q: LogNormal) -> Tensor:
    return -q.loc - q.scale.log() - 0.5 * (1 + math.log(2 * math.pi))
