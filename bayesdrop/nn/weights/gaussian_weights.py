"""Gaussian weights under a Gaussian prior: Bayes by backprop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.distributions import Normal
from bayesdrop.errors import ConfigError
from bayesdrop.nn.arguments import is_real
from bayesdrop.nn.catalogue import register
from bayesdrop.nn.latents import is_own
from bayesdrop.nn.weight import BayesianWeights, Noise
from bayesdrop.typing import SharedBy


@register
class GaussianWeights(BayesianWeights):
    r"""Gaussian weights under a Gaussian prior, each with a variance of its own.

    .. math::
        p(w_{ij}) = \mathcal N(0, s^2) \qquad
        q(w_{ij}) = \mathcal N(\theta_{ij}, \sigma_{ij}^2)

        \mathrm{KL} = \frac12 \sum_{ij} \Bigl(\frac{\theta_{ij}^2 + \sigma_{ij}^2}{s^2} - 1
        - \log \frac{\sigma_{ij}^2}{s^2}\Bigr)

    In training mode the pre-activations are drawn instead of the weights, see
    ``BayesianWeights``. Behind a mask of scales :math:`z_i` of the units, the weight is
    :math:`z_i w_{ij}`, so that the prior is :math:`N(0, z_i^2 s^2)` given the scale, and the
    divergences of the two layers add::

        net = bd.convert(net, "normal-jeffreys", weights="gaussian-weights")

    ``bd.compression.quantise`` stores each weight as coarsely as its posterior is wide.

    Args:
        layer: The ``nn.Linear`` or ``nn.Conv1d/2d/3d`` whose place it takes; it is not changed.
        prior_scale: :math:`s > 0`.
        init_log_variance: Initial :math:`\log \sigma^2`; the default is nearly no noise.
        snr_threshold: Weights whose signal-to-noise ratio :math:`|\theta| / \sigma` is below this
            are pruned; 0 keeps all.
        noise: ``"local"`` or ``"weights"``, see ``BayesianWeights``.
        shared_by: ``"example"`` or ``"batch"``, see ``BayesianWeights``.
        kl_scale: Factor on this layer's KL divergence.

    Shape:  input and output as those of ``layer``.
    Sites:  ``{module path}.weight``, of the weight's shape as event shape.

    References:
        Blundell, Cornebise, Kavukcuoglu, Wierstra (2015), "Weight Uncertainty in Neural Networks",
        https://arxiv.org/abs/1505.05424; there the prior may be a mixture and the noise is that of
        the weights. Within scales of units: Louizos, Ullrich, Welling (2017),
        https://arxiv.org/abs/1705.08665.

    Raises:
        ConfigError: If an argument is out of range.

    Example:
        >>> layer = GaussianWeights(nn.Linear(4, 3))
        >>> layer(torch.ones(2, 4)).shape, bool(layer.kept().all())
        (torch.Size([2, 3]), True)
    """

    key: ClassVar[str] = "gaussian-weights"
    reference: ClassVar[str] = "Blundell et al. (2015), https://arxiv.org/abs/1505.05424"

    def __init__(
        self,
        layer: nn.Module,
        *,
        prior_scale: float = 1.0,
        init_log_variance: float = -9.0,
        snr_threshold: float = 0.0,
        noise: Noise = "local",
        shared_by: SharedBy | None = None,
        kl_scale: float = 1.0,
    ) -> None:
        super().__init__(layer, noise=noise, shared_by=shared_by, kl_scale=kl_scale)
        numbers = is_real(prior_scale) and is_real(init_log_variance) and is_real(snr_threshold)
        good = numbers and 0.0 < prior_scale < math.inf and 0.0 <= snr_threshold < math.inf
        if not good or not math.isfinite(init_log_variance):
            raise ConfigError(
                type(self).__name__,
                expected="finite prior_scale > 0, init_log_variance and snr_threshold >= 0",
                got=f"{prior_scale=}, {init_log_variance=}, {snr_threshold=}",
                hint="The defaults are 1, -9 and 0.",
            )
        self.prior_scale, self.snr_threshold = prior_scale, snr_threshold
        self.log_variance = nn.Parameter(torch.full_like(self.weight, init_log_variance))

    @override
    def weight_moments(self) -> tuple[Tensor, Tensor]:
        return self.weight, self.log_variance.exp()

    @override
    def posterior(self) -> dict[str, TorchDistribution]:
        # A scale that has underflowed is no scale.
        scale = (0.5 * self.log_variance).exp()
        scale = scale.clamp(min=torch.finfo(scale.dtype).tiny)
        return {"weight": Normal(self.weight, scale, validate_args=False).to_event()}

    @override
    def prior(self) -> dict[str, TorchDistribution]:
        previous = self.previous_weight()
        if previous is not None:
            return {"weight": previous.to_event()}
        loc = torch.zeros_like(self.weight)
        scale = torch.full_like(self.weight, self.prior_scale)
        return {"weight": Normal(loc, scale, validate_args=False).to_event()}

    @override
    def kl_divergence(
        self,
        posterior: Mapping[str, TorchDistribution] | None = None,
        *,
        prior: Mapping[str, TorchDistribution] | None = None,
    ) -> Tensor:
        own = is_own(type(self), "kl_divergence", "prior", "posterior", "penalty")
        updated = self.previous_weight() is not None
        if not own or updated or self.weight.dtype == torch.float16:
            return super().kl_divergence(posterior, prior=prior)
        # Sums first: few passes over the weights.
        squares = self.weight.square().sum() + self.log_variance.exp().sum()
        logs = self.log_variance.sum() - self.total() * 2 * math.log(self.prior_scale)
        kl = 0.5 * (squares / self.prior_scale**2 - self.total() - logs)
        return kl if self.kl_scale == 1.0 else self.kl_scale * kl

    @override
    @torch.no_grad()
    def kept(self) -> Tensor:
        return self.weight.abs() >= self.snr_threshold * (0.5 * self.log_variance).exp()
