"""Names for the types that cross module borders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

Shape: TypeAlias = torch.Size | list[int] | tuple[int, ...]
"""What torch.distributions takes as a shape."""

Latents: TypeAlias = Mapping[str, Tensor]
"""Sampled global latents of one layer: site suffix (such as ``"pi"``) to value."""

SharedBy: TypeAlias = Literal["batch", "example"]
"""Who shares a random draw: all examples of a batch, or none, each example having its own."""

NumMasks: TypeAlias = int | Literal["exact"]
"""Masks of each example inside the logarithm of its likelihood; ``"exact"`` sums over all."""


class LossTerms(NamedTuple):
    """The two halves of a loss in nats for the whole data set; ``loss`` is minus the ELBO."""

    nll: Tensor
    kl: Tensor

    @property
    def loss(self) -> Tensor:
        """Negative log-likelihood plus (weighted) KL divergence."""
        return self.nll + self.kl
