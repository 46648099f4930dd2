"""StandOut: a unit is kept by how active it is, with the weights of its own layer."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.errors import ConfigError
from bayesdrop.nn.catalogue import register
from bayesdrop.nn.gate import MeanGate
from bayesdrop.nn.masks.example_rates import ExampleRatesDropout
from bayesdrop.nn.masks.positions import mean_over_positions
from bayesdrop.nn.masks.relaxation import Relaxation


@register
class StandoutDropout(ExampleRatesDropout):
    r"""StandOut: masks whose keep probability rises with the unit's own activation.

    .. math:: q(z_{nk} \mid a_n) = \mathrm{Bernoulli}\bigl(\sigma(s\, a_{nk} + t)\bigr)

    with :math:`a` the layer's input, averaged over positions (of a convolution map, say) and
    without a gradient. Placed before the activation, by
    ``convert(network, "standout", position="before-activation")``, :math:`a` is the unit's
    pre-activation: the gate's network then has the weights of the layer's own, times :math:`s`,
    as published. Elsewhere it is whatever the mask multiplies, such as the unit's activation.

    :math:`s` and :math:`t` are two numbers for the layer, given as published, or learned
    (``learn_gate``). :math:`s = 0` is dropout that keeps :math:`\sigma(t)`, without rescaling;
    :math:`s \to \infty` keeps units above :math:`-t / s`, which for 0 is what ReLU does.

    There is no divergence in the publication. With ``prior_keep_prob`` there is one: the masks
    are then a posterior beside :math:`p(z_{nk}) = \mathrm{Bernoulli}(\eta)`.

    Args:
        num_units: Number of units :math:`K`.
        unit_dim: The masked dimension: -1 for features, -3 for convolution maps.
        batch_dim: The dimension of the examples, counted from the first.
        threshold: Entries of the mean mask below this are zero.
        kl_scale: Factor on the divergence, if there is one.
        scale: :math:`s`.
        shift: :math:`t`.
        learn_gate: Whether both are learned, starting there.
        temperature: Temperature of a relaxed mask, > 0.
        relaxation: ``"bernoulli-straight-through"``: masks of exactly 0 and 1 in training, as
            published; ``"straight-through"`` or ``"concrete"``.
        prior_keep_prob: :math:`\eta` in (0, 1); None for no divergence.

    Shape:  input and output ``(N, ..., K)``, or ``(N, ..., K, H, W)`` with ``unit_dim=-3``.
    Sites:  ``{module path}.z``, plate ``data``, event ``(K,)``; with a prior the factor
        ``{module path}.divergence`` in the plate.

    References:
        Ba, Frey (2013), "Adaptive dropout for training deep neural networks",
        https://papers.nips.cc/paper/2013/hash/7b5b23f4aadf9513306bcd59afb6e4c9-Abstract.html (its
        equations from memory).
        Deviations: one mask for all positions of a map, where the paper has dense layers only.

    Example:
        >>> layer = StandoutDropout(2).eval()
        >>> layer.mean_mask(torch.tensor([[0.0, 50.0]]))
        tensor([[0.5000, 1.0000]])
    """

    key: ClassVar[str] = "standout"
    reference: ClassVar[str] = "Ba and Frey (2013), NeurIPS"
    per_unit: ClassVar[tuple[str, ...]] = ("open",)

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        num_units: int,
        *,
        unit_dim: int = -1,
        batch_dim: int = 0,
        threshold: float = 1e-3,
        kl_scale: float = 1.0,
        scale: float = 1.0,
        shift: float = 0.0,
        learn_gate: bool = False,
        temperature: float = 0.1,
        relaxation: Relaxation = "bernoulli-straight-through",
        prior_keep_prob: float | None = None,
    ) -> None:
        super().__init__(
            num_units,
            unit_dim=unit_dim,
            batch_dim=batch_dim,
            threshold=threshold,
            kl_scale=kl_scale,
            temperature=temperature,
            relaxation=relaxation,
            prior_keep_prob=prior_keep_prob,
            learn_prior=False,
        )
        if not (math.isfinite(scale) and math.isfinite(shift)):
            raise ConfigError(
                type(self).__name__,
                expected="a finite scale and shift",
                got=f"{scale=}, {shift=}",
                hint="1 and 0 keep a unit of activation 0 in every second mask.",
            )
        self.learn_gate = learn_gate
        for name, value in (("scale", scale), ("shift", shift)):
            number = torch.full((), float(value))
            if learn_gate:
                self.register_parameter(name, nn.Parameter(number))
            else:
                self.register_buffer(name, number)

    @classmethod
    @override
    def options_for_trained(cls, num_units: int, keep_prob: float) -> dict[str, Any]:
        return {"shift": math.log(keep_prob / (1 - keep_prob))}

    @override
    def log_odds(self, x: Tensor | None) -> Tensor:
        x = None if x is None else x.detach()
        return self.scale * mean_over_positions(self, x, self.scale.dtype) + self.shift

    @override
    def keep_prob(self) -> Tensor:
        r"""Return the largest that P(z = 1) can be for any input: 1, or :math:`\sigma(t)`."""
        largest = torch.where(self.scale == 0, self.shift.sigmoid(), 1.0)
        return largest * self.open

    @override
    @torch.no_grad()
    def mean_gate(self) -> MeanGate:
        threshold = self.threshold

        def function(x: Tensor, scale: Tensor, shift: Tensor, open: Tensor) -> Tensor:
            mean = torch.mul(torch.sigmoid(torch.add(torch.mul(scale, x), shift)), open)
            return torch.where(torch.lt(mean, threshold), 0.0, mean)

        def by_unit(number: Tensor) -> Tensor:
            return number.detach().expand(self.num_units).clone()

        tensors = {"scale": by_unit(self.scale), "shift": by_unit(self.shift)}
        return MeanGate(function, {**tensors, "open": self.open.to(self.scale.dtype)})
