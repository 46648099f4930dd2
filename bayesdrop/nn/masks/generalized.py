"""Generalized dropout: keep probabilities that are learned as points, under a Beta prior."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import Beta, Delta, TorchDistribution
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.errors import ConfigError
from bayesdrop.nn.catalogue import register
from bayesdrop.nn.masks.bernoulli import BernoulliDropout, logits_of
from bayesdrop.nn.masks.relaxation import Relaxation
from bayesdrop.ops.stable import clamp_inward
from bayesdrop.typing import Latents

_EDGE = 1e-4
_LARGEST_LOGIT = math.log1p(-_EDGE) - math.log(_EDGE)


@register
class GeneralizedDropout(BernoulliDropout):
    r"""Generalized dropout: a keep probability for every unit, found as a point.

    .. math::
        p(\pi_k) = \mathrm{Beta}(a, b), \quad
        p(z_{nk} \mid \pi_k) = \mathrm{Bernoulli}(\pi_k)
        \qquad
        q(\pi_k) = \delta(\pi_k - \theta_k), \quad
        q(z_{nk} \mid \pi_k) = p(z_{nk} \mid \pi_k)

    Up to the entropy of a point, which is an infinite constant, the KL divergence is minus the log
    density of the prior,

    .. math::
        -\log p(\theta_k) = (1 - a) \log \theta_k + (1 - b) \log(1 - \theta_k) + \log B(a, b).

    * :math:`a = b = 1` is **Dropout++**: rates that only the data train.
    * :math:`a = b < 1` is **architecture learning**: rates go to 0 or 1, and those that went to 0
      are pruned. The default is Jeffreys' prior, :math:`a = b = 1/2`.
    * :math:`a < b` prunes: a unit that is kept costs :math:`(b - a) \log(1/\epsilon)` nats more
      than one that is not.

    Below 1, :math:`a` and :math:`b` make the density infinite at 0 and at 1, and the loss with it:
    :math:`\theta_k` is held in :math:`[\epsilon, 1 - \epsilon]` with :math:`\epsilon = 10^{-4}`,
    by its log-odds. That is a choice, and prices depend on it; ``kl_scale`` changes them too.

    Args:
        num_units: Number of units :math:`K`.
        unit_dim: The masked dimension: -1 for features, -3 for convolution maps.
        batch_dim: The dimension of the examples, counted from the first.
        threshold: Units with :math:`\theta_k` below this are pruned. For architecture learning
            1/2 rounds them.
        kl_scale: Factor on minus the log density.
        prior_concentration1: :math:`a > 0`.
        prior_concentration0: :math:`b > 0`.
        init_keep_prob: Initial :math:`\theta`, in (0, 1).
        temperature: Temperature of the mask, > 0, where it is a relaxed one.
        relaxation: ``"bernoulli-straight-through"``: masks of exactly 0 and 1, whose gradient is
            taken for their probability's; or, with the gradient of relaxed masks,
            ``"straight-through"`` and ``"concrete"``.

    Shape:  input and output ``(N, ..., K)``, or ``(N, ..., K, H, W)`` with ``unit_dim=-3``.
    Sites:  ``{module path}.pi``, event ``(K,)``; ``{module path}.z``, plate ``data``, event
        ``(K,)``.

    References:
        Srinivas, Babu (2016), "Generalized Dropout", https://arxiv.org/abs/1611.06791 (its
        equations from memory).
        Deviation: the rate is learned by its log-odds, a point estimate in the rate itself.

    Example:
        >>> layer = GeneralizedDropout(4)
        >>> layer(torch.ones(2, 4)).unique().numel() <= 2
        True
        >>> uniform = GeneralizedDropout(4, prior_concentration1=1.0, prior_concentration0=1.0)
        >>> uniform.kl_divergence().item()
        0.0
    """

    key: ClassVar[str] = "generalized"
    reference: ClassVar[str] = "Srinivas and Babu (2016), https://arxiv.org/abs/1611.06791"
    per_unit: ClassVar[tuple[str, ...]] = ("logits",)

    prior_concentration1: Tensor
    prior_concentration0: Tensor

    def __init__(
        self,
        num_units: int,
        *,
        unit_dim: int = -1,
        batch_dim: int = 0,
        threshold: float = 1e-3,
        kl_scale: float = 1.0,
        prior_concentration1: float = 0.5,
        prior_concentration0: float = 0.5,
        init_keep_prob: float = 0.9,
        temperature: float = 0.1,
        relaxation: Relaxation = "bernoulli-straight-through",
    ) -> None:
        super().__init__(
            num_units,
            unit_dim=unit_dim,
            batch_dim=batch_dim,
            threshold=threshold,
            kl_scale=kl_scale,
            temperature=temperature,
            relaxation=relaxation,
        )
        a, b = prior_concentration1, prior_concentration0
        if not (0.0 < a < math.inf and 0.0 < b < math.inf and 0.0 < init_keep_prob < 1.0):
            raise ConfigError(
                type(self).__name__,
                expected="finite prior_concentration1 and 0 > 0, and 0 < init_keep_prob < 1",
                got=f"prior_concentration1={a}, prior_concentration0={b}, {init_keep_prob=}",
                hint="1 and 1 is Dropout++; 0.5 and 0.5 learns the architecture.",
            )
        logit = math.log(init_keep_prob / (1 - init_keep_prob))
        self.logits = nn.Parameter(torch.full((num_units,), logit))
        self.register_buffer("prior_concentration1", torch.full((), float(a)))
        self.register_buffer("prior_concentration0", torch.full((), float(b)))

    @classmethod
    @override
    def options_from_dropout(cls, dropout: nn.Module) -> dict[str, Any]:
        rate = getattr(dropout, "p", 0.0)
        return {"init_keep_prob": 1 - rate} if 0.0 < rate < 1.0 else {}

    @classmethod
    @override
    def options_for_trained(cls, num_units: int, keep_prob: float) -> dict[str, Any]:
        return {"init_keep_prob": keep_prob}

    @override
    def prior(self) -> dict[str, TorchDistribution]:
        a, b = self.prior_concentration1, self.prior_concentration0
        return {"pi": Beta(a, b, validate_args=False).expand([self.num_units]).to_event(1)}

    @override
    def posterior(self) -> dict[str, TorchDistribution]:
        return {"pi": Delta(self.keep_prob(), validate_args=False).to_event(1)}

    @override
    def keep_logits(self, latents: Latents, x: Tensor | None = None) -> Tensor:
        return logits_of(latents)

    @override
    def keep_prob(self) -> Tensor:
        return clamp_inward(self.logits, -_LARGEST_LOGIT, _LARGEST_LOGIT).sigmoid()
