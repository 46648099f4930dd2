"""Group horseshoe: half-Cauchy scales of units around a half-Cauchy scale of the layer."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pyro.distributions import Gamma, InverseGamma, TorchDistribution
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.distributions import LogNormal
from bayesdrop.errors import ConfigError
from bayesdrop.nn.arguments import is_real
from bayesdrop.nn.catalogue import register
from bayesdrop.nn.masks.unit_scale import UnitScaleDropout
from bayesdrop.typing import Latents, SharedBy


@register
class GroupHorseshoeDropout(UnitScaleDropout):
    r"""Group horseshoe scales of units, non-centred: Bayesian compression's proper prior.

    .. math::
        s \sim C^+(0, \tau_0), \quad \tilde z_k \sim C^+(0, 1), \quad z_k = s \tilde z_k

    A half-Cauchy is the root of a gamma times an inverse gamma,
    :math:`s^2 = s_a s_b` and :math:`\tilde z_k^2 = a_k b_k`,

    .. math::
        s_a \sim \Gamma(\tfrac12, \text{scale } \tau_0^2), \quad
        s_b, b_k \sim \Gamma^{-1}(\tfrac12, 1), \quad a_k \sim \Gamma(\tfrac12, 1)

    and the posterior of each of the four is log-normal, so that :math:`z_k` is log-normal too.
    For :math:`LN(m, v)` the divergences are

    .. math::
        \mathrm{KL}(LN \,\|\, \Gamma(\tfrac12, \theta)) = -\tfrac12 m - \tfrac12 \log(2 e v)
        + \tfrac12 \log \theta + \tfrac1\theta e^{m + v/2}

        \mathrm{KL}(LN \,\|\, \Gamma^{-1}(\tfrac12, 1)) = \tfrac12 m - \tfrac12 \log(2 e v)
        + e^{-m + v/2}

    Over Gaussian weights it is the prior :math:`\mathcal N(0, z_k^2)` of all weights of a unit::

        net = bd.convert(net, "group-horseshoe", weights="gaussian-weights")

    The scales start at 1: :math:`s_a` at :math:`\tau_0^2` and :math:`s_b` at its inverse, in the
    tail of the layer's half-Cauchy.

    Args:
        num_units: Number of units :math:`K`.
        unit_dim: The masked dimension: -1 for features, -3 for convolution maps.
        batch_dim: The dimension of the examples, counted from the first.
        threshold: Units whose ``keep_prob`` :math:`e^{-v_k}`, with :math:`v_k` the variance of
            :math:`\log z_k`, is below this are pruned. The log-normals that fit the unit's prior
            best have a variance of 2 each, a keep probability of 0.37.
            ``bd.compression.choose_threshold`` chooses it on validation data.
        kl_scale: Factor on this layer's KL divergence.
        global_scale: :math:`\tau_0 > 0`.
        init_log_variance: Initial :math:`\log v` of all four; the default is nearly no noise.
        shared_by: ``"batch"`` or ``"example"``, see ``UnitScaleDropout``. The layer's scale is one
            draw for all examples in either.

    Shape:  input and output ``(N, ..., K)``, or ``(N, ..., K, H, W)`` with ``unit_dim=-3``.
    Sites:  ``{module path}.layer_a`` and ``layer_b``, event ``(1,)``, the layer's; ``unit_a`` and
        ``unit_b``, event ``(K,)``, unless they are drawn for each example; ``z``, plate ``data``,
        event ``(K,)``, the scales.

    References:
        Louizos, Ullrich, Welling (2017), "Bayesian Compression for Deep Learning", section 4.2,
        https://arxiv.org/abs/1705.08665. That :math:`\tau_0` is 1e-5 there is quoted from memory.
        Deviations: units are pruned by their signal-to-noise ratio, with one threshold that is
        chosen on validation data; biases are point estimates; where scales are drawn for each
        example, the layer's own is not.

    Example:
        >>> layer = GroupHorseshoeDropout(4)
        >>> layer(torch.ones(2, 4)).shape, bool(layer.kept().all())
        (torch.Size([2, 4]), True)
    """

    key: ClassVar[str] = "group-horseshoe"
    reference: ClassVar[str] = "Louizos, Ullrich, Welling (2017), https://arxiv.org/abs/1705.08665"
    per_unit: ClassVar[tuple[str, ...]] = (
        *("loc_a", "loc_b", "log_variance_a", "log_variance_b"),
        *("previous_unit_a_loc", "previous_unit_b_loc"),
        *("previous_unit_a_scale", "previous_unit_b_scale"),
    )

    global_scale: Tensor

    def __init__(
        self,
        num_units: int,
        *,
        unit_dim: int = -1,
        batch_dim: int = 0,
        threshold: float = 0.5,
        kl_scale: float = 1.0,
        global_scale: float = 1e-5,
        init_log_variance: float = -9.0,
        shared_by: SharedBy = "batch",
    ) -> None:
        super().__init__(
            num_units,
            unit_dim=unit_dim,
            batch_dim=batch_dim,
            threshold=threshold,
            kl_scale=kl_scale,
            shared_by=shared_by,
        )
        numbers = is_real(global_scale) and is_real(init_log_variance)
        # Its inverse square is a rate, also in 32 bits.
        if (
            not numbers
            or not 1e-15 <= global_scale <= 1e15
            or not math.isfinite(init_log_variance)
        ):
            raise ConfigError(
                type(self).__name__,
                expected="1e-15 <= global_scale <= 1e15 and a finite init_log_variance",
                got=f"{global_scale=}, {init_log_variance=}",
                hint="The defaults are 1e-5 and -9.",
            )
        self.register_buffer("global_scale", torch.full((1,), float(global_scale)))
        start, width = 2 * math.log(global_scale), float(init_log_variance)
        self.layer_loc_a = nn.Parameter(torch.full((1,), start))
        self.layer_loc_b = nn.Parameter(torch.full((1,), -start))
        self.layer_log_variance_a = nn.Parameter(torch.full((1,), width))
        self.layer_log_variance_b = nn.Parameter(torch.full((1,), width))
        self.loc_a = nn.Parameter(torch.zeros(num_units))
        self.loc_b = nn.Parameter(torch.zeros(num_units))
        self.log_variance_a = nn.Parameter(torch.full((num_units,), width))
        self.log_variance_b = nn.Parameter(torch.full((num_units,), width))

    @override
    def layer_priors(self) -> dict[str, TorchDistribution]:
        half, rate = torch.full_like(self.global_scale, 0.5), self.global_scale**-2
        return {"layer_a": _gamma(half, rate), "layer_b": _inverse_gamma(half, 2 * half)}

    @override
    def layer_posteriors(self) -> dict[str, TorchDistribution]:
        return {
            "layer_a": _log_normal(self.layer_loc_a, self.layer_log_variance_a),
            "layer_b": _log_normal(self.layer_loc_b, self.layer_log_variance_b),
        }

    @override
    def unit_priors(self) -> dict[str, TorchDistribution]:
        half, one = torch.full_like(self.loc_a, 0.5), torch.ones_like(self.loc_a)
        return {"unit_a": _gamma(half, one), "unit_b": _inverse_gamma(half, one)}

    @override
    def unit_posteriors(self) -> dict[str, TorchDistribution]:
        return {
            "unit_a": _log_normal(self.loc_a, self.log_variance_a),
            "unit_b": _log_normal(self.loc_b, self.log_variance_b),
        }

    @override
    def scale(self, latents: Latents) -> Tensor:
        return self._layer_scale(latents) * latents["unit_a"].sqrt() * latents["unit_b"].sqrt()

    @override
    def scale_given(self, latents: Latents) -> TorchDistribution:
        loc = self._layer_scale(latents).log() + 0.5 * (self.loc_a + self.loc_b)
        variance = 0.25 * (self.log_variance_a.exp() + self.log_variance_b.exp())
        return LogNormal(loc, variance.sqrt().expand(loc.shape), validate_args=False).to_event(1)

    @staticmethod
    def _layer_scale(latents: Latents) -> Tensor:
        # The product of roots: that of the two may leave the range of numbers.
        return latents["layer_a"].sqrt() * latents["layer_b"].sqrt()

    def log_scale_moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the logarithm of each scale, ``(K,)``."""
        locs = self.layer_loc_a + self.layer_loc_b + self.loc_a + self.loc_b
        layer = self.layer_log_variance_a.exp() + self.layer_log_variance_b.exp()
        units = self.log_variance_a.exp() + self.log_variance_b.exp()
        return 0.5 * locs, 0.25 * (layer + units)

    @override
    def keep_prob(self) -> Tensor:
        return (-self.log_scale_moments()[1]).exp()

    @override
    def mean_mask(self, x: Tensor | None = None) -> Tensor:
        loc, variance = self.log_scale_moments()
        return (loc + 0.5 * variance).exp().masked_fill(self.keep_prob() < self.threshold, 0.0)


def _log_normal(loc: Tensor, log_variance: Tensor) -> TorchDistribution:
    std = (0.5 * log_variance).exp()
    std = std.clamp(min=torch.finfo(std.dtype).tiny)  # a scale that has underflowed is no scale
    return LogNormal(loc, std, validate_args=False).to_event(1)


def _gamma(concentration: Tensor, rate: Tensor) -> TorchDistribution:
    return Gamma(concentration, rate, validate_args=False).to_event(1)


def _inverse_gamma(concentration: Tensor, rate: Tensor) -> TorchDistribution:
    return InverseGamma(concentration, rate, validate_args=False).to_event(1)
