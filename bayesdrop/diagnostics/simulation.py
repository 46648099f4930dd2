"""Simulation-based calibration: does ``fit`` find the posterior, where the truth is known?"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayesdrop.errors import ConfigError, TruncationWarning
from bayesdrop.inference.fit import fit
from bayesdrop.inference.progress import progress_bar
from bayesdrop.metrics.binomial import binomial_interval
from bayesdrop.metrics.options import require_seed
from bayesdrop.nn import LatentOwner, PosteriorSample, prior_among
from bayesdrop.nn.arguments import is_whole
from bayesdrop.nn.mode import evaluation_mode
from bayesdrop.ops.seeding import seeded
from bayesdrop.program.checks import check_program
from bayesdrop.program.inputs import GivenInputs, Inputs, as_inputs, outputs_of
from bayesdrop.program.program import Program
from bayesdrop.record import TableRecord
from bayesdrop.typing import Latents, NumMasks

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Nominal probabilities of the central intervals that tables show."""

_MOST_BINS = 20
_ALARM = 0.01
_SETTLING_PASSES = 100
_ONE_MASK = (
    "One mask inside the logarithm drives keep probabilities to 0 or 1: fit with num_masks=8 or "
    "more, or 'exact'."
)
_SEVERAL_MASKS = (
    "Latents that the data cannot tell apart are correlated, and a guide of independent ones is "
    "narrower than their posterior; so is a fit that has not settled: try more steps."
)


