"""Indian buffet dropout: ordered units, of which a stick-breaking prior wants only the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pyro.distributions import TorchDistribution
from torch import Tensor
from typing_extensions import override

from bayesdrop.nn.catalogue import register
from bayesdrop.nn.latents import JointDraw, LatentOwner, is_own
from bayesdrop.nn.masks.kumaraswamy_posterior import Parametrization
from bayesdrop.nn.masks.relaxation import Relaxation
from bayesdrop.nn.masks.stick_breaking import (
    DEFAULT_CONCENTRATION,
    IndianBuffetSticks,
    StickBreakingDropout,
    concentration_of_kept,
    draw_sticks,
    log_stick_products,
)
from bayesdrop.ops.stable import log1mexp
from bayesdrop.typing import Latents


@register
class IndianBuffetDropout(StickBreakingDropout):
    r"""Stick-breaking Indian buffet dropout.

    .. math::
        p(v_j) = \mathrm{Beta}(\alpha, 1), \quad \pi_k = \prod_{j \le k} v_j, \quad
        p(z_{nk} \mid \pi_k) = \mathrm{Bernoulli}(\pi_k)
        \qquad
        q(v_j) = \mathrm{Kumaraswamy}(a_j, b_j), \quad
        q(z_{nk} \mid v) = p(z_{nk} \mid v)

    A priori :math:`E[\pi_k] = (\alpha / (\alpha + 1))^k`: an example uses :math:`\alpha` units on
    average, however many there are, and the first ones most. The data decide how many it takes.
    ``num_units`` is the truncation: it must be large enough for the last unit to be pruned, and
    ``check_posterior``, which ``fit`` calls when it is done, warns where it is not.

    With pretrained weights, give the first sticks to the units that matter most (``rank_units``):
    a unit can only be kept if all the sticks before its own are long.

    Args:
        num_units: Number of units and of sticks :math:`K`.
        unit_dim: The masked dimension: -1 for features, -3 for convolution maps.
        batch_dim: The dimension of the examples, counted from the first.
        threshold: Units with :math:`E[\pi_k]` below this are pruned. The keep probabilities of
            units that nothing but the prior keeps fall by half in :math:`0.7 \alpha` sticks, so
            a small threshold would keep many of them.
        kl_scale: Factor on this layer's KL divergence.
        concentration: Mass :math:`\alpha > 0` of the process, the number of units an example is
            expected to use. Smaller prunes more.
        init_concentration1: Initial :math:`a > 0` of every stick. None starts with all units kept:
            the last one's keep probability is 5/6. The prior (``concentration``) would start with
            nearly all units of a wide layer pruned.
        init_concentration0: Initial :math:`b > 0` of every stick.
        temperature: Temperature of the relaxed mask, > 0.
        relaxation: ``"concrete"``, or ``"straight-through"`` for masks of exactly 0 and 1.
        parametrization: What is learned of the posterior: ``"location"``, a location and a shape,
            or ``"log"``, the logarithms of :math:`a` and :math:`b`. See ``KumaraswamyPosterior``.

    Shape:  input and output ``(N, ..., K)``, or ``(N, ..., K, H, W)`` with ``unit_dim=-3``.
    Sites:  ``{module path}.v``, event ``(K,)``; ``{module path}.z``, plate ``data``, event
        ``(K,)``.

    References:
        Teh, Gorur, Ghahramani (2007), "Stick-breaking Construction for the Indian Buffet Process";
        Singh, Ling, Doshi-Velez (2017), "Structured Variational Autoencoders for the Beta-
        Bernoulli Process".
        Deviations: :math:`\log\pi` is turned into a logit before it is used as one; the mask given
        the sticks is its own prior, so that its KL divergence is exactly zero; what is learned of
        the sticks' posterior (``parametrization``) is not a softplus.

    Example:
        >>> import torch
        >>> layer = IndianBuffetDropout(4, concentration=2.0)
        >>> layer(torch.ones(2, 4)).shape
        torch.Size([2, 4])
        >>> bool((layer.keep_prob().diff() < 0).all())
        True
    """

    key: ClassVar[str] = "indian-buffet"
    reference: ClassVar[str] = "Teh et al. (2007); Singh, Ling, Doshi-Velez (2017)"

    def __init__(
        self,
        num_units: int,
        *,
        unit_dim: int = -1,
        batch_dim: int = 0,
        threshold: float = 0.1,
        kl_scale: float = 1.0,
        concentration: float = DEFAULT_CONCENTRATION,
        init_concentration1: float | None = None,
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
        self.sticks = IndianBuffetSticks(
            num_units,
            concentration=concentration,
            init_concentration1=init_concentration1,
            init_concentration0=init_concentration0,
            parametrization=parametrization,
        )

    @override
    def prior(self) -> dict[str, TorchDistribution]:
        return self.sticks.prior()

    @override
    def posterior(self) -> dict[str, TorchDistribution]:
        return self.sticks.posterior()

    @override
    def carried(self) -> dict[str, Tensor]:
        return self.sticks.carried()

    @override
    def carry(self, numbers: Mapping[str, Tensor]) -> None:
        self.sticks.carry(numbers)

    @override
    def grow(self, num_units: int) -> bool:
        if not is_own(type(self), "grow", "__init__", "prior", "posterior"):
            return False
        self.sticks.grow(num_units)
        self._grow_ranks(num_units)
        return True

    @classmethod
    @override
    def options_for_code(cls, num_features: int, options: Mapping[str, Any]) -> dict[str, Any]:
        # The encoder keeps what an example needs; features that all start kept go slowly.
        start = options.get("concentration", 10.0)
        return super().options_for_code(num_features, {"init_concentration1": start, **options})

    @classmethod
    @override
    def options_for_trained(cls, num_units: int, keep_prob: float) -> dict[str, Any]:
        return {"init_concentration1": concentration_of_kept(num_units, keep_prob)}

    @classmethod
    @override
    def draw_jointly(
        cls,
        owners: Sequence[IndianBuffetDropout],
        *,
        drawn: Mapping[LatentOwner, Latents],
        rows: int | None,
    ) -> JointDraw | None:
        draw = draw_sticks(owners, [owner.sticks for owner in owners])
        if draw is None:
            return None
        return draw._replace(masks=cls.draw_masks(owners, draw.latents, rows))

    @override
    def keep_logits(self, latents: Latents, x: Tensor | None = None) -> Tensor:
        log_pi = log_stick_products(latents["v"]).index_select(-1, self.rank)
        return log_pi - log1mexp(log_pi)

    @override
    def keep_prob(self) -> Tensor:
        return self.sticks.keep_prob().index_select(-1, self.rank)
