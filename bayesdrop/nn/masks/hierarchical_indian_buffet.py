"""Hierarchical Indian buffet dropout: layers share one stick-breaking prior of their widths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import Beta, TorchDistribution
from torch import Tensor
from torch.distributions import kl_divergence as torch_kl_divergence
from typing_extensions import override

from bayesdrop.distributions import Joined, Kumaraswamy
from bayesdrop.errors import ConfigError
from bayesdrop.nn.catalogue import register
from bayesdrop.nn.latents import ConditionalOwner, JointDraw, LatentOwner, is_own, joined
from bayesdrop.nn.mask import BayesianDropout
from bayesdrop.nn.masks.bernoulli import logits_of
from bayesdrop.nn.masks.kumaraswamy_posterior import KumaraswamyPosterior, Parametrization
from bayesdrop.nn.masks.relaxation import Relaxation
from bayesdrop.nn.masks.stick_breaking import (
    DEFAULT_CONCENTRATION,
    IndianBuffetSticks,
    StickBreakingDropout,
    check_positive,
    log_stick_products,
)
from bayesdrop.typing import Latents


@register
class HierarchicalIndianBuffetDropout(
    ConditionalOwner, KumaraswamyPosterior, StickBreakingDropout
):
    r"""Indian buffet dropout around sticks that several layers share.

    .. math::
        p(v_j) = \mathrm{Beta}(\alpha, 1), \quad \pi^0_k = \prod_{j \le k} v_j, \quad
        p(\pi_{lk} \mid v) = \mathrm{Beta}(c\,\pi^0_k,\ c\,(1 - \pi^0_k)), \quad
        p(z_{nlk} \mid \pi_{lk}) = \mathrm{Bernoulli}(\pi_{lk})

    .. math::
        q(v_j) = \mathrm{Kumaraswamy}(a^0_j, b^0_j), \quad
        q(\pi_{lk}) = \mathrm{Kumaraswamy}(a_{lk}, b_{lk}), \quad
        q(z_{nlk} \mid \pi_{lk}) = p(z_{nlk} \mid \pi_{lk})

    The sticks say how wide the layers of this network are, each layer how it differs. ``convert``
    lets all layers that it puts in share sticks, as many as the widest has units::

        bd.convert(network, "hierarchical-indian-buffet", concentration=50.0)

    By hand, give all layers the same ``IndianBuffetSticks``; a layer with fewer units uses the
    first.

    The loss holds the sticks' KL divergence once. The layers' are in closed form given the
    sticks, of which each step draws one sample: the ELBO is estimated without bias, with pathwise
    gradients, also by ``TraceMeanField_ELBO``. Masks do not depend on the sticks given
    :math:`\pi_l`, so prediction is as for other layers.

    Args:
        num_units: Number of units :math:`K`.
        unit_dim: The masked dimension: -1 for features, -3 for convolution maps.
        batch_dim: The dimension of the examples, counted from the first.
        threshold: Units with :math:`E[\pi_{lk}]` below this are pruned. The keep probabilities of
            units that nothing but the prior keeps fall by half in :math:`0.7 \alpha` sticks, so
            a small threshold would keep many of them.
        kl_scale: Factor on this layer's KL divergence; that of the sticks is theirs.
        sticks: The shared sticks, at least ``num_units``; used, not copied. None makes sticks of
            the layer's own, which ``share``, and so ``convert``, lets layers share.
        concentration: Mass :math:`\alpha > 0` of those sticks, 10 if None. Layers of one
            concentration share sticks. Sticks that are passed have theirs.
        layer_concentration: :math:`c > 0`: larger holds the layer closer to the shared
            :math:`\pi^0`.
        init_concentration1: Initial :math:`a > 0`; the default is a keep probability of 5/6.
        init_concentration0: Initial :math:`b > 0`.
        temperature: Temperature of the relaxed mask, > 0.
        relaxation: ``"concrete"``, or ``"straight-through"`` for masks of exactly 0 and 1.
        parametrization: What is learned of the posterior: ``"location"``, a location and a shape,
            or ``"log"``, the logarithms of :math:`a` and :math:`b`. See ``KumaraswamyPosterior``.

    Shape:  input and output ``(N, ..., K)``, or ``(N, ..., K, H, W)`` with ``unit_dim=-3``.
    Sites:  ``{module path}.pi``, event ``(K,)``; ``{module path}.z``, plate ``data``, event
        ``(K,)``; and once, under the first layer that has them, ``{module path}.sticks.v``.

    Raises:
        ConfigError: If there are fewer sticks than units, if both sticks and a concentration are
            passed, or if an argument makes no sense.

    References:
        Kessler, Nguyen, Zohren, Roberts (2021), "Hierarchical Indian Buffet Neural Networks for
        Bayesian Continual Learning", https://arxiv.org/abs/1912.02290.
        Deviations: weights are point estimates; :math:`q(\pi_{lk})` is a Kumaraswamy, not a Beta;
        the mask's logit is :math:`\mathrm{logit}\,\pi_{lk}`, not :math:`\log\pi_{lk}`, and its
        KL divergence is exactly zero.

    Example:
        >>> from torch import nn
        >>> sticks = IndianBuffetSticks(6, concentration=2.0)
        >>> net = nn.Sequential(
        ...     HierarchicalIndianBuffetDropout(6, sticks=sticks),
        ...     nn.Linear(6, 4),
        ...     HierarchicalIndianBuffetDropout(4, sticks=sticks),
        ... )
        >>> net(torch.ones(2, 6)).shape
        torch.Size([2, 4])
    """

    key: ClassVar[str] = "hierarchical-indian-buffet"
    reference: ClassVar[str] = "Kessler et al. (2021), https://arxiv.org/abs/1912.02290"

    layer_concentration: Tensor

    def __init__(  # noqa: PLR0913 - the layer's and its prior's
        self,
        num_units: int,
        *,
        unit_dim: int = -1,
        batch_dim: int = 0,
        threshold: float = 0.1,
        kl_scale: float = 1.0,
        sticks: IndianBuffetSticks | None = None,
        concentration: float | None = None,
        layer_concentration: float = 4.0,
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
        who = type(self).__name__
        check_positive(
            who,
            layer_concentration=layer_concentration,
            init_concentration1=init_concentration1,
            init_concentration0=init_concentration0,
        )
        if sticks is None:
            concentration = DEFAULT_CONCENTRATION if concentration is None else concentration
            check_positive(who, concentration=concentration)
            sticks = IndianBuffetSticks(
                num_units, concentration=concentration, parametrization=parametrization
            )
        elif concentration is not None:
            raise ConfigError(
                who,
                expected="either sticks or their concentration",
                got=f"both, and concentration={concentration}",
                hint="Pass the concentration to IndianBuffetSticks.",
            )
        self.sticks = sticks
        # Of sticks that other layers may share; None if the caller decides who does.
        self._concentration = concentration
        if self.sticks.num_sticks < num_units:
            raise ConfigError(
                who,
                expected=f"at least {num_units} sticks, one for each unit",
                got=f"{self.sticks.num_sticks}",
                hint="Make as many sticks as the widest layer has units.",
            )
        self._start_posterior(
            num_units, parametrization, a=init_concentration1, b=init_concentration0
        )
        self.register_buffer("layer_concentration", torch.full((), layer_concentration))

    @classmethod
    @override
    def options_for_trained(cls, num_units: int, keep_prob: float) -> dict[str, Any]:
        return {"init_concentration1": keep_prob / (1 - keep_prob)}  # the mean, for b = 1

    @classmethod
    @override
    def share(cls, layers: Sequence[BayesianDropout]) -> None:
        alike: dict[float, list[HierarchicalIndianBuffetDropout]] = {}
        for layer in layers:
            if isinstance(layer, cls) and layer._concentration is not None:
                alike.setdefault(layer._concentration, []).append(layer)
        for concentration, group in alike.items():
            widest = max(layer.num_units for layer in group)
            sticks = IndianBuffetSticks(
                widest,
                concentration=concentration,
                parametrization=group[0].parametrization,
            )
            sticks.to(group[0].layer_concentration)
            for layer in group:
                layer.sticks = sticks

    @override
    def grow(self, num_units: int) -> bool:
        if not is_own(type(self), "grow", "__init__", "prior_given", "posterior"):
            return False
        total = self.num_units + num_units
        if total > self.sticks.num_sticks:
            self.sticks.grow(total - self.sticks.num_sticks)
        a, b = self._start
        self._extend_posterior(num_units, c=None, a=a, b=b)
        self._grow_ranks(num_units)
        return True

    @property
    @override
    def parent(self) -> IndianBuffetSticks:
        return self.sticks

    @override
    def prior_given(self, latents: Latents) -> dict[str, TorchDistribution]:
        log_pi = log_stick_products(latents["v"]).index_select(-1, self.rank)
        previous = self._previous()
        if previous is None:
            return {"pi": _prior(log_pi, self.layer_concentration).to_event(1)}
        # After ``bd.update_prior`` the sticks have a say in units that were added since.
        known = previous.batch_shape[-1]
        if known == self.num_units:
            return {"pi": previous.to_event(1)}
        fresh = _prior(log_pi[..., known:], self.layer_concentration)
        before = previous.expand((*fresh.batch_shape[:-1], known))
        return {"pi": Joined([before, fresh]).to_event(1)}

    @classmethod
    @override
    def draw_jointly(
        cls,
        owners: Sequence[HierarchicalIndianBuffetDropout],
        *,
        drawn: Mapping[LatentOwner, Latents],
        rows: int | None,
    ) -> JointDraw | None:
        shared = {owner.sticks for owner in owners}
        if not is_own(cls, "draw_jointly", "prior_given") or not shared <= drawn.keys():
            return None
        draw = cls.draw_together(owners, None, [1.0 for _ in owners])
        if draw is None:
            return None
        if any(owner._previous() is not None for owner in owners):
            return None
        products = {sticks: log_stick_products(drawn[sticks]["v"]) for sticks in shared}
        log_pi = torch.cat([products[o.sticks].index_select(-1, o.rank) for o in owners])
        sizes = [owner.num_units for owner in owners]
        prior = _prior(log_pi, joined([owner.layer_concentration for owner in owners], sizes))
        posterior = Kumaraswamy(draw.concentration1, draw.concentration0, validate_args=False)
        kl = torch_kl_divergence(posterior, prior)
        if any(owner.kl_scale != 1.0 for owner in owners):
            kl = kl * joined([kl.new_full((), owner.kl_scale) for owner in owners], sizes)
        values = zip(owners, draw.values, draw.logits, strict=True)
        latents: dict[LatentOwner, Latents] = {
            owner: {"pi": value, "logits": logits} for owner, value, logits in values
        }
        return JointDraw(latents, kl.sum(), cls.draw_masks(owners, latents, rows))

    @override
    def posterior(self) -> dict[str, TorchDistribution]:
        return {"pi": self._kumaraswamy().to_event(1)}

    @override
    def keep_logits(self, latents: Latents, x: Tensor | None = None) -> Tensor:
        return logits_of(latents)

    @override
    def keep_prob(self) -> Tensor:
        return self._posterior_mean()


def _prior(log_pi: Tensor, concentration: Tensor) -> Beta:
    # A unit's pi is as good as zero there, and gradients in it would overflow.
    log_pi = log_pi.clamp(min=0.5 * math.log(torch.finfo(log_pi.dtype).tiny))
    c, d = concentration * log_pi.exp(), -concentration * torch.expm1(log_pi)
    return Beta(c, d, validate_args=False)
