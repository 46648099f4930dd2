"""What dropout layers share whose masks are noise of mean one and that have no global latents."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.errors import ConfigError
from bayesdrop.nn.arguments import check_weights, is_real
from bayesdrop.nn.latents import LatentOwner
from bayesdrop.nn.mask import BayesianDropout, MaskKind


class UnitNoiseDropout(BayesianDropout):
    r"""Abstract layer that multiplies units by noise of mean 1: no global latents, no KL of any.

    The noise is a posterior over the weights behind it, :math:`W = V \operatorname{diag}(z)`.
    Under a prior :math:`W \sim N(0, l^{-2} I)` it adds to the loss, up to a constant, the nats

    .. math:: \frac{l^2}{2} \sum_k E[z_k^2]\, \lVert V_k \rVert^2, \qquad
              E[z_k^2] = \frac{1}{1 - p_k}

    where :math:`V_k` are the weights that unit :math:`k` multiplies and :math:`1 - p` is
    ``keep_prob``. (The literature writes :math:`M = V / (1 - p)` for the weights without the
    rescaling of inputs: then it is :math:`\frac{l^2}{2} (1 - p) \lVert M \rVert^2`.) Where the
    mask is on a layer's outputs, :math:`V_k` are the rows that compute the unit, its bias
    included; that is the same function for activations with :math:`f(cx) = c f(x)`, such as ReLU.

    Args:
        num_units: Number of units :math:`K`.
        unit_dim: The masked dimension: -1 for features, -3 for convolution maps.
        batch_dim: The dimension of the examples, counted from the first.
        threshold: Units with a keep probability below this are pruned.
        kl_scale: Factor on the penalty.
        length_scale: :math:`l > 0` of the prior; None leaves the weights to the optimiser's
            weight decay.
    """

    mask_kind: ClassVar[MaskKind] = "scaled"

    def __init__(
        self,
        num_units: int,
        *,
        unit_dim: int = -1,
        batch_dim: int = 0,
        threshold: float = 0.0,
        kl_scale: float = 1.0,
        length_scale: float | None = None,
    ) -> None:
        super().__init__(
            num_units,
            unit_dim=unit_dim,
            batch_dim=batch_dim,
            threshold=threshold,
            kl_scale=kl_scale,
        )
        if length_scale is not None and not 0.0 < length_scale < math.inf:
            raise ConfigError(
                type(self).__name__,
                expected="a finite length_scale > 0, or None for no prior on the weights",
                got=f"length_scale={length_scale}",
                hint="1e-2 is usual.",
            )
        self.length_scale = length_scale

    @classmethod
    @override
    def options_from_dropout(cls, dropout: nn.Module) -> dict[str, Any]:
        return {"drop_prob": getattr(dropout, "p", 0.5)}

    @override
    def bind_weights(self, layer: nn.Module, dim: int) -> None:
        check_weights(self.name, layer, self.num_units, dim)
        self._bound = (layer, dim)

    @override
    def prior(self) -> dict[str, TorchDistribution]:
        return {}

    @override
    def posterior(self) -> dict[str, TorchDistribution]:
        return {}

    @override
    def mean_mask(self, x: Tensor | None = None) -> Tensor:
        return self.kept().to(self.keep_prob().dtype)

    def _expected_energy(self, second_moment: Tensor, *, bias: bool) -> Tensor | None:
        """Return minus the expected log prior of the weights, up to a constant, in nats.

        Args:
            second_moment: :math:`E[z_k^2]`, a number or ``(K,)``.
            bias: Whether the layer's bias has the prior too.
        """
        if self.length_scale is None:
            return None
        if self._bound is None:
            raise ConfigError(
                self.name,
                expected="to know the layer whose weights have the prior",
                got=f"length_scale={self.length_scale} and no layer",
                hint="bd.convert tells it; in a network built by hand call "
                "dropout.bind_weights(linear, dim=1), or leave length_scale=None.",
            )
        layer: Any
        layer, dim = self._bound
        if isinstance(layer, LatentOwner):
            raise ConfigError(
                self.name,
                expected="length_scale=None in front of weights with a prior of their own",
                got=f"length_scale={self.length_scale} and {type(layer).__name__}",
                hint="One prior on the weights is enough.",
            )
        offset = layer.bias if bias else None
        energy = layer.weight.square().transpose(0, dim).flatten(1).sum(1)
        if offset is not None and dim == 0:
            energy = energy + offset.square()
        total = (second_moment * energy).sum()
        if offset is not None and dim == 1:
            total = total + offset.square().sum()
        return 0.5 * self.length_scale**2 * total


class FixedNoiseDropout(UnitNoiseDropout):
    """Abstract layer whose noise has a fixed rate.

    No unit is more likely to be dropped than another, so none is ever pruned: the compact network
    is the plain one.

    Args:
        num_units: Number of units :math:`K`.
        unit_dim: The masked dimension: -1 for features, -3 for convolution maps.
        batch_dim: The dimension of the examples, counted from the first.
        drop_prob: :math:`p` in [0, 1), as in ``nn.Dropout``.
        kl_scale: Factor on the penalty.
        length_scale: :math:`l > 0` of the prior on the weights; None for no such term.
    """

    always_shown: ClassVar[tuple[str, ...]] = ("drop_prob",)
    fixed_rate: ClassVar[bool] = True

    drop_prob: Tensor

    def __init__(
        self,
        num_units: int,
        *,
        unit_dim: int = -1,
        batch_dim: int = 0,
        drop_prob: float = 0.5,
        kl_scale: float = 1.0,
        length_scale: float | None = None,
    ) -> None:
        super().__init__(
            num_units,
            unit_dim=unit_dim,
            batch_dim=batch_dim,
            kl_scale=kl_scale,
            length_scale=length_scale,
        )
        if not is_real(drop_prob) or not 0.0 <= drop_prob < 1.0:
            raise ConfigError(
                type(self).__name__,
                expected="0 <= drop_prob < 1, the probability of a zero as in nn.Dropout",
                got=f"drop_prob={drop_prob!r}",
                hint="At 1 nothing would be left; 0 is the network without dropout.",
            )
        self.register_buffer("drop_prob", torch.full((), float(drop_prob)))

    @override
    def keep_prob(self) -> Tensor:
        return (1 - self.drop_prob).expand(self.num_units)

    @override
    @torch.no_grad()
    def kept(self) -> Tensor:
        return torch.ones(self.num_units, dtype=torch.bool, device=self.drop_prob.device)

    @override
    def penalty(self) -> Tensor | None:
        return self._expected_energy(1 / (1 - self.drop_prob), bias=True)
