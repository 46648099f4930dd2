"""Dependent beta-Bernoulli dropout: masks that look at the layer's input."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import kl_divergence as torch_kl_divergence
from torch.nn.functional import softplus
from typing_extensions import override

from bayesdrop.distributions import Normal
from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.nn.catalogue import register
from bayesdrop.nn.gate import MeanGate
from bayesdrop.nn.latents import JointDraw, LatentOwner, joined
from bayesdrop.nn.masks.beta_bernoulli import BetaBernoulliDropout, BetaBernoulliPosterior
from bayesdrop.nn.masks.kumaraswamy_posterior import UNIT_TENSORS, Parametrization
from bayesdrop.nn.masks.positions import mean_over_positions
from bayesdrop.nn.masks.relaxation import Relaxation
from bayesdrop.ops import noise
from bayesdrop.ops.stable import clamp_inward, inverse_softplus
from bayesdrop.ops.transforms import in_transform
from bayesdrop.ops.truncated_normal import clamped_normal_mean
from bayesdrop.typing import Latents

_MIN_GATE = 1e-10
_MIN_RAW_SCALE = -30.0  # of the shift: 1e-13, of which logarithm and gradient are finite
_MIN_SCALE = 1e-18  # of the shift, in the mean of the gate: it divides by it
_VARIANCE_EPS = 1e-5

GateMean: TypeAlias = Literal["exact", "naive"]
"""How the mean mask averages over the shift, see ``DependentBetaBernoulliDropout``."""


@register
class DependentBetaBernoulliDropout(BetaBernoulliPosterior):
    r"""Beta-Bernoulli dropout whose masks depend on the layer's input.

    .. math::
        p(\pi_k) = \mathrm{Beta}(c, d), \quad p(\beta_k) = \mathcal N(0, \rho), \quad
        p(z_{nk} \mid \pi_k, \beta_k, x_n) =
        \mathrm{Bernoulli}\bigl(\pi_k\, \varphi_k(x_n, \beta_k)\bigr)

    .. math::
        \varphi_k(x, \beta_k) =
        \mathrm{clamp}\Bigl(\gamma_k \frac{x_k - \mu_k}{\sigma_k} + \beta_k,\ \epsilon,\ 1\Bigr)

    .. math::
        q(\pi_k) = \mathrm{Kumaraswamy}(a_k, b_k), \quad
        q(\beta_k) = \mathcal N(\eta_k, \kappa_k^2), \quad
        q(z_{nk} \mid \cdot) = p(z_{nk} \mid \cdot)

    :math:`x_k` is the layer's input, averaged over positions (of a convolution map, say), without
    a gradient. :math:`\mu_k, \sigma_k` are running statistics: training mode moves them towards
    each batch's before it uses them, evaluation mode leaves them as they are, so that an example's
    mask never depends on the others in its batch there. The slope :math:`\gamma_k` is a point
    estimate.

    The mean mask is the mean of the mask, :math:`E[\pi_k]\,E[\varphi_k(x_n, \beta_k)]`, in closed
    form: with :math:`m_{nk} = \gamma_k (x_{nk} - \mu_k) / \sigma_k + \eta_k`,

    .. math::
        E[\varphi_k] = m\,\bigl[\Phi(\tfrac{m}{\kappa}) - \Phi(\tfrac{m-1}{\kappa})\bigr]
        + \kappa\,\bigl[\phi(\tfrac{m}{\kappa}) - \phi(\tfrac{m-1}{\kappa})\bigr]
        + \Phi(\tfrac{m-1}{\kappa})

    so that the units in use, and what they cost, are those of the network whose masks are sampled.
    ``gate_mean="naive"`` is the paper's approximation :math:`\varphi_k(x_n, \eta_k)`, which is off
    by up to a third at :math:`\kappa = 1` and calls units unused that samples keep.

    The usual way to get one is ``to_dependent``, after training with ``BetaBernoulliDropout``:
    its keep probabilities stay as they are, so no input ever has a unit that was pruned there.

    Args:
        num_units: Number of units :math:`K`.
        unit_dim: The masked dimension: -1 for features, -3 for convolution maps.
        batch_dim: The dimension of the examples, counted from the first.
        threshold: Entries of the mean mask below this are zero.
        kl_scale: Factor on this layer's KL divergence.
        prior_concentration1: :math:`c > 0`.
        prior_concentration0: :math:`d > 0`.
        init_concentration1: Initial :math:`a > 0`.
        init_concentration0: Initial :math:`b > 0`.
        temperature: Temperature of the relaxed mask, > 0.
        relaxation: ``"concrete"``, or ``"straight-through"`` for masks of exactly 0 and 1.
        parametrization: What is learned of the posterior: ``"location"``, a location and a shape,
            which finds its width; or ``"softplus"``, :math:`a` and :math:`b \le 50`, as in the
            paper's code. See ``KumaraswamyPosterior``.
        shift_variance: Prior variance :math:`\rho > 0` of the shift.
        init_shift: Initial :math:`\eta`.
        init_shift_scale: Initial :math:`\kappa > 0`.
        init_slope: Initial :math:`\gamma`.
        momentum: How far a training batch moves the running statistics, in (0, 1].
        gate_mean: How the mean mask averages over the shift: ``"exact"``, or ``"naive"``: at its
            mean, as published.

    Shape:  input and output ``(N, ..., K)``, or ``(N, ..., K, H, W)`` with ``unit_dim=-3``.
    Sites:  ``{module path}.pi`` and ``{module path}.shift``, event ``(K,)``; ``{module path}.z``,
        plate ``data``, event ``(K,)``.

    References:
        Lee, Kim, Yoon, Lee, Yang, Hwang (2018), "Adaptive Network Sparsification via Dependent
        Variational Beta-Bernoulli Dropout", section 4.2, https://arxiv.org/abs/1805.10896.
        Deviation: one relaxed mask with probability :math:`\pi\varphi` instead of the product of
        two; running statistics in training mode too, where the released code standardises by the
        batch's own; the exact mean of the gate.

    Example:
        >>> layer = DependentBetaBernoulliDropout(4).eval()
        >>> layer.mean_mask(torch.randn(2, 4)).shape
        torch.Size([2, 4])
    """

    key: ClassVar[str] = "dependent-beta-bernoulli"
    reference: ClassVar[str] = "Lee et al. (2018), https://arxiv.org/abs/1805.10896"
    input_dependent: ClassVar[bool] = True
    per_unit: ClassVar[tuple[str, ...]] = (
        *UNIT_TENSORS,
        *("shift_loc", "raw_shift_scale", "slope", "running_mean", "running_var", "open"),
        *("previous_shift_loc", "previous_shift_scale"),
    )

    shift_prior_scale: Tensor
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    open: Tensor

    def __init__(  # noqa: PLR0913 - beta-Bernoulli dropout's and the gate's
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
        shift_variance: float = 5.0,
        init_shift: float = 1.0,
        init_shift_scale: float = 1.0,
        init_slope: float = 1.0,
        momentum: float = 0.1,
        gate_mean: GateMean = "exact",
    ) -> None:
        super().__init__(
            num_units,
            unit_dim=unit_dim,
            batch_dim=batch_dim,
            threshold=threshold,
            kl_scale=kl_scale,
            prior_concentration1=prior_concentration1,
            prior_concentration0=prior_concentration0,
            init_concentration1=init_concentration1,
            init_concentration0=init_concentration0,
            temperature=temperature,
            relaxation=relaxation,
            parametrization=parametrization,
        )
        for name, value, low, high in (
            ("shift_variance", shift_variance, 0.0, math.inf),
            ("init_shift_scale", init_shift_scale, 0.0, math.inf),
            ("momentum", momentum, 0.0, 1.0 + 1e-12),
            ("init_shift", init_shift, -math.inf, math.inf),
            ("init_slope", init_slope, -math.inf, math.inf),
        ):
            if not low < value < high:
                raise ConfigError(
                    "DependentBetaBernoulliDropout",
                    expected="finite shift_variance, init_shift_scale > 0, 0 < momentum <= 1, "
                    "finite init_shift, init_slope",
                    got=f"{name}={value}",
                    hint="The defaults are those of the paper; start from them.",
                )
        if gate_mean not in get_args(GateMean):
            raise unknown_name("gate_mean", gate_mean, get_args(GateMean))
        self.momentum = momentum
        self.gate_mean = gate_mean
        self.shift_loc = nn.Parameter(torch.full((num_units,), init_shift))
        self.raw_shift_scale = nn.Parameter(
            torch.full((num_units,), inverse_softplus(init_shift_scale))
        )
        self.slope = nn.Parameter(torch.full((num_units,), init_slope))
        self.register_buffer("shift_prior_scale", torch.full((), math.sqrt(shift_variance)))
        self.register_buffer("running_mean", torch.zeros(num_units))
        self.register_buffer("running_var", torch.ones(num_units))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))
        self.register_buffer("open", torch.ones(num_units, dtype=torch.bool))

    @classmethod
    def from_beta_bernoulli(
        cls, layer: BetaBernoulliDropout, **options: Any
    ) -> DependentBetaBernoulliDropout:
        """Return a layer with the posterior of pi of a trained one, held fixed.

        Units that are pruned there are pruned for every input here.

        Args:
            layer: The trained layer; it is not changed.
            **options: ``shift_variance``, ``init_shift``, ``init_shift_scale``, ``init_slope``,
                ``momentum``, ``gate_mean``, and ``kl_scale``, which is the layer's own if it is
                not given (with the posterior of pi held fixed, it decides only how much the
                shift's KL counts).
        """
        new = cls(
            layer.num_units,
            unit_dim=layer.unit_dim,
            batch_dim=layer.batch_dim,
            threshold=layer.threshold,
            relaxation=layer.relaxation,
            parametrization=layer.parametrization,
            **{"kl_scale": layer.kl_scale, **options},
        )
        new.to(layer.prior_concentration1)
        new.load_state_dict(layer.state_dict(), strict=False)
        for parameter in new.posterior_parameters():
            parameter.requires_grad_(False)
        new.open.copy_(layer.kept())
        new.path, new.conversion = layer.path, layer.conversion
        return new.train(layer.training)

    @classmethod
    @override
    def options_for_trained(cls, num_units: int, keep_prob: float) -> dict[str, Any]:
        gate = {"init_shift": 3.0, "init_shift_scale": 0.1}  # closed by few inputs
        return super().options_for_trained(num_units, keep_prob) | gate

    @override
    def prior(self) -> dict[str, TorchDistribution]:
        shift = Normal(*self._shift_prior(), validate_args=False)
        return {"pi": self._prior_of_pi(), "shift": shift.expand([self.num_units]).to_event(1)}

    def _shift_prior(self) -> tuple[Tensor, Tensor]:
        loc, scale = self.previous("shift_loc"), self.previous("shift_scale")
        if loc is None or scale is None:
            return torch.zeros_like(self.shift_prior_scale), self.shift_prior_scale
        return loc, scale

    @override
    def carried(self) -> dict[str, Tensor]:
        shift = _shift(self.shift_loc, self.raw_shift_scale)
        return super().carried() | {"shift_loc": shift.loc, "shift_scale": shift.scale}

    @override
    def posterior(self) -> dict[str, TorchDistribution]:
        shift = _shift(self.shift_loc, self.raw_shift_scale)
        return {"pi": self._kumaraswamy().to_event(1), "shift": shift.to_event(1)}

    @classmethod
    @override
    def draw_jointly(
        cls,
        owners: Sequence[DependentBetaBernoulliDropout],
        *,
        drawn: Mapping[LatentOwner, Latents],
        rows: int | None,
    ) -> JointDraw | None:
        draw = cls.draw_pi(owners)
        if draw is None:
            return None
        locs: list[Tensor] = [owner.shift_loc for owner in owners]
        sizes = [owner.num_units for owner in owners]
        posterior = _shift(torch.cat(locs), torch.cat([o.raw_shift_scale for o in owners]))
        of_prior = zip(*(owner._shift_prior() for owner in owners), strict=True)
        loc, scale = (
            torch.cat([x.expand(size) for x, size in zip(part, sizes, strict=True)])
            for part in of_prior
        )
        prior = Normal(loc, scale, validate_args=False)
        kl = torch_kl_divergence(posterior, prior)
        if any(owner.kl_scale != 1.0 for owner in owners):
            kl = kl * joined([kl.new_full((), owner.kl_scale) for owner in owners], sizes)
        normal = torch.cat([noise.normal(x.shape, x) for x in locs])
        shifts = (posterior.loc + posterior.scale * normal).split(sizes)
        pairs = zip(owners, shifts, strict=True)
        latents: dict[LatentOwner, Latents] = {
            owner: {**draw.latents[owner], "shift": shift} for owner, shift in pairs
        }
        return JointDraw(latents, draw.kl + kl.sum())

    @override
    def keep_logits(self, latents: Latents, x: Tensor | None = None) -> Tensor:
        features = self._features(x)
        if self.training:
            self._track(features)
        pi, shift = latents["pi"], latents["shift"]
        if pi.ndim > 2:  # Particles come to the left of the examples.
            features = features.reshape(*pi.shape[:-2], -1, self.num_units)
        prob = self._gate(features, shift) * (pi * self.open)
        return torch.logit(prob, eps=torch.finfo(prob.dtype).tiny)

    @override
    def keep_prob(self) -> Tensor:
        r"""Return :math:`E[\pi_k]`, the largest that P(z = 1) can be for any input, ``(K,)``."""
        return self._posterior_mean() * self.open

    @override
    def mean_mask(self, x: Tensor | None = None) -> Tensor:
        r"""Return :math:`E[z_{nk} \mid x_n]`, or zero below the threshold."""
        return self._mean_gate()(self._features(x))

    @override
    @torch.no_grad()
    def mean_gate(self) -> MeanGate:
        r"""Return what ``mean_mask`` computes, as a function of each unit's input."""
        gate = self._mean_gate()
        tensors = {name: value.detach().clone() for name, value in gate.tensors.items()}
        return gate._replace(tensors=tensors)

    def _mean_gate(self) -> MeanGate:
        threshold, naive = self.threshold, self.gate_mean == "naive"

        def function(
            x: Tensor,
            keep_prob: Tensor,
            centre: Tensor,
            slope: Tensor,
            shift: Tensor,
            scale: Tensor,
        ) -> Tensor:
            line = torch.addcmul(shift, slope, torch.sub(x, centre))
            gate = torch.clamp(line, _MIN_GATE, 1.0) if naive else clamped_normal_mean(line, scale)
            mean = torch.mul(gate, keep_prob)
            return torch.where(torch.lt(mean, threshold), 0.0, mean)

        tensors = {
            "keep_prob": self.keep_prob(),
            "centre": self.running_mean,
            "slope": self.slope * (self.running_var + _VARIANCE_EPS).rsqrt(),
            "shift": self.shift_loc,
            "scale": softplus(self.raw_shift_scale).clamp(min=_MIN_SCALE),
        }
        return MeanGate(function, tensors)

    @override
    @torch.no_grad()
    def prune(self, units: Tensor) -> bool:
        self.open &= ~units
        return True

    def _features(self, x: Tensor | None) -> Tensor:
        """Return one number per unit and example, ``(N, K)``."""
        x = None if x is None else x.detach()
        return mean_over_positions(self, x, self.running_mean.dtype)

    def _gate(self, features: Tensor, shift: Tensor) -> Tensor:
        # Vectors first: each operation on the features is a pass over all examples.
        slope = self.slope * (self.running_var + _VARIANCE_EPS).rsqrt()
        line = torch.addcmul(shift, slope, features - self.running_mean)
        return line.clamp(_MIN_GATE, 1.0)

    @torch.no_grad()
    def _track(self, features: Tensor) -> None:
        if features.ndim < 2 or in_transform():
            return
        self.num_batches_tracked += 1
        first = self.num_batches_tracked == 1
        weight = torch.where(first, 1.0, self.momentum).to(self.running_mean)
        mean = features.mean(0)
        self.running_mean.lerp_(mean, weight)
        # Two passes: var() along the first dimension takes twenty times as long on a CPU.
        self.running_var.lerp_((features - mean).square_().mean(0), weight)


def _shift(loc: Tensor, raw_scale: Tensor) -> Normal:
    scale = softplus(clamp_inward(raw_scale, _MIN_RAW_SCALE, math.inf))
    return Normal(loc, scale, validate_args=False)
