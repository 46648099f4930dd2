"""The contract of the latent code of an auto-encoder's example."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple, TypeAlias

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from bayesdrop.abstract import Abstract
from bayesdrop.errors import ShapeError
from bayesdrop.nn import BayesianDropout
from bayesdrop.typing import Latents

Sites: TypeAlias = dict[str, TorchDistribution]
"""Distributions by site suffix."""


class Encoding(NamedTuple):
    """What the encoder says of a batch, ``(B, K)`` each; no offset without a mask."""

    offset: Tensor | None
    mean: Tensor
    scale: Tensor


class Code(Abstract, nn.Module):
    """Abstract prior and posterior of an example's code, given global rates if there are any.

    Every code has a site ``h`` of event ``(K,)``; what else it has is its own. Values of the sites
    become the code by calling it.

    Args:
        num_features: Number of features :math:`K`.
    """

    is_ordered: ClassVar[bool]
    """Whether an example uses a prefix of the features."""

    mask: BayesianDropout | None
    """The owner of the code's global rates; None where nothing about it is global."""
    zero: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.register_buffer("zero", torch.zeros(num_features), persistent=False)

    # -- what a code defines -------------------------------------------------------------------

    @property
    @abstractmethod
    def parts(self) -> int:
        """Number of values that the encoder gives for each feature: 2, or 3 with offsets."""

    @abstractmethod
    def prior(self, rates: Latents) -> Sites:
        """Return the prior of an example's latents by site suffix.

        Args:
            rates: The global latents of ``mask``, ``(..., K)``; empty without a mask.
        """

    @abstractmethod
    def posterior(self, encoding: Encoding, rates: Latents) -> Sites:
        """Return the posterior of the latents of each example by site suffix.

        Args:
            encoding: What ``encoding`` returned for a batch.
            rates: As for ``prior``.
        """

    @abstractmethod
    def forward(self, latents: Latents) -> Tensor:
        """Return the code of values of an example's latents, ``(..., K)``."""

    @abstractmethod
    def kl_divergence(
        self,
        posterior: Mapping[str, TorchDistribution],
        prior: Mapping[str, TorchDistribution],
        latents: Latents,
    ) -> Tensor:
        """Return KL(posterior || prior) summed over a batch, in nats.

        Args:
            posterior: What ``posterior`` returned.
            prior: What ``prior`` returned.
            latents: Values drawn from the posterior, for a divergence that is not closed.
        """

    @abstractmethod
    def mask_value(self, latents: Latents) -> Tensor:
        """Return the mask in [0, 1] of values of an example's latents, ``(..., K)``."""

    @abstractmethod
    def mean_latents(self, encoding: Encoding) -> Latents:
        """Return what stands for the latents of each example in a single pass: their means."""

    @abstractmethod
    def prefix(self, encoding: Encoding | None, rows: int, num_features: int) -> Latents:
        """Draw latents of which the first ``num_features`` features are used, and no other.

        Args:
            encoding: Of a batch; None draws the features from their prior.
            rows: Number of examples.
            num_features: From 0 to :math:`K`.

        Raises:
            ConfigError: If the code has no order, or not so many features.
        """

    @abstractmethod
    def keep_prob(self) -> Tensor:
        """Return the probability that an example uses each feature, over all of them, ``(K,)``."""

    @abstractmethod
    def feature_probs(self, encoding: Encoding) -> Tensor:
        r"""Return :math:`q(z_{nk} = 1)` with the rates at their posterior means, ``(B, K)``."""

    # -- what follows from it ------------------------------------------------------------------

    def deterministic(self, latents: Latents) -> Latents:
        """Return what follows from the latents and deserves a site of its own, event ``(K,)``."""
        return {}

    def encoding(self, output: Tensor) -> Encoding:
        r"""Read an encoder's output: offsets :math:`d` (of three parts), means, log-variances.

        Raises:
            ShapeError: If it does not have the size for ``num_features`` features.
        """
        parts = self.parts
        if output.ndim != 2 or output.shape[1] != parts * self.num_features:
            raise ShapeError(
                "VariationalAutoencoder",
                expected=f"encoder output of shape (N, {parts} * {self.num_features}), for "
                f"{'' if parts == 2 else 'offsets, '}means and log-variances",
                got=str(tuple(output.shape)),
                hint="Change the size of the encoder's last layer.",
            )
        *offset, mean, log_variance = output.chunk(parts, dim=-1)
        return Encoding(offset[0] if offset else None, mean, (0.5 * log_variance).exp())

    def penalty(self, posterior: Mapping[str, TorchDistribution]) -> Tensor | None:
        """Return the nats of each example that are no site's divergence, ``(B,)``, or None.

        Args:
            posterior: What ``posterior`` returned.
        """
        return None

    def extra_repr(self) -> str:
        """Show the size."""
        return f"{self.num_features}"


def draw(sites: Mapping[str, TorchDistribution]) -> dict[str, Tensor]:
    """Draw each site, with pathwise gradients where it has them."""
    return {name: fn.rsample() if fn.has_rsample else fn.sample() for name, fn in sites.items()}
