"""Beta-Bernoulli dropout: a learned keep probability for every unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import Beta, TorchDistribution
from torch import Tensor
from typing_extensions import override

from bayesdrop.distributions.kumaraswamy import kl_beyond_one
from bayesdrop.errors import ConfigError
from bayesdrop.nn.arguments import is_real
from bayesdrop.nn.catalogue import register
from bayesdrop.nn.context import active_context
from bayesdrop.nn.latents import JointDraw, LatentOwner, is_own, joined
from bayesdrop.nn.masks.bernoulli import BernoulliDropout, logits_of
from bayesdrop.nn.masks.kumaraswamy_posterior import (
    UNIT_TENSORS,
    KumaraswamyPosterior,
    Parametrization,
)
from bayesdrop.nn.masks.relaxation import Relaxation
from bayesdrop.nn.restriction import unit_tensors
from bayesdrop.ops.memo import Memo
from bayesdrop.typing import Latents


class BetaBernoulliPosterior(KumaraswamyPosterior, BernoulliDropout):
    """Abstract layer whose keep probabilities have a Beta prior and a Kumaraswamy posterior.

    The arguments are those of ``BetaBernoulliDropout``.
    """

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
        prior_concentration1: float = 1e-4,
        prior_concentration0: float = 1.0,
        init_concentration1: float = 5.0,
        init_concentration0: float = 1.0,
        temperature: float = 0.1,
        relaxation: Relaxation = "concrete",
        parametrization: Parametrization = "location",
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
        positive = {
            "prior_concentration1": prior_concentration1,
            "prior_concentration0": prior_concentration0,
            "init_concentration1": init_concentration1,
            "init_concentration0": init_concentration0,
        }
        for name, value in positive.items():
            if not is_real(value) or not 0.0 < value < float("inf"):
                raise ConfigError(
                    type(self).__name__,
                    expected=f"{name} > 0 and finite",
                    got=f"{name}={value!r}",
                    hint="The defaults are those of the paper; start from them.",
                )
        self._start_posterior(
            num_units, parametrization, a=init_concentration1, b=init_concentration0
        )
        self._memo_of_mask, self._memo_of_product = Memo(), Memo()
        self.register_buffer("prior_concentration1", torch.full((), prior_concentration1))
        self.register_buffer("prior_concentration0", torch.full((), prior_concentration0))

    @classmethod
    @override
    def options_for_trained(cls, num_units: int, keep_prob: float) -> dict[str, Any]:
        return {"init_concentration1": keep_prob / (1 - keep_prob)}  # the mean, for b = 1

    @classmethod
    def draw_pi(cls, owners: Sequence[BetaBernoulliPosterior]) -> JointDraw | None:
        """Draw the keep probabilities of several layers, and their log-odds, at once.

        Args:
            owners: Layers of this class.

        Returns:
            None if they cannot be joined.
        """
        c = [owner.prior_concentration1 for owner in owners]
        scales = [owner.kl_scale for owner in owners]
        draw = cls.draw_together(owners, c, scales)
        if draw is None:
            return None
        kl = draw.kl
        updated = owners[0]._previous() is not None
        if not updated and any(float(owner.prior_concentration0) != 1.0 for owner in owners):
            sizes = [owner.num_units for owner in owners]
            d = joined([owner.prior_concentration0 for owner in owners], sizes)
            a, b = draw.concentration1, draw.concentration0
            rest = kl_beyond_one(a, b, joined(c, sizes), d)
            kl = kl + (rest * joined([a.new_full((), s) for s in scales], sizes)).sum()
        pairs = zip(owners, draw.values, draw.logits, strict=True)
        latents: dict[LatentOwner, Latents] = {
            owner: {"pi": value, "logits": logits} for owner, value, logits in pairs
        }
        return JointDraw(latents, kl)

    def _prior_of_pi(self) -> TorchDistribution:
        previous = self._previous()
        if previous is not None:
            return previous.to_event(1)
        c, d = self.prior_concentration1, self.prior_concentration0
        # The constructor has checked c and d, and this runs at every step.
        return Beta(c, d, validate_args=False).expand([self.num_units]).to_event(1)


@register
class BetaBernoulliDropout(BetaBernoulliPosterior):
    r"""Beta-Bernoulli dropout.

    .. math::
        p(\pi_k) = \mathrm{Beta}(c, d), \quad
        p(z_{nk} \mid \pi_k) = \mathrm{Bernoulli}(\pi_k)
        \qquad
        q(\pi_k) = \mathrm{Kumaraswamy}(a_k, b_k), \quad
        q(z_{nk} \mid \pi_k) = p(z_{nk} \mid \pi_k)

    With :math:`c = \alpha / K`, :math:`d = 1` and :math:`K \to \infty` this is the Indian buffet
    process. In training mode the mask is relaxed (binary concrete); in evaluation mode it is
    exact.

    Args:
        num_units: Number of units :math:`K`.
        unit_dim: The masked dimension: -1 for features, -3 for convolution maps.
        batch_dim: The dimension of the examples, counted from the first.
        threshold: Units with :math:`E[\pi_k]` below this are pruned.
        kl_scale: Factor on this layer's KL divergence.
        prior_concentration1: :math:`c > 0`, the paper's :math:`\alpha / K`. Smaller prunes more.
        prior_concentration0: :math:`d > 0`; 1 has a closed-form KL.
        init_concentration1: Initial :math:`a > 0`. The default starts with kept units, keep
            probability 5/6. The paper's, ``softplus(-1) = 0.3133`` (``softplus(2)`` for VGG), is
            meant for weights trained beforehand: from scratch it starts with 24 % of the units
            kept, and a small data set then empties the network before it has learned anything.
        init_concentration0: Initial :math:`b > 0`.
        temperature: Temperature of the relaxed mask, > 0.
        relaxation: ``"concrete"``, or ``"straight-through"`` for masks of exactly 0 and 1.
        parametrization: What is learned of the posterior: ``"location"``, a location and a shape,
            which finds its width; or ``"softplus"``, :math:`a` and :math:`b \le 50`, as in the
            paper's code. See ``KumaraswamyPosterior``.

    Shape:  input and output ``(N, ..., K)``, or ``(N, ..., K, H, W)`` with ``unit_dim=-3``.
    Sites:  ``{module path}.pi``, event ``(K,)``; ``{module path}.z``, plate ``data``, event
        ``(K,)``.

    References:
        Lee, Kim, Yoon, Lee, Yang, Hwang (2018), "Adaptive Network Sparsification via Dependent
        Variational Beta-Bernoulli Dropout", https://arxiv.org/abs/1805.10896.
        Deviation: the mask is clamped to [eps, 1 - eps] in logit space, which keeps denormal
        numbers out of the matrix products, and the default initial posterior keeps all.

    Example:
        >>> layer = BetaBernoulliDropout(4)
        >>> layer(torch.ones(2, 4)).shape
        torch.Size([2, 4])
        >>> bool((layer.keep_prob() < 1).all())
        True
    """

    key: ClassVar[str] = "beta-bernoulli"
    per_unit: ClassVar[tuple[str, ...]] = UNIT_TENSORS
    reference: ClassVar[str] = "Lee et al. (2018), https://arxiv.org/abs/1805.10896"

    @override
    def prior(self) -> dict[str, TorchDistribution]:
        return {"pi": self._prior_of_pi()}

    @override
    def posterior(self) -> dict[str, TorchDistribution]:
        return {"pi": self._kumaraswamy().to_event(1)}

    @override
    def grow(self, num_units: int) -> bool:
        beside_others = self._previous() is not None and float(self.prior_concentration0) != 1.0
        if beside_others or not unit_tensors(self):  # Beta(c, d) is no Kumaraswamy
            return False
        a, b = self._start
        self._extend_posterior(num_units, c=self.prior_concentration1, a=a, b=b)
        self.num_units += num_units
        return True

    @classmethod
    @override
    def draw_jointly(
        cls,
        owners: Sequence[BetaBernoulliDropout],
        *,
        drawn: Mapping[LatentOwner, Latents],
        rows: int | None,
    ) -> JointDraw | None:
        draw = cls.draw_pi(owners)
        if draw is None:
            return None
        return draw._replace(masks=cls.draw_masks(owners, draw.latents, rows))

    @override
    def keep_logits(self, latents: Latents, x: Tensor | None = None) -> Tensor:
        return logits_of(latents)

    @override
    def keep_prob(self) -> Tensor:
        return self._posterior_mean()

    @override
    def mean_mask(self, x: Tensor | None = None) -> Tensor:
        parameters = self.posterior_parameters()
        return self._memo_of_mask(self._thresholded, *parameters, setting=self.threshold)

    @override
    def _known_mask(self, x: Tensor) -> Tensor | None:
        # A pass of one example takes as long as a few calls of Python do.
        others = ("mean_mask", "sample_mask", "draw_mask")
        if active_context() is not None or not is_own(type(self), "_known_mask", *others):
            return None
        if x.ndim + self.unit_dim < 0 or x.shape[self.unit_dim] != self.num_units:
            return None
        if not x.is_floating_point():
            return None
        return self._memo_of_product.shared(
            lambda: self._align(self.mean_mask(), x),
            *self.posterior_parameters(),
            setting=(self.threshold, x.ndim),
        )

    def _thresholded(self) -> Tensor:
        mean = self._posterior_mean()
        return mean.masked_fill(mean < self.threshold, 0.0)
