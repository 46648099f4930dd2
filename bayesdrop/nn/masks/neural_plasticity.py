"""Neural plasticity: exact Bernoulli gates with a slope, units that are pruned and that wake."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import softplus
from typing_extensions import override

from bayesdrop.errors import ConfigError
from bayesdrop.nn.arguments import is_whole
from bayesdrop.nn.catalogue import register
from bayesdrop.nn.masks.bernoulli import BernoulliDropout
from bayesdrop.nn.masks.priced_units import PricedUnits
from bayesdrop.typing import Latents

_ASLEEP = -100.0  # the gate is then less than the smallest uniform noise


@register
class NeuralPlasticityDropout(PricedUnits, BernoulliDropout):
    r"""Exact Bernoulli gates with a slope, and a price on what each one switches on.

    .. math::
        q(z_{nk}) = \mathrm{Bernoulli}(g_k), \quad g_k = \sigma(s\,\phi_k), \qquad
        \mathrm{loss} = E_q[-\log p(y \mid x, z)]
        + \sum_k g_k\,\bigl(\lambda n_k + \tfrac{\tau}{2} \lVert w_k \rVert^2\bigr)

    with the parameters :math:`w_k` that gate :math:`k` governs, :math:`n_k` in number, see
    ``PricedUnits``. The slope :math:`s` says how plastic a network is: 0 is dropout of rate 1/2
    without rescaling, infinity a plain network of the units with :math:`\phi_k > 0`; about 7
    prunes, about 1 lets units come. ``fit`` schedules it:
    ``buffers={"slope": schedules.piecewise((5000.0, 7.0, 5000.0), (0.2, 0.7))}``.

    Train it by an objective that needs no relaxation, such as
    ``fit(objective=bd.inference.objectives.DisARM())`` or ``ARM()``, the paper's. Under the closed
    form the masks are the same, exact in both modes, with the biased straight-through gradient.

    In evaluation mode the layer multiplies by :math:`g_k`, or by 0 where it is below the
    threshold. A unit that is asleep has the gate 0, and nothing of it is trained, until it is
    woken (``wake``; ``WakeUnits`` does so while validation gets better).

    Args:
        num_units: Number of gates :math:`K`.
        unit_dim: The masked dimension: -1 for features, -3 for convolution maps.
        batch_dim: The dimension of the examples, counted from the first.
        threshold: Units with a gate below this are pruned.
        kl_scale: Factor on the penalty.
        cost_per_parameter: :math:`\lambda \ge 0` in nats of the whole data set, the paper's
            :math:`\lambda` times the number of examples.
        prior_precision: :math:`\tau \ge 0` of a slab :math:`N(0, 1 / \tau)` on the weights. Then
            turn off ``fit``'s ``weight_decay``, which also decays the weights of sleeping units.
        prior_keep_prob: Adds :math:`\mathrm{KL}(q(z_k) \,\|\, \mathrm{Bernoulli}(p))` for each
            gate. Pass ``cost_per_parameter=0`` for that alone.
        slope: :math:`s \ge 0`.
        init_score: Initial :math:`\phi`. The default, the paper's, is a gate of 0.953 at slope 7.
        init_awake: Number of units that are awake, at most, the first ones; None is all.
        temperature: Of the relaxation that the closed form's gradient comes from, > 0.

    Shape:  input and output ``(N, ..., K)``, or ``(N, ..., K, H, W)`` with ``unit_dim=-3``.
    Sites:  ``{module path}.z``, plate ``data``, event ``(K,)``; the penalty is the factor
        ``{module path}.penalty``.

    References:
        Li, Ji (2021), "Neural Plasticity Networks", IJCNN, https://arxiv.org/abs/1908.08118; Li,
        Ji (2019), "L0-ARM", https://arxiv.org/abs/1904.04432.
        Deviations: gates are drawn for each example; all start alike; gates of convolutions come
        after the activation.

    Example:
        >>> layer = NeuralPlasticityDropout(4, init_awake=2)
        >>> layer.kept().tolist(), layer.wake(), layer.kept().tolist()
        ([True, True, False, False], 1, [True, True, True, False])
    """

    key: ClassVar[str] = "neural-plasticity"
    reference: ClassVar[str] = "Li and Ji (2021), https://arxiv.org/abs/1908.08118"

    schedulable: ClassVar[tuple[str, ...]] = ("slope", "temperature")
    per_unit: ClassVar[tuple[str, ...]] = ("scores", "awake", "previous_logits")

    slope: Tensor
    awake: Tensor

    def __init__(
        self,
        num_units: int,
        *,
        unit_dim: int = -1,
        batch_dim: int = 0,
        threshold: float = 0.5,
        kl_scale: float = 1.0,
        cost_per_parameter: float = 0.1,
        prior_precision: float = 0.0,
        prior_keep_prob: float | None = None,
        slope: float = 7.0,
        init_score: float = 3 / 7,
        init_awake: int | None = None,
        temperature: float = 2 / 3,
    ) -> None:
        super().__init__(
            num_units,
            unit_dim=unit_dim,
            batch_dim=batch_dim,
            threshold=threshold,
            kl_scale=kl_scale,
            temperature=temperature,
            relaxation="straight-through",
        )
        self._set_prices(cost_per_parameter, prior_precision)
        if not 0.0 <= slope < math.inf or not math.isfinite(init_score):
            raise ConfigError(
                type(self).__name__,
                expected="a finite slope >= 0 and a finite init_score",
                got=f"{slope=} and {init_score=}",
                hint="The defaults are 7 and 3 / 7; a slope of 5000 is a plain network.",
            )
        if prior_keep_prob is not None and not 0.0 < prior_keep_prob < 1.0:
            raise ConfigError(
                type(self).__name__,
                expected="0 < prior_keep_prob < 1, or None",
                got=f"{prior_keep_prob=}",
                hint="None leaves the price of parameters alone.",
            )
        awake = num_units if init_awake is None else init_awake
        if not is_whole(awake) or awake < 0:
            raise ConfigError(
                type(self).__name__,
                expected="init_awake >= 0, an int, or None",
                got=f"{init_awake=}",
                hint="None wakes all units.",
            )
        self.prior_keep_prob = prior_keep_prob
        self.scores = nn.Parameter(torch.full((num_units,), float(init_score)))
        self.register_buffer("slope", torch.full((), float(slope)))
        self.register_buffer("awake", torch.arange(num_units) < awake)

    @classmethod
    @override
    def options_for_trained(cls, num_units: int, keep_prob: float) -> dict[str, Any]:
        return {"init_score": math.log(keep_prob / (1 - keep_prob)) / 7}

    @torch.no_grad()
    def wake(self, num_units: int = 1, *, score: float = 0.0) -> int:
        r"""Wake the first units that are asleep, and return how many there were.

        What an optimiser knows of their scores is nothing: a sleeping unit has no gradient.

        Args:
            num_units: How many at most.
            score: Their :math:`\phi`; at 0 the gate is 1/2.
        """
        units = (~self.awake).nonzero().flatten()[:num_units]
        self.scores[units] = score
        self.awake[units] = True
        return len(units)

    @override
    def prior(self) -> dict[str, TorchDistribution]:
        return {}

    @override
    def posterior(self) -> dict[str, TorchDistribution]:
        return {}

    @override
    def keep_logits(self, latents: Latents, x: Tensor | None = None) -> Tensor:
        return (self.slope * self.scores).masked_fill(~self.awake, _ASLEEP)

    @override
    def keep_prob(self) -> Tensor:
        return torch.sigmoid(self.keep_logits({}))

    @override
    def carried(self) -> dict[str, Tensor]:
        return {"logits": self.keep_logits({})}

    @override
    def penalty(self) -> Tensor:
        logits, previous = self.keep_logits({}), self.previous("logits")
        if previous is not None:  # a prior of the gates, and no price a parameter
            return _divergence(logits, previous).sum()
        total = (torch.sigmoid(logits) * self._price()).sum()
        if self.prior_keep_prob is None:
            return total
        prior = torch.full_like(logits, self.prior_keep_prob).logit()
        return total + _divergence(logits, prior).sum()


def _divergence(logits: Tensor, prior: Tensor) -> Tensor:
    """Return KL(Bernoulli || Bernoulli) of log-odds, in nats."""
    return torch.sigmoid(logits) * (logits - prior) - softplus(logits) + softplus(prior)