@dataclass(frozen=True, eq=False)
class SimulationBasedCalibration(TableRecord, also=("verdict",), without=("ranks",)):
    """What ``simulation_based_calibration`` returns.

    Args:
        ranks: Latent site to the rank of the true value among the draws of the fitted posterior,
            ``(L, K)``, integers from 0 to ``num_draws``. Uniform if the posterior is right.
        num_draws: Draws of each fitted posterior.
        coverage: Nominal probability of a central interval to the share of true values in it.
        intervals: The same to the 95 % confidence interval of that share.
        shift: Average of the ranks, scaled to [-1/2, 1/2], in standard errors: below zero where
            posteriors lie too high.
        spread: Mean square of the scaled ranks over that of a uniform law, minus one, in standard
            errors: above zero where posteriors are too narrow.
        p_value: Of the hypothesis that ranks are uniform: three times the least of those of their
            histogram (chi-square), of ``shift`` and of ``spread``.
        num_masks: Masks inside the logarithm of each fit.
    """

    ranks: Mapping[str, Tensor]
    num_draws: int
    coverage: Mapping[float, float]
    intervals: Mapping[float, tuple[float, float]]
    shift: float
    spread: float
    p_value: float
    num_masks: NumMasks = 1

    @property
    def num_simulations(self) -> int:
        """Number of simulated data sets."""
        return len(next(iter(self.ranks.values())))

    @property
    def verdict(self) -> str:
        """What the ranks say of the fitted posterior, and what to do about it."""
        found = f"p = {self.p_value:.2g}, {self.num_simulations} simulations"
        if self.p_value >= _ALARM:
            return f"No sign that the fitted posterior is another one ({found})."
        if abs(self.shift) > abs(self.spread):
            where = "high" if self.shift < 0.0 else "low"
            return f"Lies too {where} ({found}): train longer, or with more masks (num_masks)."
        if self.spread > 0.0:
            narrow = f"Too narrow ({found}): true values lie in its tails too often."
            return f"{narrow} {_ONE_MASK if self.num_masks == 1 else _SEVERAL_MASKS}"
        return (
            f"Too wide ({found}): it has not found its width. Train for more steps, at a higher "
            "variational_learning_rate, with parametrization='location'."
        )

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return header and rows: what central intervals promise, and what they hold."""
        rows = [
            [f"{level:.0%}", f"{share:.1%}", f"{low:.1%} to {high:.1%}"]
            for (level, share), (low, high) in zip(
                self.coverage.items(), self.intervals.values(), strict=True
            )
        ]
        return ["interval", "holds", "95 % confidence"], rows


def simulation_based_calibration(
    bnn: Program,
    x: GivenInputs,
    *,
    num_simulations: int = 100,
    num_draws: int = 199,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> SimulationBasedCalibration:
    r"""Simulate data from the model, fit, and rank the truth among draws of what was fitted.

    .. math::
        \theta_l \sim p(\theta), \quad y_l \sim p(y \mid x, \theta_l), \quad
        \theta_{ls} \sim q_l \approx p(\theta \mid y_l), \qquad
        r_l = \sum_{s=1}^S [\theta_{ls} < \theta_l]

    If every :math:`q_l` is the posterior, the ranks are uniform on 0 to S. Where they pile up says
    what is wrong: at both ends, the posterior is too narrow; in the middle, too wide; at one end,
    it lies too high or too low. The weights are what they are in ``bnn``, known; only what has a
    prior is learned: this asks about the objective and the optimiser. Running statistics are
    settled on ``x`` first, so that data are drawn from the model that is fitted.

    Intervals and the p-value count simulations, not latents, since the latents of one network are
    not independent: with several they are on the safe side.

    Args:
        bnn: The network, with the priors and the weights to simulate from; it is not changed. Its
            posteriors are where every fit starts.
        x: Inputs, ``(N, ...)``; every simulated data set has them.
        num_simulations: Data sets :math:`L`.
        num_draws: Draws :math:`S` of each fitted posterior.
        seed: Makes the result reproducible, and leaves torch's global generator alone.
        progress: Whether to show a progress bar on a terminal.
        options: Of ``fit``, such as ``epochs``, ``num_masks`` and ``variational_learning_rate``.

    Raises:
        ConfigError: If no latent has a proper prior, there are fewer than 10 simulations or 9
            draws, or examples have latents of their own.

    References:
        Talts, Betancourt, Simpson, Vehtari, Gelman (2018), "Validating Bayesian Inference
        Algorithms with Simulation-Based Calibration", https://arxiv.org/abs/1804.06788.

    Example:
        >>> import bayesdrop as bd
        >>> prior = {"prior_concentration1": 1.0, "init_concentration1": 1.0}
        >>> net = torch.nn.Sequential(bd.BetaBernoulliDropout(2, **prior), torch.nn.Linear(2, 1))
        >>> bnn = bd.BayesianNetwork(net, bd.Gaussian(1.0), num_data=20)
        >>> result = simulation_based_calibration(
        ...     bnn, torch.ones(20, 2), num_simulations=10, epochs=1, progress=False
        ... )
        >>> result.ranks["0.pi"].shape
        torch.Size([10, 2])
    """
    _check(bnn, num_simulations, num_draws)
    seed = require_seed("simulation_based_calibration", seed)
    x = as_inputs("simulation_based_calibration", x)
    options = {"batch_size": len(x), "epochs": 500, "progress": False, **options}
    ranks: dict[str, list[Tensor]] = {}
    bnn = _settled(bnn, x, seed)
    bar = progress_bar("simulations" if progress else "", num_simulations)
    with torch.random.fork_rng(devices=[]), bar as advance:  # fit sets the global generator
        for index in range(num_simulations):
            for name, row in _simulated_ranks(bnn, x, num_draws, seed + index, options).items():
                ranks.setdefault(name, []).append(row)
            advance(1)
    stacked = {name: torch.stack(rows) for name, rows in ranks.items()}
    return _summary(stacked, num_draws, options.get("num_masks", 1))


@torch.no_grad()
def _settled(bnn: Program, x: Inputs, seed: int) -> Program:
    """Return a copy with the running statistics of ``x``, or ``bnn`` itself if it has none."""
    if not any("running_mean" in dict(m.named_buffers(recurse=False)) for m in bnn.modules()):
        return bnn
    work, settled = copy.deepcopy(bnn).train(), copy.deepcopy(bnn)
    with seeded(seed):
        for _ in range(_SETTLING_PASSES):
            outputs_of(work.network, x)
    settled.load_state_dict(work.state_dict())  # which leaves the modes of ``bnn``
    return settled


def _simulated_ranks(
    bnn: Program, x: Inputs, num_draws: int, seed: int, options: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Return the ranks of one simulation, site to ``(K,)``."""
    work = copy.deepcopy(bnn)
    work.num_data = len(x)
    with torch.no_grad(), seeded(seed), evaluation_mode(work):
        truth = _draw_prior(work)
        y = _simulate(work, x, truth)
        # Draws from one seed twice would rank the truth among its own random numbers.
        fit_seed, draw_seed = torch.randint(2**31, (2,)).tolist()
    for parameter in _known(work):
        parameter.requires_grad_(False)
    with warnings.catch_warnings():  # the truth has these units, used or not
        warnings.simplefilter("ignore", TruncationWarning)
        fit(work, (x, y), seed=fit_seed, **options)
    ranks = {}
    with torch.no_grad(), seeded(draw_seed):
        for path, owner in work.named_owners():
            for name, q in owner.posterior().items():
                drawn = q.sample((num_draws,))
                # What a dtype cannot tell apart has a rank drawn at random among its equals.
                ties = torch.rand(drawn.shape) < 0.5
                below = (drawn < truth[owner][name]) | ((drawn == truth[owner][name]) & ties)
                ranks[f"{path}.{name}"] = below.sum(0).flatten()
    return ranks


