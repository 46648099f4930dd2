"""The contract of layers whose mask is Bernoulli, given the global latents."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.nn.functional import logsigmoid
from typing_extensions import override

from bayesdrop.errors import ConfigError
from bayesdrop.nn.mask import BayesianDropout
from bayesdrop.nn.masks.relaxation import Relaxation, bernoulli_mask, check_relaxation
from bayesdrop.typing import Latents

_MOST_UNITS = 10  # a thousand masks an example


class BernoulliDropout(BayesianDropout):
    r"""Abstract layer whose mask is a Bernoulli, relaxed in training mode and exact otherwise.

    .. math:: z_{nk} \sim \mathrm{Bernoulli}(\sigma(\ell_k)), \qquad \ell = \text{keep\_logits}

    A subclass says what the log-odds are (``keep_logits``). A latent code
    (``VariationalAutoencoder``) can take any such layer whose log-odds do not depend on the input.

    Args:
        num_units: Number of units :math:`K`.
        unit_dim: The masked dimension: -1 for features, -3 for convolution maps.
        batch_dim: The dimension of the examples, counted from the first.
        threshold: Units with a keep probability below this are pruned.
        kl_scale: Factor on this layer's KL divergence.
        temperature: Temperature of the relaxed mask, > 0.
        relaxation: ``"concrete"``, or ``"straight-through"`` for masks of exactly 0 and 1.
    """

    schedulable: ClassVar[tuple[str, ...]] = ("temperature",)

    temperature: Tensor

    def __init__(
        self,
        num_units: int,
        *,
        unit_dim: int,
        batch_dim: int,
        threshold: float,
        kl_scale: float,
        temperature: float,
        relaxation: Relaxation,
    ) -> None:
        super().__init__(
            num_units,
            unit_dim=unit_dim,
            batch_dim=batch_dim,
            threshold=threshold,
            kl_scale=kl_scale,
        )
        if not 0.0 < temperature < math.inf:
            raise ConfigError(
                type(self).__name__,
                expected="temperature > 0 and finite",
                got=f"temperature={temperature}",
                hint="The default is 0.1.",
            )
        check_relaxation(relaxation)
        self.relaxation = relaxation
        self.register_buffer("temperature", torch.full((), temperature))

    @classmethod
    @override
    def options_for_code(cls, num_features: int, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"temperature": 0.3, **options}

    @abstractmethod
    def keep_logits(self, latents: Latents, x: Tensor | None = None) -> Tensor:
        """Return the log-odds that a unit is kept given the global latents, ``(..., K)``.

        Args:
            latents: Values of the global latents.
            x: The layer's input; only input-dependent masks look at it.
        """

    @override
    def mask_distribution(self, latents: Latents, x: Tensor | None = None) -> TorchDistribution:
        logits = self.keep_logits(latents, x)
        return bernoulli_mask(logits, self.temperature, self.relaxation, relaxed=self.training)

    @override
    def all_masks(self) -> Tensor | None:
        """Return all 2^K masks of at most 10 units, ``(2^K, K)``."""
        if self.num_units > _MOST_UNITS:
            return None
        masks = list(itertools.product((0.0, 1.0), repeat=self.num_units))
        return torch.tensor(masks, device=self.temperature.device)

    @override
    def log_prob_of_masks(
        self, masks: Tensor, latents: Latents, x: Tensor | None = None
    ) -> Tensor:
        logits = self.keep_logits(latents, x)
        # Not Bernoulli's log_prob, which is NaN where a unit is kept for certain.
        return logsigmoid(torch.where(masks > 0, logits, -logits)).sum(-1)
