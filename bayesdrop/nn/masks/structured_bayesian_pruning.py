"""Structured Bayesian pruning: log-normal noise whose signal-to-noise ratio is learned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, get_args

import torch
from pyro.distributions import Delta, TorchDistribution
from torch import Tensor, nn
from torch.distributions import kl_divergence as torch_kl_divergence
from typing_extensions import override

from bayesdrop.distributions.truncated_log_normal import TruncatedLogNormal, TruncatedLogUniform
from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.nn.catalogue import register
from bayesdrop.nn.latents import JointDraw, LatentOwner, alike, joined
from bayesdrop.nn.mask import BayesianDropout, MaskKind
from bayesdrop.ops import noise
from bayesdrop.ops.memo import Memo
from bayesdrop.ops.stable import clamp_inward
from bayesdrop.typing import Latents, SharedBy

_MAX_LOC = 5.0
_LOG_SCALES = (-20.0, 5.0)


@register
class StructuredBayesianPruningDropout(BayesianDropout):
    r"""Structured Bayesian pruning.

    .. math::
        p(\log\theta_k) = U[a, 0]
        \qquad
        q(\log\theta_k) = N(\mu_k, \sigma_k^2) \text{ truncated to } [a, 0], \quad
        z_{nk} = \theta_k

    Each unit is multiplied by noise :math:`\theta_k \in [e^a, 1]`, one draw for all examples. The
    prior asks for as much noise as possible; a unit whose noise drowns its signal is pruned. The
    noise is never zero, so that ``keep_prob`` is that of the Bernoulli noise with the same
    signal-to-noise ratio,

    .. math::
        \mathrm{SNR}_k = \frac{E[\theta_k]}{\sqrt{\mathrm{Var}[\theta_k]}}, \qquad
        \text{keep\_prob}_k = \frac{\mathrm{SNR}_k^2}{1 + \mathrm{SNR}_k^2}
        = \frac{E[\theta_k]^2}{E[\theta_k^2]}

    and a threshold of 0.5 is the paper's rule :math:`\mathrm{SNR} > 1`. In evaluation mode the
    layer multiplies by :math:`E[\theta_k]`, and by zero where a unit is pruned.

    Args:
        num_units: Number of units :math:`K`.
        unit_dim: The masked dimension: -1 for features, -3 for convolution maps.
        batch_dim: The dimension of the examples, counted from the first.
        threshold: Units whose ``keep_prob`` is below this are pruned; for a signal-to-noise ratio
            :math:`r` pass :math:`r^2 / (1 + r^2)`. Under the prior itself the ratio is 1/3, a
            keep probability of 0.1.
        kl_scale: Factor on this layer's KL divergence.
        lower: :math:`a < 0`, the logarithm of the smallest noise. The largest is 1, so that
            weights cannot grow to make up for it.
        init_loc: Initial :math:`\mu`, at most 5.
        init_scale: Initial :math:`\sigma`, from e^-20 to e^5. The default is nearly no noise.
        shared_by: ``"batch"``, or ``"example"`` to draw noise for each example. The objective is
            the same and its gradient less noisy. The noise is then no global site, and its KL
            divergence the layer's ``penalty``.

    Shape:  input and output ``(N, ..., K)``, or ``(N, ..., K, H, W)`` with ``unit_dim=-3``.
    Sites:  ``{module path}.noise``, event ``(K,)``, unless it is drawn for each example;
        ``{module path}.z``, plate ``data``, event ``(K,)``, equal to the noise.

    References:
        Neklyudov, Molchanov, Ashukha, Vetrov (2017), "Structured Bayesian Pruning via Log-Normal
        Multiplicative Noise", https://arxiv.org/abs/1705.07283.
        Deviations: ``convert`` puts the noise on a Linear layer's inputs and after a convolution's
        activation, the paper's code before the bias; samples are exact (see
        ``TruncatedLogNormal``); a parameter at a bound can come back.

    Example:
        >>> layer = StructuredBayesianPruningDropout(4)
        >>> layer(torch.ones(2, 4)).shape
        torch.Size([2, 4])
        >>> bool((layer.snr() > 100).all())
        True
    """

    key: ClassVar[str] = "structured-bayesian-pruning"
    reference: ClassVar[str] = "Neklyudov et al. (2017), https://arxiv.org/abs/1705.07283"
    mask_kind: ClassVar[MaskKind] = "noise"
    per_unit: ClassVar[tuple[str, ...]] = ("loc", "log_scale", "previous_loc", "previous_scale")

    lower: Tensor

    def __init__(
        self,
        num_units: int,
        *,
        unit_dim: int = -1,
        batch_dim: int = 0,
        threshold: float = 0.5,
        kl_scale: float = 1.0,
        lower: float = -20.0,
        init_loc: float = 0.0,
        init_scale: float = math.exp(-5.0),
        shared_by: SharedBy = "batch",
    ) -> None:
        super().__init__(
            num_units,
            unit_dim=unit_dim,
            batch_dim=batch_dim,
            threshold=threshold,
            kl_scale=kl_scale,
        )
        if shared_by not in get_args(SharedBy):
            raise unknown_name("shared_by", shared_by, get_args(SharedBy))
        smallest, largest = (math.exp(value) for value in _LOG_SCALES)
        good = -math.inf < lower < 0.0 and lower <= init_loc <= _MAX_LOC
        if not good or not smallest <= init_scale <= largest:
            raise ConfigError(
                type(self).__name__,
                expected=f"a finite lower < 0, lower <= init_loc <= {_MAX_LOC:g} and "
                "e^-20 <= init_scale <= e^5",
                got=f"lower={lower}, init_loc={init_loc}, init_scale={init_scale}",
                hint="lower and init_loc are logarithms of the noise: -20 and 0.",
            )
        self.shared_by = shared_by
        self.loc = nn.Parameter(torch.full((num_units,), float(init_loc)))
        self.log_scale = nn.Parameter(torch.full((num_units,), math.log(init_scale)))
        self._memo = Memo()
        self.register_buffer("lower", torch.full((), float(lower)))

    @override
    def carried(self) -> dict[str, Tensor]:
        q = self._posterior()
        return {"loc": q.loc, "scale": q.scale}

    def _prior(self) -> TorchDistribution:
        loc, scale = self.previous("loc"), self.previous("scale")
        if loc is not None and scale is not None:
            upper = torch.zeros_like(self.lower)
            earlier = TruncatedLogNormal(loc, scale, self.lower, upper, validate_args=False)
            return earlier.to_event(1)
        upper = torch.zeros_like(self.lower)
        fn = TruncatedLogUniform(self.lower, upper, validate_args=False)
        return fn.expand([self.num_units]).to_event(1)

    def _posterior(self) -> TruncatedLogNormal:
        return _noise(self.loc, self.log_scale, self.lower)

    @override
    def prior(self) -> dict[str, TorchDistribution]:
        return {} if self.shared_by == "example" else {"noise": self._prior()}

    @override
    def posterior(self) -> dict[str, TorchDistribution]:
        return {} if self.shared_by == "example" else {"noise": self._posterior().to_event(1)}

    @classmethod
    @override
    def draw_jointly(
        cls,
        owners: Sequence[StructuredBayesianPruningDropout],
        *,
        drawn: Mapping[LatentOwner, Latents],
        rows: int | None,
    ) -> JointDraw | None:
        locs: list[Tensor] = [owner.loc for owner in owners]
        lower = owners[0].lower
        same = all(o.shared_by == "batch" and bool(o.lower == lower) for o in owners)
        updated = any(owner.previous("loc") is not None for owner in owners)
        if updated or not same or not alike(locs):
            return None
        sizes = [owner.num_units for owner in owners]
        posterior = _noise(torch.cat(locs), torch.cat([o.log_scale for o in owners]), lower)
        prior = TruncatedLogUniform(lower, torch.zeros_like(lower), validate_args=False)
        kl = torch_kl_divergence(posterior, prior.expand(posterior.batch_shape))
        if any(owner.kl_scale != 1.0 for owner in owners):
            kl = kl * joined([kl.new_full((), owner.kl_scale) for owner in owners], sizes)
        values = posterior.icdf(noise.uniforms([x.shape for x in locs], lower)).split(sizes)
        pairs = zip(owners, values, strict=True)
        latents: dict[LatentOwner, Latents] = {owner: {"noise": value} for owner, value in pairs}
        return JointDraw(latents, kl.sum())

    @override
    def penalty(self) -> Tensor | None:
        if self.shared_by == "batch":
            return None
        return torch_kl_divergence(self._posterior().to_event(1), self._prior())

    @override
    def mask_distribution(self, latents: Latents, x: Tensor | None = None) -> TorchDistribution:
        if self.shared_by == "example":
            return self._posterior().to_event(1)
        return Delta(latents["noise"], event_dim=1, validate_args=False)

    def snr(self) -> Tensor:
        """Return the signal-to-noise ratio of each unit, shape ``(K,)``."""
        return self._posterior().snr

    @override
    def keep_prob(self) -> Tensor:
        square = self.snr().square()
        # 1 - 1 / (1 + SNR^2) would be worse for small ratios, this for infinite ones.
        return square / (1 + square)

    @override
    def mean_mask(self, x: Tensor | None = None) -> Tensor:
        parameters = self.loc, self.log_scale, self.lower
        return self._memo(self._thresholded, *parameters, setting=self.threshold)

    def _thresholded(self) -> Tensor:
        return self._posterior().mean.masked_fill(self.keep_prob() < self.threshold, 0.0)


def _noise(loc: Tensor, log_scale: Tensor, lower: Tensor) -> TruncatedLogNormal:
    # The clamps are the reference code's. They keep the arguments valid, which is therefore not
    # checked at every step.
    loc = clamp_inward(loc, float(lower), _MAX_LOC)
    scale = clamp_inward(log_scale, *_LOG_SCALES).exp()
    return TruncatedLogNormal(loc, scale, lower, torch.zeros_like(lower), validate_args=False)
