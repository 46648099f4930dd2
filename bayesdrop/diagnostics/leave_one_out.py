"""Leave-one-out cross-validation from one fit, corrected from the guide to the posterior."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from bayesdrop.diagnostics.arviz_bridge import import_arviz, pareto_smooth
from bayesdrop.diagnostics.guide import (
    check_training_set,
    densities_of,
    largest_reliable_k,
    no_targets,
)
from bayesdrop.diagnostics.inference_data import (
    check_density,
    check_fits,
    check_options,
    warn_of_one_mask,
)
from bayesdrop.errors import ReliabilityWarning
from bayesdrop.inference.arrays import arrays_of
from bayesdrop.inference.batches import Data
from bayesdrop.inference.draws import DrawBatch, draw_posterior, evaluate_draws
from bayesdrop.inference.predict import seeded
from bayesdrop.nn.mode import evaluation_mode
from bayesdrop.program.program import Program
from bayesdrop.record import Record
from bayesdrop.typing import NumMasks

_CHUNK = 2**22  # weights at a time
_POINTWISE = ("elpd_per_example", "pareto_k_per_example")


@dataclass(frozen=True, eq=False)
class LeaveOneOut(Record, also=("looic", "num_unreliable", "verdict"), without=_POINTWISE):
    r"""What ``loo`` returns; nats, for all examples together.

    Args:
        elpd: Expected log predictive density of examples left out,
            :math:`\sum_n \log p(y_n \mid x_n, y_{-n})`.
        standard_error: Of ``elpd`` as an estimate for new data: from the spread between examples.
        monte_carlo_error: Of ``elpd`` as computed: from the number of draws and of masks.
        p_loo: Effective number of latents: what the examples' log density falls by when each is
            left out.
        pareto_k: Pareto k of the step from the guide to the posterior of all examples, as
            ``guide_diagnostic`` has it.
        threshold: Pareto k above this is too large for this number of draws,
            ``min(1 - 1 / log10(S), 0.7)``.
        num_examples: Examples :math:`N`.
        num_samples: Draws :math:`S`.
        num_masks: Masks that each likelihood is the average over.
        elpd_per_example: :math:`\log p(y_n \mid x_n, y_{-n})`, ``(N,)``, float64.
        pareto_k_per_example: Pareto k of the step from the guide to the posterior without the
            example, ``(N,)``.
    """

    elpd: float
    standard_error: float
    monte_carlo_error: float
    p_loo: float
    pareto_k: float
    threshold: float
    num_examples: int
    num_samples: int
    num_masks: NumMasks
    elpd_per_example: Tensor = field(repr=False)
    pareto_k_per_example: Tensor = field(repr=False)

    @property
    def looic(self) -> float:
        """The same on the scale of the deviance, -2 ``elpd``: lower is better."""
        return -2 * self.elpd

    @property
    def num_unreliable(self) -> int:
        """Number of examples whose Pareto k is above the threshold."""
        return int((self.pareto_k_per_example > self.threshold).sum())

    @property
    def verdict(self) -> str:
        """One sentence: whether the figure can be trusted, and what to do if not."""
        if not self.num_unreliable:
            return f"Reliable: Pareto k is at most {self.threshold:.2f} for every example."
        largest = float(self.pareto_k_per_example.max())
        got = (
            f"Unreliable: Pareto k is above {self.threshold:.2f} for {self.num_unreliable} of "
            f"{self.num_examples} examples, up to {largest:.2f}"
        )
        if self.pareto_k > self.threshold:
            return (
                f"{got}. Already the guide is too far from the posterior (k = "
                f"{self.pareto_k:.2f}): fit with several masks (num_masks=8 or 'exact'), take "
                "more draws, or compare on held-out data."
            )
        return (
            f"{got}, though the guide is near the posterior (k = {self.pareto_k:.2f}): look at "
            "those examples, take more draws, or refit without them (K-fold cross-validation)."
        )


@torch.no_grad()
def loo(
    bnn: Program,
    data: Data,
    *,
    num_samples: int = 1000,
    num_masks: NumMasks | None = None,
    batch_size: int | None = None,
    memory_limit: int = 2**30,
    seed: int | None = None,
) -> LeaveOneOut:
    r"""Estimate how well new data are predicted, from the training set and one fit.

    .. math::
        \mathrm{elpd} = \sum_{n=1}^N \log p(y_n \mid x_n, y_{-n}), \qquad
        p(y_n \mid x_n, y_{-n}) \approx \frac{\sum_s w_{ns}\, p(y_n \mid x_n, \pi_s)}
        {\sum_s w_{ns}}, \qquad
        w_{ns} = \frac{p(\pi_s)\, p(y \mid x, \pi_s)}{q(\pi_s)\, p(y_n \mid x_n, \pi_s)}

    with :math:`\pi_s` drawn from the guide :math:`q` and the weights Pareto-smoothed. The weights
    take two steps at once: from the guide to the posterior, and from the posterior to the one
    without example :math:`n`. ``az.loo`` of ``to_inference_data`` takes the second step alone.
    Pareto k says for each example whether the way was too far.

    The likelihood :math:`p(y_n \mid x_n, \pi_s)` has the masks summed out where they are few, and
    is else the average over ``num_masks`` of them, the same random numbers for every draw.

    What it does not know: weights without a posterior were fitted to all examples, and leaving one
    out does not remove its influence on them. The figure is then optimistic; compare priors by it
    on a network whose weights come from other examples, as tutorial 09 does.

    Every example passes through the network ``num_samples * num_masks`` times.

    Args:
        bnn: The Bayesian network.
        data: The training set, all ``bnn.num_data`` examples of it, with targets: a pair, a
            Dataset or a DataLoader (in any order; results are in the order met).
        num_samples: Draws :math:`S`, at least 100. The threshold reaches 0.7 at 2200.
        num_masks: Masks for each draw and example; ``"exact"`` sums over all masks of one layer,
            of at most 10 Bernoulli units. None takes one where masks follow from the latents, all
            of them where there are at most 64, and 32 otherwise.
        batch_size: Examples at a time, each ``num_masks`` times; None derives it from
            ``memory_limit``.
        memory_limit: Bytes for the activations of one pass, and for the log-likelihoods of all
            draws and examples.
        seed: Makes the result reproducible and leaves torch's global generator alone.

    Warns:
        ReliabilityWarning: If Pareto k is above the threshold for an example; it says what to do.
        FewMasksWarning: If the likelihoods come from one random mask.

    Raises:
        ConfigError: For bad options, data that is not the training set, latents without a
            density, latents for each example (an auto-encoder), a likelihood with class weights or
            label smoothing, or more log-likelihoods than fit into ``memory_limit``.
        DataError: If the data has no targets or is not finite.
        DivergenceError: If a log-likelihood is not finite.
        ImportError: If ArviZ is not installed.

    References:
        Vehtari, Gelman, Gabry (2017), https://arxiv.org/abs/1507.04544; the correction from an
        approximate posterior: Magnusson, Andersen, Jonasson, Vehtari (2019), "Bayesian
        leave-one-out cross-validation for large data", https://arxiv.org/abs/1904.10679, as in
        ``loo_approximate_posterior`` of R's loo and of ArviZ 1.
        Deviation: ``p_loo`` compares with the density under the corrected posterior, not under
        the guide.

    Example:
        >>> import bayesdrop as bd
        >>> mask = bd.BetaBernoulliDropout(4, prior_concentration1=1.0, init_concentration1=1.0)
        >>> net = torch.nn.Sequential(mask, torch.nn.Linear(4, 3))
        >>> bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=5)
        >>> result = loo(bnn, (torch.eye(5, 4), torch.arange(5) % 3), num_samples=100, seed=0)
        >>> result.elpd_per_example.shape, result.looic == -2 * result.elpd
        (torch.Size([5]), True)
    """
    who = "loo"
    check_options(who, bnn, num_samples, num_masks, batch_size, memory_limit, fewest=100)
    check_density(who, bnn)
    data = arrays_of(who, bnn, data)
    check_training_set(who, bnn, data)
    check_fits(who, num_samples, bnn.num_data, sum(bnn.total().get("weights", [])), memory_limit)
    import_arviz()
    with evaluation_mode(bnn), seeded(seed):
        draws = draw_posterior(bnn, num_samples)
        log_prior, log_guide = densities_of(who, draws)
        parts = list(
            evaluate_draws(
                bnn,
                data,
                draws,
                who=who,
                num_masks=num_masks,
                noise_seed=int(torch.randint(2**31, ())),
                simulate=False,
                batch_size=batch_size,
                memory_limit=memory_limit,
            )
        )
    warn_of_one_mask(who, parts[0])
    result = _summary(parts, (log_prior - log_guide).numpy())
    if result.num_unreliable:
        warnings.warn(f"{who}: {result.verdict}", ReliabilityWarning, stacklevel=3)
    return result


def _summary(parts: list[DrawBatch], log_ratios: np.ndarray) -> LeaveOneOut:
    found = [part.log_likelihood for part in parts if part.log_likelihood is not None]
    if not found:
        raise no_targets("loo")
    log_likelihood = torch.cat(found, 1).numpy().T  # (N, S)
    count, num_samples = log_likelihood.shape
    log_ratios = log_ratios + log_likelihood.sum(0)
    log_weights, guide_k = pareto_smooth(log_ratios)
    elpd, largest, all_in, influence = [], [], [], np.zeros(num_samples)
    chunk = max(1, _CHUNK // num_samples)
    for start in range(0, count, chunk):
        terms = log_likelihood[start : start + chunk]
        without, k = pareto_smooth(log_ratios - terms)
        each = np.logaddexp.reduce(without + terms, axis=1)
        # What a draw adds to the errors of all examples, which share it.
        share = np.exp(without + terms - each[:, np.newaxis]) - np.exp(without)
        influence += share.sum(0)
        elpd.append(each)
        largest.append(k)
        all_in.append(np.logaddexp.reduce(log_weights + terms, axis=1))
    per_example = torch.from_numpy(np.concatenate(elpd))
    certain = parts[0].enough_masks == 1
    mask_variance = 0.0 if certain else sum(float(part.mask_variance.sum()) for part in parts)
    return LeaveOneOut(
        elpd=float(per_example.sum()),
        standard_error=math.sqrt(count * float(per_example.var())),
        monte_carlo_error=math.sqrt(float((influence**2).sum()) + mask_variance),
        p_loo=float(np.concatenate(all_in).sum() - per_example.sum()),
        pareto_k=float(guide_k),
        threshold=largest_reliable_k(num_samples),
        num_examples=count,
        num_samples=num_samples,
        num_masks=parts[0].num_masks,
        elpd_per_example=per_example,
        pareto_k_per_example=torch.from_numpy(np.concatenate(largest)),
    )
