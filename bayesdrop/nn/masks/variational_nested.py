"""Variational nested dropout: how often each prefix of the units is used is learned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias, cast, get_args

import torch
from pyro.distributions import Delta, TorchDistribution
from torch import Tensor, nn
from torch.distributions import kl_divergence as torch_kl_divergence
from typing_extensions import override

from bayesdrop.distributions import (
    OrderedMask,
    OrderedMaskInterpolated,
    OrderedMaskStraightThrough,
)
from bayesdrop.distributions.ordered_mask import chain_kl
from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.nn.catalogue import register
from bayesdrop.nn.latents import JointDraw, LatentOwner, alike, is_own
from bayesdrop.nn.masks.nested import uniform_order_probs, with_full_prob
from bayesdrop.nn.masks.ordered_units import OrderedUnits, Ordering
from bayesdrop.nn.masks.unit_mask import UnitMask
from bayesdrop.ops import noise
from bayesdrop.ops.stable import clamp_inward
from bayesdrop.typing import Latents, SharedBy

_MAX_LOGIT = 5.0

OrderGradient: TypeAlias = Literal["interpolated", "straight-through"]
"""How the order of units gets its gradient, see ``VariationalNestedDropout``."""


@register
class VariationalNestedDropout(OrderedUnits):
    r"""Variational nested dropout.

    .. math::
        p(z) = \mathrm{OrderedMask}(\pi) \qquad q(z) = \mathrm{OrderedMask}(\beta), \quad
        \beta_k = \sigma(\mathrm{clamp}(r_k, -5, 5))

    The mask belongs to the weights: it is a global latent, one for all examples, whose divergence
    is paid once. In training mode a group may be kept in part, so that the order's gradient is
    that of the mean over exact masks (``OrderedMaskInterpolated``): without bias where one law
    decides, and given the other layers' masks as they are drawn where there are several.
    ``gradient="straight-through"`` has exact masks and the gradient of relaxed ones, as published:
    far from the ELBO's (``check_elbo`` says how far).

    Under the plain ELBO the data of a large training set outweigh the few nats of this divergence,
    and the probabilities rise towards their bound 0.9933; narrow prefixes are then hardly trained.
    ``kl_scale`` says how strongly the prior over widths is held to: at the number of examples each
    of them pays, as if its mask were its own. ``learn_order=False`` fixes the probabilities.

    Args:
        num_units: Number of units :math:`K`.
        unit_dim: The masked dimension: -1 for features, -3 for convolution maps.
        batch_dim: The dimension of the examples, counted from the first.
        threshold: Units whose keep probability is below this are pruned from the mean mask.
        kl_scale: Factor on this layer's KL divergence.
        num_groups: Number of groups :math:`G`; see ``OrderedUnits``.
        always_kept: Number of groups :math:`F` that every mask keeps; :math:`D = G - F`.
        ordering: ``"index"`` or ``"importance"``; see ``OrderedUnits``.
        share_widths: Whether the layers of a network share their widths; see ``OrderedUnits``.
        stratified: Whether the masks of a training batch share the law out; see ``OrderedUnits``.
        prior_continue_prob: :math:`\pi_k` in (0, 1), the same for every group; None is the prior
            under which every number of kept groups is as likely.
        prior_full_prob: Prior probability that all groups are kept; the other widths share the
            rest as before. None leaves it to ``prior_continue_prob``.
        init_continue_prob: Initial :math:`\beta_k`, from 0.0067 to 0.9933; None starts at the
            prior.
        learn_order: Whether :math:`r` is a parameter; else it stays as it starts.
        temperature: Temperature of the straight-through gradient, > 0.
        shared_by: ``"batch"``: one mask a step, a site outside the data plate. ``"example"``: a
            mask for each example and the divergence as a factor. Every example's likelihood has
            the same expectation, so that it is the same ELBO with less noise in its estimate.
        gradient: ``"interpolated"``, or ``"straight-through"`` as published.

    Shape:  input and output ``(N, ..., K)``, or ``(N, ..., K, H, W)`` with ``unit_dim=-3``.
    Sites:  ``{module path}.order``, event ``(D,)`` (``{module path}.penalty`` for a mask for each
        example); ``{module path}.z``, plate ``data``, event ``(K,)``: the order of units.

    References:
        Cui, Liu, Li, Chan, Xue (2021), "Bayesian Nested Neural Networks for Uncertainty
        Calibration and Adaptive Compression", CVPR; Cui, Mao, Liu, Li, Chan, Liu, Kuo, Xue
        (2023), https://arxiv.org/abs/2101.11353.
        Deviations: masks come after BatchNorm and activation, where a dropped unit is zero; noise
        is added to log-probabilities (see ``OrderedMaskStraightThrough``); another gradient by
        default; a clamped :math:`r`
        keeps its gradient where that points inside.

    Example:
        >>> layer = VariationalNestedDropout(64)
        >>> layer(torch.ones(2, 64)).shape, layer.posterior()["order"].event_shape
        (torch.Size([2, 64]), torch.Size([31]))
        >>> bool((layer.keep_prob().diff() <= 0).all())
        True
    """

    key: ClassVar[str] = "variational-nested"
    reference: ClassVar[str] = "Cui et al. (2021, 2023), https://arxiv.org/abs/2101.11353"

    schedulable: ClassVar[tuple[str, ...]] = ("temperature",)

    order_logits: Tensor
    prior_logits: Tensor
    temperature: Tensor

    def __init__(  # noqa: PLR0913 - the order's and its prior's
        self,
        num_units: int,
        *,
        unit_dim: int = -1,
        batch_dim: int = 0,
        threshold: float = 1e-3,
        kl_scale: float = 1.0,
        num_groups: int | None = None,
        always_kept: int | None = None,
        ordering: Ordering = "index",
        share_widths: bool = False,
        stratified: bool = False,
        prior_continue_prob: float | None = 0.95,
        prior_full_prob: float | None = None,
        init_continue_prob: float | None = 0.952574,
        learn_order: bool = True,
        temperature: float = 2.0,
        shared_by: SharedBy = "batch",
        gradient: OrderGradient = "interpolated",
    ) -> None:
        super().__init__(
            num_units,
            unit_dim=unit_dim,
            batch_dim=batch_dim,
            threshold=threshold,
            kl_scale=kl_scale,
            num_groups=num_groups,
            always_kept=always_kept,
            ordering=ordering,
            share_widths=share_widths,
            stratified=stratified,
        )
        if shared_by not in get_args(SharedBy):
            raise unknown_name("shared_by", shared_by, get_args(SharedBy))
        if gradient not in get_args(OrderGradient):
            raise unknown_name("gradient", gradient, get_args(OrderGradient))
        if stratified and (shared_by == "batch" or (learn_order and gradient != "interpolated")):
            raise ConfigError(
                type(self).__name__,
                expected="shared_by='example' and gradient='interpolated' with stratified=True",
                got=f"shared_by={shared_by!r} and gradient={gradient!r}",
                hint="One mask for all examples has no widths to share out, and masks with the "
                "published gradient are drawn from noise for each width.",
            )
        bound = 1.0 / (1.0 + math.exp(-_MAX_LOGIT))
        good_init = init_continue_prob is None or 1 - bound <= init_continue_prob <= bound
        good_prior = prior_continue_prob is None or 0.0 < prior_continue_prob < 1.0
        if not (good_init and good_prior and 0.0 < temperature < math.inf):
            raise ConfigError(
                type(self).__name__,
                expected=f"0 < prior_continue_prob < 1, {1 - bound:.4f} <= init_continue_prob <= "
                f"{bound:.4f} and a finite temperature > 0",
                got=f"prior_continue_prob={prior_continue_prob}, "
                f"init_continue_prob={init_continue_prob}, temperature={temperature}",
                hint="The published values are 0.95, 0.952574 (r = 3) and 2.",
            )
        self.shared_by, self.learn_order, self.gradient = shared_by, learn_order, gradient
        probs = (
            uniform_order_probs(self.num_ordered)
            if prior_continue_prob is None
            else torch.full((self.num_ordered,), prior_continue_prob)
        )
        prior = with_full_prob(probs, prior_full_prob).logit()
        init = (
            prior.clamp(-_MAX_LOGIT, _MAX_LOGIT)
            if init_continue_prob is None
            else torch.full((self.num_ordered,), init_continue_prob).logit()
        )
        self.register_buffer("prior_logits", prior)
        self.register_buffer("temperature", torch.full((), temperature))
        if learn_order:
            self.order_logits = nn.Parameter(init)
        else:
            self.register_buffer("order_logits", init)

    def clamped_logits(self) -> Tensor:
        r"""Return :math:`\mathrm{logit}\,\beta` of the posterior, ``(D,)``."""
        return clamp_inward(self._law.order_logits, -_MAX_LOGIT, _MAX_LOGIT)

    @override
    def order_probs(self) -> Tensor:
        return torch.sigmoid(self.clamped_logits())

    @override
    def order_prior(self) -> OrderedMask:
        previous = self._law.previous("order_logits")
        logits = self._law.prior_logits if previous is None else previous
        return OrderedMask(logits=logits, validate_args=False)

    @override
    def carried(self) -> dict[str, Tensor]:
        # A layer that follows another one's widths, or is held at one, has no law to carry.
        return {"order_logits": self.clamped_logits()} if self._has_latents else {}

    @override
    def order_temperature(self) -> float | None:
        return float(self.temperature)

    @override
    def order_interpolated(self) -> bool:
        return self.gradient == "interpolated"

    @override
    def order_posterior(self) -> OrderedMask:
        logits = self.clamped_logits()
        if self.training and self.gradient == "interpolated" and self._law.learn_order:
            return OrderedMaskInterpolated(
                logits=logits, validate_args=False, stratified=self.stratified
            )
        return OrderedMaskStraightThrough(self.temperature, logits=logits, validate_args=False)

    @property
    def _law(self) -> VariationalNestedDropout:
        return cast(VariationalNestedDropout, self._source)

    @classmethod
    @override
    def options_for_code(cls, num_features: int, options: Mapping[str, Any]) -> dict[str, Any]:
        return super().options_for_code(num_features, {"temperature": 1.0, **options})

    @classmethod
    @override
    def options_for_trained(cls, num_units: int, keep_prob: float) -> dict[str, Any]:
        # The bound: even there the last of many groups is not kept quite as often.
        return {"init_continue_prob": 0.9933, "ordering": "importance"}

    @override
    def _drop_law(self) -> None:
        # None is neither trained nor saved.
        self.order_logits = self.prior_logits = cast(Any, None)

    @property
    def _has_latents(self) -> bool:
        return self.held_groups is None and self.width_source is None

    @property
    def _is_global(self) -> bool:
        return self.shared_by == "batch" and self._has_latents

    @override
    def prior(self) -> dict[str, TorchDistribution]:
        return {"order": self.order_prior()} if self._is_global else {}

    @override
    def posterior(self) -> dict[str, TorchDistribution]:
        return {"order": self.order_posterior()} if self._is_global else {}

    @classmethod
    @override
    def draw_jointly(
        cls,
        owners: Sequence[VariationalNestedDropout],
        *,
        drawn: Mapping[LatentOwner, Latents],
        rows: int | None,
    ) -> JointDraw | None:
        alike_in = {(o.num_ordered, o.gradient, o.learn_order, o._is_global) for o in owners}
        own = is_own(cls, "draw_jointly", "order_prior", "order_posterior", "clamped_logits")
        if not own or alike_in != {(owners[0].num_ordered, "interpolated", True, True)}:
            return None
        found: list[Tensor] = [owner.order_logits for owner in owners]
        priors = [owner.order_prior().logits for owner in owners]
        if not alike([*found, *priors]):
            return None
        logits = clamp_inward(torch.stack(found), -_MAX_LOGIT, _MAX_LOGIT)
        kl = chain_kl(logits, torch.stack(priors))
        if any(owner.kl_scale != 1.0 for owner in owners):
            kl = kl * kl.new_tensor([owner.kl_scale for owner in owners])
        total = kl.sum()
        for owner in owners:
            if (rest := owner.penalty()) is not None:
                total = total + rest * owner.kl_scale
        uniform = noise.uniforms([(3, 1)] * len(owners), logits).view(-1, 3, 1)
        orders = OrderedMaskInterpolated(logits=logits, validate_args=False).from_noise(
            *uniform.unbind(1)
        )
        pairs = zip(owners, orders.unbind(), strict=True)
        return JointDraw({owner: {"order": order} for owner, order in pairs}, total)

    @override
    def penalty(self) -> Tensor | None:
        weights = super().penalty()
        if self.shared_by == "batch" or not self._has_latents:
            return weights
        kl = torch_kl_divergence(self.order_posterior(), self.order_prior())
        return kl if weights is None else kl + weights

    @override
    def log_prob_of_masks(
        self, masks: Tensor, latents: Latents, x: Tensor | None = None
    ) -> Tensor:
        """Return them given the order that was drawn; in training mode, those of its posterior."""
        if "order" not in latents or self.training:
            return super().log_prob_of_masks(masks, latents, x)
        drawn = self.expand_order(latents["order"]).unsqueeze(-2)
        return torch.where((masks == drawn).all(-1), 0.0, -torch.inf)

    @override
    def _free_mask(self, latents: Latents) -> TorchDistribution:
        if "order" in latents:
            return Delta(self.expand_order(latents["order"]), event_dim=1, validate_args=False)
        order = self.order_posterior()
        if not self.training or (self.stratified and not self._law.learn_order):
            # Without the gradient one random number makes a mask.
            stratified = self.stratified and self.training
            order = OrderedMask(logits=order.logits, validate_args=False, stratified=stratified)
        return UnitMask(order, self.unit_group, self.always_kept)
