"""Nested dropout: every prefix of the units is trained, how often is fixed."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypeAlias

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from typing_extensions import override

from bayesdrop.distributions import OrderedMask
from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.nn.catalogue import register
from bayesdrop.nn.masks.ordered_units import OrderedUnits, Ordering
from bayesdrop.nn.masks.unit_mask import UnitMask
from bayesdrop.typing import Latents

TruncationLaw: TypeAlias = Literal["uniform", "geometric"]
_LAWS = ("uniform", "geometric")


def uniform_order_probs(num_ordered: int) -> Tensor:
    r"""Return the :math:`\beta` of a uniform number of kept groups, 0 to D: ``(D,)``.

    .. math:: \beta_k = \frac{D + 1 - k}{D + 2 - k}

    Args:
        num_ordered: Number of groups :math:`D`.

    Example:
        >>> uniform_order_probs(2)
        tensor([0.6667, 0.5000])
    """
    left = torch.arange(num_ordered, 0, -1, dtype=torch.get_default_dtype())
    return left / (left + 1)


def with_full_prob(probs: Tensor, full_prob: float | None) -> Tensor:
    r"""Return the :math:`\beta` of the law with another probability of full width: ``(D,)``.

    .. math:: P'(t = D) = f, \qquad P'(t) = \frac{1 - f}{1 - P(D)} P(t), \quad t < D

    Args:
        probs: :math:`\beta` of the law, each in (0, 1).
        full_prob: :math:`f` in (0, 1); None returns the law as it is.

    Raises:
        ConfigError: If it is not in (0, 1).

    Example:
        >>> with_full_prob(torch.tensor([0.5, 0.5]), 0.4)
        tensor([0.6000, 0.6667])
    """
    if full_prob is None:
        return probs
    if not 0.0 < full_prob < 1.0:
        raise ConfigError(
            "nested dropout",
            expected="0 < full_prob < 1",
            got=f"{full_prob}",
            hint="It is the chance that all groups are kept; None leaves it to the law.",
        )
    tail = OrderedMask(probs, validate_args=False).tail_probs
    rest = tail[:-1] * ((1.0 - full_prob) / tail[:-1].sum())
    tail = torch.cat([rest, tail.new_tensor([full_prob])])
    reach = tail.flip(0).cumsum(0).flip(0)  # of at least t kept groups
    return reach[1:] / reach[:-1]


@register
class NestedDropout(OrderedUnits):
    r"""Nested dropout with a fixed law of the number of kept groups.

    .. math::
        p(z_n) = q(z_n) = \mathrm{OrderedMask}(\beta), \qquad
        \beta_k = \frac{D + 1 - k}{D + 2 - k} \ \text{(uniform)} \quad\text{or}\quad
        \beta_k = \rho \ \text{(geometric)}

    Each example has a mask of its own. There is nothing to infer: the KL divergence is zero, and
    the loss is the expected loss over widths.

    Args:
        num_units: Number of units :math:`K`.
        unit_dim: The masked dimension: -1 for features, -3 for convolution maps.
        batch_dim: The dimension of the examples, counted from the first.
        threshold: Units whose keep probability is below this are pruned from the mean mask.
        kl_scale: Without effect here.
        num_groups: Number of groups :math:`G`; see ``OrderedUnits``.
        always_kept: Number of groups :math:`F` that every mask keeps; :math:`D = G - F`.
        ordering: ``"index"`` or ``"importance"``; see ``OrderedUnits``.
        share_widths: Whether the layers of a network share their widths; see ``OrderedUnits``.
        stratified: Whether the masks of a training batch share the law out; see ``OrderedUnits``.
        law: ``"uniform"``: each number of kept groups from F to G is as likely. ``"geometric"``:
            it is geometric, the last taking what is left.
        continue_prob: :math:`\rho` of the geometric law, in (0, 1).
        full_prob: Probability that all groups are kept; the other widths share the rest as before.
            None leaves it to the law.

    Shape:  input and output ``(N, ..., K)``, or ``(N, ..., K, H, W)`` with ``unit_dim=-3``.
    Sites:  ``{module path}.z``, plate ``data``, event ``(K,)``.

    References:
        Rippel, Gelbart, Adams (2014), "Learning Ordered Representations with Nested Dropout",
        https://arxiv.org/abs/1402.0915.
        Deviation: the paper sweeps, freezing units that have converged; here all are trained
        throughout.

    Example:
        >>> NestedDropout(4).keep_prob()
        tensor([1.0000, 0.7500, 0.5000, 0.2500])
    """

    key: ClassVar[str] = "nested"
    reference: ClassVar[str] = "Rippel et al. (2014), https://arxiv.org/abs/1402.0915"

    probs: Tensor

    def __init__(  # noqa: PLR0913 - the law's and its widths'
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
        law: TruncationLaw = "uniform",
        continue_prob: float = 0.9,
        full_prob: float | None = None,
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
        if law not in _LAWS:
            raise unknown_name("law", law, _LAWS)
        if not 0.0 < continue_prob < 1.0:
            raise ConfigError(
                "NestedDropout",
                expected="0 < continue_prob < 1",
                got=f"continue_prob={continue_prob}",
                hint="It is the chance that one group more is kept.",
            )
        self.law, self.continue_prob = law, continue_prob
        uniform = law == "uniform"
        probs = (
            uniform_order_probs(self.num_ordered)
            if uniform
            else torch.full((self.num_ordered,), continue_prob)
        )
        self.register_buffer("probs", with_full_prob(probs, full_prob))

    @classmethod
    @override
    def options_for_trained(cls, num_units: int, keep_prob: float) -> dict[str, Any]:
        return {"full_prob": keep_prob, "ordering": "importance"}

    @override
    def prior(self) -> dict[str, TorchDistribution]:
        return {}

    @override
    def posterior(self) -> dict[str, TorchDistribution]:
        return {}

    @override
    def order_prior(self) -> OrderedMask:
        return OrderedMask(logits=self.order_probs().logit(), validate_args=False)

    @override
    def order_posterior(self) -> OrderedMask:
        return self.order_prior()

    @override
    def order_probs(self) -> Tensor:
        return self.probs if self.width_source is None else self.width_source.order_probs()

    @override
    def _free_mask(self, latents: Latents) -> TorchDistribution:
        stratified = self.stratified and self.training
        order = OrderedMask(self.probs, validate_args=False, stratified=stratified)
        return UnitMask(order, self.unit_group, self.always_kept)
