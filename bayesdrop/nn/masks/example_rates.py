"""The contract of layers whose keep probabilities are a function of the example."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.errors import ConfigError
from bayesdrop.nn.context import active_context, context_of
from bayesdrop.nn.masks.bernoulli import BernoulliDropout
from bayesdrop.nn.masks.relaxation import Relaxation
from bayesdrop.ops.stable import bernoulli_kl
from bayesdrop.typing import Latents

_PRUNED = -100.0  # the log-odds of a unit that is off: float32's smallest noise does not keep it


class ExampleRatesDropout(BernoulliDropout):
    r"""Abstract layer whose masks have keep probabilities of each example's own.

    .. math::
        q(z_{nk} \mid x_n) = \mathrm{Bernoulli}(\pi_k(x_n)), \qquad
        p(z_{nk}) = \mathrm{Bernoulli}(\eta_k)

    A subclass says what the log-odds of :math:`\pi` are, as a function of the units' inputs
    (``log_odds``). Where there is a prior, an example pays
    :math:`\sum_k \mathrm{KL}(q(z_{nk} \mid x_n) \,\|\, p(z_{nk}))` nats, of exact masks also where
    they are relaxed, and the loss has it :math:`N / B` times for a batch, like its likelihood. It
    is part of ``BayesianNetwork.loss`` and of the Pyro model (the factor
    ``{module path}.divergence`` in the data plate), and none of ``kl_divergence(network)``, which
    sees no input: a plain loop opens ``LocalDivergences``. With several masks of an example each
    pays, which keeps the loss a bound.

    Args:
        num_units: Number of units :math:`K`.
        unit_dim: The masked dimension: -1 for features, -3 for convolution maps.
        batch_dim: The dimension of the examples, counted from the first.
        threshold: Entries of the mean mask below this are zero.
        kl_scale: Factor on the divergence.
        temperature: Temperature of a relaxed mask, > 0.
        relaxation: As for ``BernoulliDropout``.
        prior_keep_prob: :math:`\eta` in (0, 1), or its initial value; None for no prior, and no
            divergence.
        learn_prior: Whether :math:`\eta_k` is learned, a number for each unit.
    """

    input_dependent = True

    open: Tensor

    def __init__(
        self,
        num_units: int,
        *,
        unit_dim: int,
        batch_dim: int,
        threshold: float,
        kl_scale: float,
        temperature: float,
        relaxation: Relaxation,
        prior_keep_prob: float | None,
        learn_prior: bool,
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
        if prior_keep_prob is None and learn_prior:
            raise ConfigError(
                type(self).__name__,
                expected="a prior that can be learned",
                got="prior_keep_prob=None and learn_prior=True",
                hint="Pass its initial value, or learn_prior=False.",
            )
        if prior_keep_prob is not None and not 0.0 < prior_keep_prob < 1.0:
            raise ConfigError(
                type(self).__name__,
                expected="0 < prior_keep_prob < 1, or None for no prior",
                got=f"prior_keep_prob={prior_keep_prob}",
                hint="0.9 prefers masks that keep nine units of ten.",
            )
        logits = None
        if prior_keep_prob is not None:
            odds = prior_keep_prob / (1 - prior_keep_prob)
            logits = torch.full((num_units,), math.log(odds))
        if learn_prior and logits is not None:
            self.prior_logits: Tensor | None = nn.Parameter(logits)
        else:
            self.register_buffer("prior_logits", logits)
        self.register_buffer("open", torch.ones(num_units, dtype=torch.bool))

    @abstractmethod
    def log_odds(self, x: Tensor | None) -> Tensor:
        """Return the log-odds that a unit is kept, ``(N, K)``; those of pruned units are unused.

        Args:
            x: The layer's input.
        """

    @override
    def prior(self) -> dict[str, TorchDistribution]:
        return {}

    @override
    def posterior(self) -> dict[str, TorchDistribution]:
        return {}

    @override
    def keep_logits(self, latents: Latents, x: Tensor | None = None) -> Tensor:
        logits = self.log_odds(x).masked_fill(~self.open, _PRUNED)
        context = active_context()
        if context is None or context.batch_shape is None or logits.ndim < 2:
            return logits
        return logits.reshape(*context.batch_shape, self.num_units)  # particles to the left

    @override
    def sample_mask(self, x: Tensor) -> Tensor:
        """Return the mask of this pass, and count its divergence where a loss is computed."""
        self._check_input(x)
        context = context_of(self)
        if context is not None and context.counts and self.prior_logits is not None:
            context.count(self, self.kl_scale * self.divergence_by_example(x))
        return super().sample_mask(x)

    def divergence_by_example(self, x: Tensor) -> Tensor:
        r"""Return :math:`\sum_k \mathrm{KL}(q(z_{nk} \mid x_n) \,\|\, p(z_{nk}))`, ``(N,)`` nats.

        Zero without a prior. Units that are pruned for good pay nothing.

        Args:
            x: The layer's input.
        """
        logits = self.log_odds(x)
        if self.prior_logits is None:
            return logits.new_zeros(logits.shape[:-1])
        terms = bernoulli_kl(logits, self.prior_logits)
        return (terms * self.open).sum(-1)

    @override
    def mean_mask(self, x: Tensor | None = None) -> Tensor:
        mean = self.log_odds(x).sigmoid() * self.open
        return mean.masked_fill(mean < self.threshold, 0.0)

    @override
    @torch.no_grad()
    def prune(self, units: Tensor) -> bool:
        self.open &= ~units
        return True

    @override
    def all_masks(self) -> Tensor | None:
        """Return all masks; None where they have a prior of their own, and no such sum a bound."""
        return super().all_masks() if self.prior_logits is None else None
