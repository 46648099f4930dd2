"""Targeted dropout of units: only those with the smallest weights are dropped."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.distributions.masked_delta import MaskedDelta
from bayesdrop.errors import ConfigError
from bayesdrop.nn.arguments import check_weights
from bayesdrop.nn.catalogue import register
from bayesdrop.nn.mask import BayesianDropout
from bayesdrop.ops.smallest import smallest
from bayesdrop.typing import Latents


@register
class TargetedDropout(BayesianDropout):
    r"""Targeted unit dropout: of the units with the smallest weights, each is dropped at a rate.

    .. math::
        p(z_{nk}) = q(z_{nk}) = \mathrm{Bernoulli}(1 - \alpha\, c_k), \qquad
        c_k = \mathbb 1\bigl[\lVert w_k \rVert_2 \text{ is among the }
        \lfloor \gamma K \rfloor \text{ smallest}\bigr]

    where :math:`w_k` are the weights that unit :math:`k` is multiplied by, or, where the mask is
    on a layer's outputs, those that compute it, without its bias. The candidates :math:`c` are
    found anew in every pass, so that a network learns to do without units that are small, and
    which are small is its own choice: it is then pruned by magnitude at little cost
    (``bd.compression.sweep_magnitudes``). What is kept is not rescaled, and gradients reach only
    the weights of units that are kept. Nothing about the mask is learned: its KL divergence is
    exactly zero.

    With :math:`\alpha = 0` or :math:`\gamma = 0` it is the network without dropout, with
    :math:`\gamma = 1` it is ``nn.Dropout(alpha)`` without the rescaling, and with
    :math:`\alpha = 1` it is a network that is pruned by magnitude all along.

    Args:
        num_units: Number of units :math:`K`.
        unit_dim: The masked dimension: -1 for features, -3 for convolution maps.
        batch_dim: The dimension of the examples, counted from the first.
        threshold: Units with a keep probability below this are pruned in evaluation mode. With 0
            (published) nothing is, unless ``drop_prob`` is 1; with anything above
            :math:`1 - \alpha` all candidates are, and ``compact`` takes them out.
        kl_scale: Has nothing to scale.
        drop_prob: :math:`\alpha` in [0, 1]. ``fit`` can schedule it, and the share.
        targeted_share: :math:`\gamma` in [0, 1].

    Shape:  input and output ``(N, ..., K)``, or ``(N, ..., K, H, W)`` with ``unit_dim=-3``.
    Sites:  ``{module path}.z``, plate ``data``, event ``(K,)``.

    ``convert`` says which layer the units belong to (``bind_weights``). Without one all units are
    equally small: all are candidates.

    References:
        Gomez, Zhang, Kamalakara, Madaan, Swersky, Gal, Hinton (2019), "Learning Sparse Networks
        Using Targeted Dropout", https://arxiv.org/abs/1905.13678, section 3.
        Deviations: a unit is dropped for each example anew; on a Linear layer's inputs it is the
        column of weights behind the unit whose norm counts, not the row before. The released code
        draws each weight of a candidate by itself, so that a unit is hardly ever dropped as a
        whole: that is ``bd.nn.TargetedDropconnect(granularity="unit")``.

    Example:
        >>> masks = TargetedDropout(4, drop_prob=0.5, targeted_share=0.5)
        >>> linear = nn.Linear(4, 1)
        >>> linear.weight.data.copy_(torch.tensor([[3.0, -1.0, 2.0, -4.0]])).shape
        torch.Size([1, 4])
        >>> masks.bind_weights(linear, dim=1)
        >>> masks.keep_prob()
        tensor([1.0000, 0.5000, 0.5000, 1.0000])
    """

    key: ClassVar[str] = "targeted"
    reference: ClassVar[str] = "Gomez et al. (2019), https://arxiv.org/abs/1905.13678"

    schedulable: ClassVar[tuple[str, ...]] = ("drop_prob", "targeted_share")
    always_shown: ClassVar[tuple[str, ...]] = ("drop_prob", "targeted_share")
    fixed_rate: ClassVar[bool] = True

    drop_prob: Tensor
    targeted_share: Tensor

    def __init__(
        self,
        num_units: int,
        *,
        unit_dim: int = -1,
        batch_dim: int = 0,
        threshold: float = 0.0,
        kl_scale: float = 1.0,
        drop_prob: float = 0.5,
        targeted_share: float = 0.5,
    ) -> None:
        super().__init__(
            num_units,
            unit_dim=unit_dim,
            batch_dim=batch_dim,
            threshold=threshold,
            kl_scale=kl_scale,
        )
        check_shares(type(self).__name__, drop_prob, targeted_share)
        self.register_buffer("drop_prob", torch.full((), float(drop_prob)))
        self.register_buffer("targeted_share", torch.full((), float(targeted_share)))

    @classmethod
    @override
    def options_from_dropout(cls, dropout: nn.Module) -> dict[str, Any]:
        return {"drop_prob": getattr(dropout, "p", 0.5)}

    @override
    def bind_weights(self, layer: nn.Module, dim: int) -> None:
        check_weights(self.name, layer, self.num_units, dim)
        self._bound = (layer, dim)

    @torch.no_grad()
    def candidates(self) -> Tensor:
        """Return which units may be dropped, by the weights as they are, ``(K,)``."""
        if self._bound is None:
            magnitude = self.drop_prob.new_ones(self.num_units)
        else:
            layer: Any
            layer, dim = self._bound
            magnitude = layer.weight.detach().transpose(0, dim).flatten(1).norm(dim=1)
        return smallest(magnitude, self.targeted_share)

    @override
    def prior(self) -> dict[str, TorchDistribution]:
        return {}

    @override
    def posterior(self) -> dict[str, TorchDistribution]:
        return {}

    @override
    def mask_distribution(self, latents: Latents, x: Tensor | None = None) -> TorchDistribution:
        return MaskedDelta(1.0, self.keep_prob(), validate_args=False).to_event(1)

    @override
    def keep_prob(self) -> Tensor:
        return 1 - self.drop_prob * self.candidates()

    @override
    @torch.no_grad()
    def kept(self) -> Tensor:
        keep = self.keep_prob()
        return (keep >= self.threshold) & (keep > 0)

    @override
    def mean_mask(self, x: Tensor | None = None) -> Tensor:
        """Return 1 for what is kept: the network is trained to be used without the noise."""
        return self.kept().to(self.drop_prob.dtype)


def check_shares(who: str, drop_prob: float, targeted_share: float) -> None:
    """Raise unless rate and share of targeted dropout are in [0, 1]."""
    if not 0.0 <= drop_prob <= 1.0 or not 0.0 <= targeted_share <= 1.0:
        raise ConfigError(
            who,
            expected="0 <= drop_prob <= 1 and 0 <= targeted_share <= 1",
            got=f"{drop_prob=} and {targeted_share=}",
            hint="alpha and gamma of the literature, 0.5 and 0.5 for instance.",
        )