def _draw_prior(bnn: Program) -> dict[LatentOwner, Latents]:
    drawn: dict[LatentOwner, Latents] = {}
    for _, owner in bnn.named_owners():
        drawn[owner] = {name: p.sample() for name, p in prior_among(owner, drawn).items()}
    return drawn


def _simulate(bnn: Program, x: Inputs, latents: Mapping[LatentOwner, Latents]) -> Tensor:
    sample = PosteriorSample(latents, shared=False)
    sample.num_rows = len(x)
    with sample:
        output = outputs_of(bnn.network, x)
    return bnn.likelihood.distribution(output).sample()


def _known(bnn: Program) -> list[torch.nn.Parameter]:
    learned: set[int] = set()
    for _, owner in bnn.named_owners():
        learned |= {id(p) for p in owner.variational_parameters()}
        learned |= {id(p) for p in owner.mean_parameters()}
    return [p for p in bnn.parameters() if id(p) not in learned]


def _summary(
    ranks: Mapping[str, Tensor], num_draws: int, num_masks: NumMasks = 1
) -> SimulationBasedCalibration:
    from scipy.stats import chi2

    every = torch.cat(list(ranks.values()), 1).double()
    count = float(every.shape[0])  # that many are independent
    scaled = (every + 0.5) / (num_draws + 1) - 0.5
    coverage, intervals = {}, {}
    for level in LEVELS:
        inside = (scaled.abs() <= level / 2).double().mean()
        low, high = binomial_interval(inside * count, torch.tensor(count))
        coverage[level], intervals[level] = float(inside), (float(low), float(high))
    uniform = 1.0 / 12.0
    num_bins = min(_MOST_BINS, max(2, int(count) // 5), num_draws + 1)
    # Bins may hold different numbers of ranks: few draws have few of them.
    shares, expected = (
        torch.bincount(r.long().flatten() * num_bins // (num_draws + 1), minlength=num_bins)
        / r.numel()
        for r in (every, torch.arange(num_draws + 1))
    )
    statistic = float(count * ((shares - expected).square() / expected).sum())
    shift = float(scaled.mean() / math.sqrt(uniform / count))
    # The variance of the square of a uniform number is 1 / 180.
    spread = float((scaled.square().mean() - uniform) / math.sqrt(1.0 / 180.0 / count))
    tails = [math.erfc(abs(value) / math.sqrt(2.0)) for value in (shift, spread)]
    return SimulationBasedCalibration(
        ranks=dict(ranks),
        num_draws=num_draws,
        coverage=coverage,
        intervals=intervals,
        shift=shift,
        spread=spread,
        p_value=min(1.0, 3.0 * min(float(chi2.sf(statistic, num_bins - 1)), *tails)),
        num_masks=num_masks,
    )


def _check(bnn: Program, num_simulations: int, num_draws: int) -> None:
    who = "simulation_based_calibration"
    check_program(who, bnn)
    whole = is_whole(num_simulations) and is_whole(num_draws)
    if not whole or num_simulations < 10 or num_draws < 9:
        raise ConfigError(
            who,
            expected="at least 10 simulations and 9 draws",
            got=f"{num_simulations=}, {num_draws=}",
            hint="A hundred of each show a coverage to within 5 points.",
        )
    improper = False
    drawn: Mapping[LatentOwner, Latents] = {}
    try:
        with torch.no_grad(), seeded(0):
            drawn = _draw_prior(bnn)
    except (NotImplementedError, ConfigError):  # Pyro's, and that of our improper priors
        improper = True
    if improper or bnn.has_local_latents or not any(drawn.values()):
        got = "a prior that cannot be drawn from" if improper else "no global latents"
        raise ConfigError(
            who,
            expected="global latents, all with a prior that can be drawn from",
            got="latents of each example" if bnn.has_local_latents else got,
            hint="Layers with fixed rates have nothing to learn; improper priors have no draws.",
        )
