"""Is the variational posterior any good? The Pareto shape of its importance ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from bayesdrop.diagnostics.arviz_bridge import import_arviz, pareto_smooth
from bayesdrop.diagnostics.inference_data import check_options
from bayesdrop.errors import ConfigError, DataError, unknown_name
from bayesdrop.inference.arrays import arrays_of
from bayesdrop.inference.batches import Data, num_examples
from bayesdrop.inference.draws import (
    Draws,
    draw_posterior,
    evaluate_draws,
    log_densities,
)
from bayesdrop.nn import LatentOwner
from bayesdrop.nn.mode import evaluation_mode
from bayesdrop.ops.seeding import seeded
from bayesdrop.program.program import Program
from bayesdrop.record import Record
from bayesdrop.typing import NumMasks

_FEWEST = 100
_FEW = 20


@dataclass(frozen=True, eq=False)
class GuideDiagnostic(Record, also=("reliable", "verdict"), without=("log_ratios",)):
    """What ``guide_diagnostic`` returns.

    Args:
        pareto_k: Shape :math:`k` of the tail of the importance ratios: they have finite moments
            below :math:`1 / k`. Minus infinity if all ratios are equal.
        threshold: :math:`k` above this is too large for this number of draws,
            ``min(1 - 1 / log10(S), 0.7)``.
        effective_sample_size: Of the smoothed importance weights, between 1 and ``num_samples``.
        num_samples: Draws :math:`S`.
        num_masks: Masks that each likelihood was averaged over.
        num_latents: Number of latents that were drawn.
        layer: The only layer that was varied, or None for all.
        log_ratios: :math:`r_s` in nats, ``(S,)``, float64, on the CPU.
    """

    pareto_k: float
    threshold: float
    effective_sample_size: float
    num_samples: int
    num_masks: NumMasks
    num_latents: int
    layer: str | None = None
    log_ratios: Tensor = field(default_factory=lambda: torch.empty(0), repr=False)

    @property
    def reliable(self) -> bool:
        """Whether k is at most the threshold."""
        return self.pareto_k <= self.threshold

    @property
    def verdict(self) -> str:
        """One sentence: good, usable or poor, and what follows."""
        k = f"Pareto k = {self.pareto_k:.2f}"
        if self.reliable and self.pareto_k < 0.5:
            return f"Good ({k} < 0.5): the guide is close to the posterior of these latents."
        if self.reliable:
            return (
                f"Usable ({k} <= {self.threshold:.2f}): the guide differs from the posterior, but "
                "importance weights can correct its averages."
            )
        return (
            f"Poor ({k} > {self.threshold:.2f}): do not read the guide as the posterior, nor "
            f"correct it by importance weights. {self._advice}"
        )

    @property
    def _advice(self) -> str:
        if self.num_latents <= _FEW:
            return (
                f"With {self.num_latents} latents that is no accident. If it was fitted with one "
                "mask inside the logarithm, that drove keep probabilities to 0 or 1: fit with "
                "num_masks=8 or more, or 'exact', for longer. If with several, latents that the "
                "data cannot tell apart are correlated, which a guide of independent ones cannot "
                "say. simulation_based_calibration asks about a fit's settings."
            )
        return (
            f"It says nothing against the predictions: mismatches of {self.num_latents} latents "
            "add up; check those on held-out data, and a layer at a time (layer=...)."
        )


@torch.no_grad()
def guide_diagnostic(
    bnn: Program,
    data: Data,
    *,
    num_samples: int = 1000,
    num_masks: NumMasks = 16,
    layer: str | None = None,
    batch_size: int | None = None,
    memory_limit: int = 2**30,
    seed: int | None = None,
) -> GuideDiagnostic:
    r"""Return the Pareto k of the guide over the global latents: is it close to the posterior?

    .. math::
        r_s = \log p(\pi_s) + \sum_{n=1}^N \log \frac1M \sum_{m=1}^M p(y_n \mid x_n, z_{nsm})
              - \log q(\pi_s), \qquad \pi_s \sim q, \quad z_{nsm} \sim p(z \mid \pi_s)

    If the guide were the posterior, all :math:`r_s` would be equal. The fatter the right tail of
    :math:`\exp r_s`, the more mass the guide misses, as a guide that is too narrow does. The
    weights are point estimates and stay as they are: it is the posterior given them.

    How to read it: below 0.5 the guide is close; up to about 0.7 importance weighting can still
    correct it; above, it cannot. Mismatches of single latents add up, so that with hundreds of
    latents k is usually large even where each marginal is fair: conclude that the guide is not a
    substitute for the exact posterior, not that the predictions are bad. ``layer`` asks about one
    layer's latents alone, given one draw of all others. A latent that the data say nothing about
    has :math:`k = 1 - c / a` under a ``Beta(c, 1)`` prior and a Kumaraswamy guide with
    :math:`a > c`; and what leaves the dtype's range is clamped there, before and after.

    All draws use the same random numbers for their masks. What remains of the masks' noise in
    :math:`r_s` shrinks with ``num_masks``, and inflates k: if a larger number lowers k, it was
    too small. The cost is ``num_samples * num_masks`` passes over the training set.

    Args:
        bnn: The Bayesian network.
        data: The training set, all ``bnn.num_data`` examples of it, with targets.
        num_samples: Draws :math:`S`, at least 100. The threshold reaches 0.7 at 2200.
        num_masks: Masks :math:`M` for each draw and example; ``"exact"`` sums over all masks of
            one layer, of at most 10 Bernoulli units.
        layer: Name of the only dropout layer (or parent that layers share) to vary; None varies
            all.
        batch_size: Examples at a time, each ``num_masks`` times; None derives it from
            ``memory_limit``.
        memory_limit: Bytes for the activations of one pass.
        seed: Makes the result reproducible and leaves torch's global generator alone.

    Raises:
        ConfigError: For bad options, data that is not the training set, latents without a
            density, or latents for each example (an auto-encoder).
        DataError: If the data has no targets or is not finite.
        DivergenceError: If a log-likelihood is not finite.
        ImportError: If ArviZ is not installed.

    References:
        Yao, Vehtari, Simpson, Gelman (2018), "Yes, but Did It Work?: Evaluating Variational
        Inference", https://arxiv.org/abs/1802.02538; the threshold is that of Vehtari, Simpson,
        Gelman, Yao, Gabry (2024), https://arxiv.org/abs/1507.02646.
        Deviation: the likelihood of a draw is estimated from ``num_masks`` masks.

    Example:
        >>> import bayesdrop as bd
        >>> net = torch.nn.Sequential(bd.BetaBernoulliDropout(4), torch.nn.Linear(4, 3))
        >>> bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=5)
        >>> train = torch.zeros(5, 4), torch.zeros(5).long()
        >>> guide_diagnostic(bnn, train, num_samples=100).log_ratios.shape
        torch.Size([100])
    """
    check_options(
        "guide_diagnostic", bnn, num_samples, num_masks, batch_size, memory_limit, fewest=_FEWEST
    )
    data = arrays_of("guide_diagnostic", bnn, data)
    check_training_set("guide_diagnostic", bnn, data)
    import_arviz()
    with evaluation_mode(bnn), seeded(seed):
        varied = _varied(bnn, layer)
        draws = draw_posterior(bnn, num_samples, varied)
        log_prior, log_guide = densities_of("guide_diagnostic", draws, varied)
        log_likelihood = torch.zeros(num_samples, dtype=torch.float64)
        for part in evaluate_draws(
            bnn,
            data,
            draws,
            who="guide_diagnostic",
            num_masks=num_masks,
            noise_seed=int(torch.randint(2**31, ())),
            simulate=False,
            batch_size=batch_size,
            memory_limit=memory_limit,
        ):
            if part.log_likelihood is None:
                raise no_targets("guide_diagnostic")
            log_likelihood += part.log_likelihood.sum(1)
    log_ratios = log_prior + log_likelihood - log_guide
    log_weights, k = pareto_smooth(log_ratios.numpy())
    return GuideDiagnostic(
        pareto_k=float(k),
        threshold=largest_reliable_k(num_samples),
        effective_sample_size=float(1 / np.exp(2 * log_weights).sum()),
        num_samples=num_samples,
        num_masks=num_masks,
        num_latents=sum(v.numel() for one in varied for v in draws[0][one].values()),
        layer=layer,
        log_ratios=log_ratios,
    )


def _varied(bnn: Program, layer: str | None) -> list[LatentOwner]:
    owners = dict(bnn.named_owners())
    if layer is None:
        return list(owners.values())
    if layer not in owners:
        raise unknown_name("dropout layer", layer, owners)
    return [owners[layer]]


def largest_reliable_k(num_samples: int) -> float:
    """Return the Pareto k up to which so many draws bear importance weights."""
    return min(1 - 1 / math.log10(num_samples), 0.7)


def densities_of(
    who: str, draws: Draws, varied: Sequence[LatentOwner] | None = None
) -> tuple[Tensor, Tensor]:
    """Return the log prior and log guide density of each draw, ``(S,)``.

    Args:
        who: For the message.
        draws: Of all latents.
        varied: The owners whose draws differ, of which there must be one with latents; None is
            content without latents.

    Raises:
        ConfigError: If a distribution has no density, or nothing that varies has latents.
    """
    # Those of fixed latents are constants, but for layers whose parent varies.
    densities = log_densities(draws)
    empty = varied is not None and not any(draws[0][owner] for owner in varied)
    if empty or densities is None:
        raise ConfigError(
            who,
            expected="latents whose prior and posterior have a density",
            got="no latents" if empty else "a prior or posterior without log_prob",
            hint="Is this prior improper, or a fixed drop rate? Then there is no guide to "
            "compare with a posterior.",
        )
    return densities


def check_training_set(who: str, bnn: Program, data: Data) -> None:
    """Raise ``ConfigError`` unless there are as many examples as the guide was fitted to."""
    if isinstance(data, Tensor):
        raise no_targets(who)
    if num_examples(data) != bnn.num_data:
        raise ConfigError(
            who,
            expected=f"the training set, bnn.num_data={bnn.num_data} examples",
            got=f"{num_examples(data)} examples",
            hint="The guide approximates the posterior given all of them; if this is the "
            "training set, set bnn.num_data.",
        )


def no_targets(who: str) -> DataError:
    """Return the error for data without targets."""
    return DataError(
        who,
        expected="the training set with its targets",
        got="inputs alone",
        hint="Pass (x, y), a Dataset or a DataLoader.",
    )
