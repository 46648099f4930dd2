"""What weights with noise of a fixed rate share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.errors import ConfigError
from bayesdrop.nn.latents import is_own
from bayesdrop.nn.weight import BayesianWeights, Noise
from bayesdrop.typing import SharedBy


class FixedRateWeights(BayesianWeights):
    r"""Abstract layer whose weights have multiplicative noise of mean 1 and a fixed rate.

    .. math:: p(w) = q(w), \qquad E[w] = \theta, \quad
              \mathrm{Var}[w] = \theta^2 \frac{p}{1 - p}

    Prior and posterior of the weights are the same distribution, so the KL is exactly zero.
    Under a prior :math:`w \sim N(0, l^{-2})` the loss gets, up to a constant,

    .. math:: \frac{l^2}{2} \Bigl(\frac{\lVert \theta \rVert^2}{1 - p}
              + \lVert b \rVert^2\Bigr)

    Args:
        layer: The layer whose place it takes, see ``BayesianWeights``.
        drop_prob: :math:`p` in [0, 1).
        length_scale: :math:`l > 0` of the prior on the weights; None leaves them to the
            optimiser's weight decay.
        noise: See ``BayesianWeights``; None is ``usual_noise``.
        shared_by: See ``BayesianWeights``.
        kl_scale: Factor on the penalty.
    """

    usual_noise: ClassVar[Noise]
    """What training mode draws if nothing is said."""
    always_shown: ClassVar[tuple[str, ...]] = ("drop_prob",)
    fixed_rate: ClassVar[bool] = True
    drop_prob: Tensor

    def __init__(
        self,
        layer: nn.Module,
        *,
        drop_prob: float = 0.5,
        length_scale: float | None = None,
        noise: Noise | None = None,
        shared_by: SharedBy | None = None,
        kl_scale: float = 1.0,
    ) -> None:
        noise = self.usual_noise if noise is None else noise
        super().__init__(layer, noise=noise, shared_by=shared_by, kl_scale=kl_scale)
        positive = length_scale is None or 0.0 < length_scale < float("inf")
        if not 0.0 <= drop_prob < 1.0 or not positive:
            raise ConfigError(
                type(self).__name__,
                expected="0 <= drop_prob < 1, and a length_scale that is None or > 0",
                got=f"drop_prob={drop_prob}, length_scale={length_scale}",
                hint="A drop_prob of 0 is a plain layer.",
            )
        self.length_scale = length_scale
        self.register_buffer("drop_prob", self.weight.new_full((), float(drop_prob)))

    @abstractmethod
    def weight_distribution(self) -> TorchDistribution:
        """Return the distribution of the weights, all batch dimensions."""

    @override
    def posterior(self) -> dict[str, TorchDistribution]:
        return {"weight": self.weight_distribution().to_event(self.weight.ndim)}

    @override
    def prior(self) -> dict[str, TorchDistribution]:
        return {"weight": self.weight_distribution().to_event(self.weight.ndim)}

    @override
    def kl_divergence(
        self,
        posterior: Mapping[str, TorchDistribution] | None = None,
        *,
        prior: Mapping[str, TorchDistribution] | None = None,
    ) -> Tensor:
        # Without a look at each weight: the divergence of a distribution from itself is zero.
        if not is_own(type(self), "kl_divergence", "prior", "posterior"):
            return super().kl_divergence(posterior, prior=prior)
        penalty = self.penalty()
        return self.weight.new_zeros(()) if penalty is None else self.kl_scale * penalty

    @override
    def kl_by_unit(self, dim: int = 0) -> Tensor:
        if not is_own(type(self), "kl_by_unit", "prior", "posterior"):
            return super().kl_by_unit(dim)
        return self.weight.new_zeros(self.weight.shape[dim])

    @override
    def weight_moments(self) -> tuple[Tensor, Tensor]:
        return self.weight, self.weight.square() * (self.drop_prob / (1 - self.drop_prob))

    @override
    def kept(self) -> Tensor:
        return torch.ones_like(self.weight, dtype=torch.bool)

    @override
    def penalty(self) -> Tensor | None:
        if self.length_scale is None:
            return None
        energy = self.weight.square().sum() / (1 - self.drop_prob)
        if self.bias is not None:
            energy = energy + self.bias.square().sum()
        return 0.5 * self.length_scale**2 * energy

    @override
    def mean_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the weights if the penalty is their prior; weight decay is it otherwise."""
        return iter(()) if self.length_scale is None else iter((self.weight,))
