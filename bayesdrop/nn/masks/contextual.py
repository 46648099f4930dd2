"""Contextual dropout: keep probabilities that a small network computes from the units."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, linear
from typing_extensions import override

from bayesdrop.errors import ConfigError
from bayesdrop.nn.arguments import is_whole
from bayesdrop.nn.catalogue import register
from bayesdrop.nn.gate import MeanGate
from bayesdrop.nn.masks.example_rates import ExampleRatesDropout
from bayesdrop.nn.masks.positions import mean_over_positions
from bayesdrop.nn.masks.relaxation import Relaxation


@register
class ContextualDropout(ExampleRatesDropout):
    r"""Contextual dropout: rates of each example, from a network that all units share.

    .. math::
        q(z_{nk} \mid x_n) = \mathrm{Bernoulli}(\pi_k(x_n)), \quad
        \pi(x) = \sigma\bigl(W_2\, \mathrm{LeakyReLU}(W_1 x + b_1) + b_2\bigr)
        \qquad
        p(z_{nk}) = \mathrm{Bernoulli}(\eta_k)

    with :math:`x` the layer's input, averaged over positions (of a convolution map, say) and with
    its gradient, as in squeeze-and-excitation; :math:`W_1` has :math:`K / \gamma` rows. The prior
    :math:`\eta` is learned with the rest, a number for each unit. An example pays

    .. math:: \sum_k \mathrm{KL}(q(z_{nk} \mid x_n) \,\|\, p(z_{nk}))

    nats, see ``ExampleRatesDropout``: what the rates say of an example beyond what they say of
    all. A learned prior follows the rates, and asks for no noise by itself: in a long training
    both may go to 1. ``learn_prior=False`` holds it.

    The paper trains exact masks by ARM. Here they are relaxed by default, with biased gradients
    of little variance; ``relaxation="bernoulli-straight-through"`` has exact ones with biased
    gradients, and ``fit(objective=bd.inference.objectives.Reinforce())`` exact ones without bias.
    (Antithetic masks, of ARM and DisARM, are biased where a mask looks at what another has left.)

    Units that no example needs can be pruned for good (``prune_unused_units``); they then are no
    part of :math:`x`. ``compact`` takes the small network along.

    Args:
        num_units: Number of units :math:`K`.
        unit_dim: The masked dimension: -1 for features, -3 for convolution maps.
        batch_dim: The dimension of the examples, counted from the first.
        threshold: Entries of the mean mask below this are zero.
        kl_scale: Factor on the divergence.
        reduction: :math:`\gamma \ge 1`: one hidden unit for so many units, and at least one.
        init_keep_prob: Initial :math:`\pi`, nearly, in (0, 1).
        prior_keep_prob: :math:`\eta` in (0, 1), or its initial value; None for no divergence, and
            then pass ``learn_prior=False``.
        learn_prior: Whether :math:`\eta_k` is learned.
        temperature: Temperature of a relaxed mask, > 0.
        relaxation: ``"concrete"``, ``"straight-through"`` or ``"bernoulli-straight-through"``.

    Shape:  input and output ``(N, ..., K)``, or ``(N, ..., K, H, W)`` with ``unit_dim=-3``.
    Sites:  ``{module path}.z``, plate ``data``, event ``(K,)``; the factor
        ``{module path}.divergence`` in the plate.

    References:
        Fan, Zhang, Tanwisuth, Qian, Zhou (2021), "Contextual Dropout: An Efficient
        Sample-Dependent Dropout Module", https://arxiv.org/abs/2103.04181 (its equations from
        memory).
        Deviations: the gradient, see above; Bernoulli masks only; evaluation mode multiplies by
        the mean mask.

    Example:
        >>> layer = ContextualDropout(16)
        >>> layer(torch.randn(5, 16)).shape, layer.squeeze_weight.shape
        (torch.Size([5, 16]), torch.Size([2, 16]))
        >>> bool((layer.divergence_by_example(torch.randn(5, 16)) > 0).all())
        True
    """

    key: ClassVar[str] = "contextual"
    reference: ClassVar[str] = "Fan et al. (2021), https://arxiv.org/abs/2103.04181"

    def __init__(
        self,
        num_units: int,
        *,
        unit_dim: int = -1,
        batch_dim: int = 0,
        threshold: float = 1e-3,
        kl_scale: float = 1.0,
        reduction: int = 8,
        init_keep_prob: float = 0.9,
        prior_keep_prob: float | None = 0.9,
        learn_prior: bool = True,
        temperature: float = 0.1,
        relaxation: Relaxation = "concrete",
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
            learn_prior=learn_prior,
        )
        if not is_whole(reduction) or reduction < 1 or not 0.0 < init_keep_prob < 1.0:
            raise ConfigError(
                type(self).__name__,
                expected="a whole reduction >= 1 and 0 < init_keep_prob < 1",
                got=f"{reduction=}, {init_keep_prob=}",
                hint="The defaults are 8 and 0.9.",
            )
        hidden = max(1, num_units // reduction)
        squeeze, excite = nn.Linear(num_units, hidden), nn.Linear(hidden, num_units)
        self.squeeze_weight, self.squeeze_bias = squeeze.weight, squeeze.bias
        self.excite_weight = excite.weight
        logit = math.log(init_keep_prob / (1 - init_keep_prob))
        self.excite_bias = nn.Parameter(torch.full((num_units,), logit))

    @classmethod
    @override
    def options_from_dropout(cls, dropout: nn.Module) -> dict[str, Any]:
        rate = getattr(dropout, "p", 0.0)
        return {"init_keep_prob": 1 - rate} if 0.0 < rate < 1.0 else {}

    @classmethod
    @override
    def options_for_trained(cls, num_units: int, keep_prob: float) -> dict[str, Any]:
        return {"init_keep_prob": keep_prob}

    @override
    def log_odds(self, x: Tensor | None) -> Tensor:
        features = mean_over_positions(self, x, self.excite_bias.dtype) * self.open
        with torch.autocast(features.device.type, enabled=False):
            hidden = leaky_relu(linear(features, self.squeeze_weight, self.squeeze_bias))
            return linear(hidden, self.excite_weight, self.excite_bias)

    @override
    def keep_prob(self) -> Tensor:
        """Return 1, the bound on P(z = 1) over all inputs, or 0 where a unit is pruned."""
        return self.open.to(self.excite_bias.dtype)

    @override
    @torch.no_grad()
    def mean_gate(self) -> MeanGate:
        threshold = self.threshold

        def function(
            x: Tensor,
            squeeze_weight: Tensor,
            squeeze_bias: Tensor,
            excite_weight: Tensor,
            excite_bias: Tensor,
        ) -> Tensor:
            hidden = leaky_relu(linear(x, squeeze_weight, squeeze_bias))
            mean = torch.sigmoid(linear(hidden, excite_weight, excite_bias))
            return torch.where(torch.lt(mean, threshold), 0.0, mean)

        dims = {"squeeze_weight": 1, "squeeze_bias": None, "excite_weight": 0, "excite_bias": 0}
        tensors = {name: getattr(self, name).detach().clone() for name in dims}
        return MeanGate(function, tensors, dims)
