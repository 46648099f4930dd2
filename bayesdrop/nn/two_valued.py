"""What a layer says whose mask, once drawn exactly, has two values: zero and one other."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from bayesdrop.abstract import Abstract
from bayesdrop.typing import Latents


class TwoValuedMask(Abstract):
    r"""Abstract part of a dropout layer whose exact mask is a Bernoulli, given the latents.

    .. math:: z_{nk} = s_k b_{nk}, \qquad b_{nk} \sim \mathrm{Bernoulli}(\sigma(\ell_k))

    With it an objective can draw exact masks and estimate the gradient in :math:`\ell` without a
    relaxation, see ``bayesdrop.inference.score_function``.
    """

    @abstractmethod
    def keep_logits(self, latents: Latents, x: Tensor | None = None) -> Tensor:
        """Return the log-odds that a unit is kept given the global latents, ``(..., K)``.

        Args:
            latents: Values of the global latents.
            x: The layer's input; only input-dependent masks look at it.
        """

    def mask_where(self, kept: Tensor) -> Tensor:
        """Return the exact mask of units that are kept (1) or not (0): by default that itself."""
        return kept
