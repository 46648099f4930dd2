"""The contract of layers whose mask is Bernoulli, given the global latents."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.nn.functional import logsigmoid
from typing_extensions import override

from bayesdrop.distributions.binary_concrete import relaxed_masks, relaxed_product
from bayesdrop.errors import ConfigError
from bayesdrop.nn.arguments import is_real
from bayesdrop.nn.context import active_context, context_of
from bayesdrop.nn.latents import LatentOwner, alike, is_own
from bayesdrop.nn.mask import BayesianDropout
from bayesdrop.nn.masks.relaxation import Relaxation, bernoulli_mask, check_relaxation
from bayesdrop.nn.two_valued import TwoValuedMask
from bayesdrop.ops.transforms import takes_plain_operations
from bayesdrop.typing import Latents

_MOST_UNITS = 10  # a thousand masks an example


class BernoulliDropout(TwoValuedMask, BayesianDropout):
    r"""Abstract layer whose mask is a Bernoulli, relaxed in training mode and exact otherwise.

    .. math:: z_{nk} \sim \mathrm{Bernoulli}(\sigma(\ell_k)), \qquad \ell = \text{keep\_logits}

    A subclass says ``prior``, ``posterior``, ``keep_prob`` and what the log-odds are
    (``keep_logits``); ``mask_distribution`` and ``mean_mask`` follow. A latent code
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
        unit_dim: int = -1,
        batch_dim: int = 0,
        threshold: float = 1e-3,
        kl_scale: float = 1.0,
        temperature: float = 0.1,
        relaxation: Relaxation = "concrete",
    ) -> None:
        super().__init__(
            num_units,
            unit_dim=unit_dim,
            batch_dim=batch_dim,
            threshold=threshold,
            kl_scale=kl_scale,
        )
        if not is_real(temperature) or not 0.0 < temperature < math.inf:
            raise ConfigError(
                type(self).__name__,
                expected="temperature > 0 and finite",
                got=f"temperature={temperature!r}",
                hint="The default is 0.1.",
            )
        check_relaxation(relaxation)
        self.relaxation = relaxation
        self.register_buffer("temperature", torch.full((), temperature))

    @classmethod
    @override
    def options_for_code(cls, num_features: int, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"temperature": 0.3, **options}

    @override
    def mask_distribution(self, latents: Latents, x: Tensor | None = None) -> TorchDistribution:
        logits = self.keep_logits(latents, x)
        return bernoulli_mask(logits, self.temperature, self.relaxation, relaxed=self.training)

    @override
    def mean_mask(self, x: Tensor | None = None) -> Tensor:
        keep = self.keep_prob()
        return keep.masked_fill(keep < self.threshold, 0.0)

    @classmethod
    def draw_masks(
        cls,
        layers: Sequence[BernoulliDropout],
        latents: Mapping[LatentOwner, Latents],
        rows: int | None,
    ) -> dict[LatentOwner, Tensor]:
        """Return the ``masks`` of a ``JointDraw``: those that are relaxed, in one operation.

        Args:
            layers: Layers of this very class.
            latents: Of each layer.
            rows: As for ``draw_jointly``.
        """
        own = is_own(cls, "draw_masks", "forward", "sample_mask", "draw_mask", "mask_distribution")
        if rows is None or cls.input_dependent or not own:
            return {}
        fit = [
            layer
            for layer in layers
            if layer.relaxation == "concrete" and not layer.temperature.requires_grad
        ]
        logits = [layer.keep_logits(latents[layer]) for layer in fit]
        if not fit or not alike(logits):
            return {}
        masks = relaxed_masks(logits, [layer.temperature for layer in fit], rows)
        return dict(zip(fit, masks, strict=True))

    @override
    def forward(self, input: Tensor) -> Tensor:
        x = input  # torch's name of it, for calls by keyword
        if not self.training and (known := self._known_mask(x)) is not None:
            return x * known
        # In training mode the mask is drawn and multiplied in one operation, if nobody else
        # has a say in it: the same value and gradient as those of the two.
        latents = self._latents_of_product(x)
        if latents is None:
            return super().forward(x)
        self._check_input(x)
        logits, rows = self.keep_logits(latents, x), self.rows_of(x)
        shape = logits.shape if rows is None else torch.Size((rows, self.num_units))
        aligned = [1] * x.ndim
        aligned[self.unit_dim] = self.num_units
        if rows is not None:
            aligned[self.batch_dim] = rows
        product, mask = relaxed_product(x, logits, self.temperature, shape, aligned)
        context = active_context()
        if context is not None:
            if context.num_rows is not None:
                self._check_rows(x, context.num_rows)
            context.keep(self, mask, product)
        return product

    def _known_mask(self, x: Tensor) -> Tensor | None:
        """Return the mean mask as ``x`` takes it, if it is known and nobody else has a say."""
        return None

    def _latents_of_product(self, x: Tensor) -> Latents | None:
        fits = (
            self.training
            and self.relaxation == "concrete"
            and x.dtype == self.temperature.dtype
            and not self.temperature.requires_grad
            and -x.ndim <= self.unit_dim
            and self.batch_dim <= x.ndim + self.unit_dim
            and not takes_plain_operations()
            and is_own(type(self), "forward", "sample_mask", "draw_mask", "mask_distribution")
        )
        if not fits:
            return None
        context = context_of(self)
        return self.draw_latents() if context is None else context.latents_of(self)

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


def logits_of(latents: Latents) -> Tensor:
    """Return the log-odds of the latent ``"pi"``, which a joint draw may know already."""
    pi = latents["pi"]
    known = latents.get("logits")
    return torch.logit(pi, eps=torch.finfo(pi.dtype).tiny) if known is None else known
