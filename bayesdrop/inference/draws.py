"""Draws of the global latents, their densities, and each example's likelihood under every draw."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import pyro
import pyro.poutine as poutine
import torch
from pyro.distributions import Delta, TorchDistribution
from torch import Tensor
from torch.distributions import Distribution
from typing_extensions import override

from bayesdrop.distributions import log_mixture
from bayesdrop.distributions.elements import elements, log_prob_at_logit
from bayesdrop.errors import ConfigError, DataError, DivergenceError
from bayesdrop.inference.batches import Data, batches
from bayesdrop.inference.predict import probe
from bayesdrop.nn import (
    BayesianDropout,
    ConditionalOwner,
    LatentOwner,
    MaskSum,
    ModelPass,
    PosteriorSample,
    prior_among,
    repeat_rows,
)
from bayesdrop.ops.seeding import seeded
from bayesdrop.ops.stable import clamp_open_unit
from bayesdrop.program.checks import require_output
from bayesdrop.program.explaining import explained
from bayesdrop.program.finite import check_finite
from bayesdrop.program.inputs import Inputs, each_input, outputs_of
from bayesdrop.program.program import Program
from bayesdrop.typing import Latents, NumMasks

Draw: TypeAlias = dict[LatentOwner, Latents]
"""Values of all global latents, those that dropout layers share included."""

_MAX_ROWS = 1000
_ENOUGH_MASKS = 32
_FEW_MASKS = 64  # as long as a sum over all of them costs at most twice as much


class DrawBatch(NamedTuple):
    """A batch of examples under :math:`S` draws; everything is on the CPU.

    Args:
        x: The inputs, ``(B, ...)``.
        y: The targets as the likelihood wants them, ``(B, ...)``, discrete ones as integers, or
            None.
        log_likelihood: Of each example under each draw, in nats, float64, ``(S, B)``, or None.
        observations: One simulated observation for each, ``(S, B, ...)``, likewise, or None.
        mask_variance: Relative variance of the average over masks, itself averaged over draws,
            ``(B,)``: zero where masks are summed over, NaN of a single mask.
        num_masks: Masks that each likelihood is the average over.
        enough_masks: Masks that ``num_masks=None`` takes.
    """

    x: Inputs
    y: Tensor | None
    log_likelihood: Tensor | None
    observations: Tensor | None
    mask_variance: Tensor
    num_masks: NumMasks = 1
    enough_masks: NumMasks = 1


@torch.no_grad()
def evaluate_draws(
    bnn: Program,
    data: Data,
    draws: Sequence[Draw],
    *,
    who: str = "evaluate_draws",
    num_masks: NumMasks | None = 1,
    noise_seed: int | None = None,
    simulate: bool = True,
    batch_size: int | None = None,
    memory_limit: int = 2**30,
) -> Iterator[DrawBatch]:
    r"""Yield, batch by batch, what every draw of the global latents says of every example.

    .. math:: \hat p(y_n \mid x_n, \pi_s) = \frac1M \sum_m p(y_n \mid x_n, z_{nsm}),
              \qquad z_{nsm} \sim p(z \mid \pi_s)

    The network must be in evaluation mode, so that masks are exact, and masks must be all that is
    random in an example.

    Args:
        bnn: The Bayesian network.
        data: Inputs, or inputs and targets.
        draws: Draws of the global latents.
        who: Who asks, for messages.
        num_masks: Masks :math:`M` for each draw and example; ``"exact"`` sums over all masks of
            the one layer, of at most 10 Bernoulli units. None takes what is enough: one where
            masks follow from the latents, all where there are at most 64, and 32 otherwise.
        noise_seed: Gives every draw the same random numbers for its masks, so that the draws
            differ by their latents alone; None gives every draw fresh ones.
        simulate: Whether to simulate observations, each from one mask.
        batch_size: Examples at a time; None derives it from ``memory_limit``.
        memory_limit: Bytes for the activations of one pass.

    Raises:
        ConfigError: If examples have latents of their own, as in an auto-encoder, or the masks of
            ``"exact"`` cannot be listed.
        DataError: If an input is not finite, or the data has no batch.
        DivergenceError: If a log-likelihood is not finite.
    """
    device = next(bnn.parameters(), torch.empty(0)).device
    rows, start = batch_size or _MAX_ROWS, 0
    used: NumMasks = 1
    enough: NumMasks = 1
    passes = _Passes(who, 1, None)
    for x_batch, y_batch in batches(data, rows):
        if start == 0:
            enough = _enough_masks(bnn, x_batch[:1].to(device), draws[0])
            used = enough if num_masks is None else num_masks
            mask_sum = MaskSum(bnn.network) if used == "exact" else None
            masks = len(mask_sum) if mask_sum is not None else int(used)
            passes = _Passes(who, masks, mask_sum)
            if batch_size is None:
                affordable = memory_limit // probe(bnn, x_batch[:1].to(device)).activations
                rows = max(1, min(_MAX_ROWS, affordable) // passes.masks)
        for lower in range(0, len(x_batch), rows):
            x = x_batch[lower : lower + rows]
            y = None if y_batch is None else y_batch[lower : lower + rows].to(device)
            check_finite(who, x, start, DataError, "input")
            noise = None if noise_seed is None else noise_seed + start
            part = _evaluate_batch(bnn, x.to(device), y, draws, passes, noise, simulate, start)
            if start == 0:
                _check_no_local_latents(bnn, x[:1].to(device), draws[0])
            yield part._replace(x=x.cpu(), num_masks=used, enough_masks=enough)
            start += len(x)
    if start == 0:
        raise DataError(
            "bayesdrop data",
            expected="at least one batch",
            got="none",
            hint="Does the DataLoader drop an incomplete last batch?",
        )


class _Passes(NamedTuple):
    # For whom, how often an example meets a mask, and what lists the masks if it meets them all.
    who: str
    masks: int
    mask_sum: MaskSum | None

    def run(self, bnn: Program, x: Inputs, draw: Draw) -> tuple[Tensor, Tensor | None]:
        """Return the outputs of each example in a row, and the masks' log-probabilities."""
        copies = each_input(lambda t: repeat_rows(t, self.masks), x)
        if self.mask_sum is None:
            with PosteriorSample(draw, shared=False):
                output = outputs_of(bnn.network, copies)
            return require_output(self.who, output, len(copies)), None
        self.mask_sum.log_weights = None
        with ModelPass(draw, torch.Size(), len(x), self.masks, self.mask_sum):
            output = outputs_of(bnn.network, copies)
        return require_output(self.who, output, len(copies)), self.mask_sum.log_weights

    def one_mask(self, output: Tensor, log_weights: Tensor | None) -> Tensor:
        """Return the outputs under one random mask of each example."""
        if log_weights is None:
            return output[:: self.masks]
        rows = torch.arange(len(output) // self.masks, device=output.device)
        probs = log_weights.exp().expand(len(rows), self.masks)
        return output[rows * self.masks + torch.multinomial(probs, 1).squeeze(-1)]

    def mean(self, values: Tensor, log_weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the log of the average likelihood, ``(B,)``, and its relative variance."""
        values = values.double().reshape(-1, self.masks)
        log_mean = log_mixture(values, log_weights)
        if log_weights is not None:
            return log_mean, torch.zeros_like(log_mean)
        if self.masks == 1:
            return log_mean, torch.full_like(log_mean, torch.nan)
        return log_mean, (values - log_mean.unsqueeze(-1)).exp().var(-1) / self.masks


def _evaluate_batch(
    bnn: Program,
    x: Inputs,
    y: Tensor | None,
    draws: Sequence[Draw],
    passes: _Passes,
    noise: int | None,
    simulate: bool,
    start: int,
) -> DrawBatch:
    terms, simulated, shown = [], [], None
    variance = torch.zeros(len(x), dtype=torch.float64)
    for draw in draws:
        with seeded(noise):
            output, log_weights = passes.run(bnn, x, draw)
            first = passes.one_mask(output, log_weights)
            if simulate:
                law = bnn.likelihood.distribution(first)
                simulated.append(_as_drawn(law, law.sample().cpu()))
        rows = output.reshape(len(x), -1)
        check_finite(passes.who, rows, start, DivergenceError, "prediction")
        if y is not None:
            target = bnn.likelihood.target(first, y)
            law = bnn.likelihood.distribution(output)
            shown = _as_drawn(law, target.cpu())
            values = law.log_prob(repeat_rows(target, passes.masks))
            term, spread = passes.mean(values, log_weights)
            check_finite(passes.who, term, start, DivergenceError, "prediction")
            terms.append(term.cpu())
            variance += spread.cpu() / len(draws)
    return DrawBatch(
        x,
        shown,
        torch.stack(terms) if terms else None,
        torch.stack(simulated) if simulated else None,
        mask_variance=variance,
    )


def _as_drawn(law: TorchDistribution, values: Tensor) -> Tensor:
    """Return discrete values as integers: ArviZ tells counts by their dtype."""
    try:
        support = law.support
    except NotImplementedError:  # a law of one's own that does not say
        return values
    return values.long() if support is not None and support.is_discrete else values


class _Observed(PosteriorSample):
    # A posterior sample that notes whether a mask is random, given the latents.
    is_random = False

    @override
    def mask(self, layer: BayesianDropout, x: Tensor) -> Tensor | None:
        fn = layer.mask_distribution(self.latents[layer], x)
        self.is_random |= not isinstance(elements(fn), Delta)
        return super().mask(layer, x)


def _enough_masks(bnn: Program, x: Inputs, draw: Draw) -> NumMasks:
    run = explained("posterior draws", bnn.network, x)
    observed = _Observed(draw, shared=False)
    observed.num_rows = len(x)
    with observed, run:
        outputs_of(bnn.network, x)
    if not observed.is_random:
        return 1
    layers = [layer for _, layer in bnn.named_dropout_layers()]
    masks = layers[0].all_masks() if len(layers) == 1 else None
    return "exact" if masks is not None and len(masks) <= _FEW_MASKS else _ENOUGH_MASKS


def _check_no_local_latents(bnn: Program, x: Inputs, draw: Draw) -> None:
    values = {
        f"{path}.{name}": value
        for path, owner in bnn.named_owners()
        for name, value in draw[owner].items()
    }
    with pyro.get_param_store().scope({"params": {}, "constraints": {}}):
        nodes = poutine.trace(poutine.condition(bnn.model, values)).get_trace(x).nodes
    for name, site in nodes.items():
        in_plate = site["type"] == "sample" and any(
            frame.name == "data" for frame in site["cond_indep_stack"]
        )
        if in_plate and name != "obs" and not site["is_observed"]:
            raise ConfigError(
                type(bnn).__name__,
                expected="examples without latents of their own, but for masks drawn from "
                "their prior",
                got=f"the site {name!r} in the data plate",
                hint="The likelihood of an example then depends on what the guide makes of "
                "it; use pyro.infer.Predictive or Trace_ELBO.",
            )


class Draws(list[Draw]):
    """Draws of all global latents, one after the other.

    Args:
        draws: Values of the latents, by owner.
        logits: The log-odds of those that lie in the unit interval, where they are known, stacked
            and in float64. The values themselves stick at its ends.
    """

    def __init__(self, draws: Iterable[Draw], logits: Mapping[LatentOwner, Latents]) -> None:
        super().__init__(draws)
        self.logits = logits


@torch.no_grad()
def draw_posterior(
    bnn: Program, num_samples: int, varied: Collection[LatentOwner] | None = None
) -> Draws:
    """Draw all global latents from the guide, ``num_samples`` times.

    Args:
        bnn: The Bayesian network.
        num_samples: Number of draws.
        varied: The owners whose draws differ, the others having the same one; None varies all.
    """
    draws: list[dict[LatentOwner, Latents]] = [{} for _ in range(num_samples)]
    logits: dict[LatentOwner, dict[str, Tensor]] = {}
    for _, owner in bnn.named_owners():
        times = num_samples if varied is None or owner in varied else 1
        each = [owner.draw_latents() for _ in range(times)]
        for name, fn in copy.deepcopy(owner).double().posterior().items():
            if hasattr(elements(fn), "sample_logit"):
                logit = elements(fn).sample_logit((times,))
                logits.setdefault(owner, {})[name] = logit.expand(num_samples, *logit.shape[1:])
                for latents, value in zip(each, logit.sigmoid(), strict=True):
                    latents[name] = clamp_open_unit(value.to(latents[name]))
        for index, draw in enumerate(draws):
            draw[owner] = each[index % times]
    return Draws(draws, logits)


def draw_prior(bnn: Program, num_samples: int) -> Draw:
    """Draw all global latents from the prior, stacked; an improper one's owner is left out."""
    drawn: Draw = {}
    for _, owner in bnn.named_owners():
        if isinstance(owner, ConditionalOwner) and owner.parent not in drawn:
            continue
        fns = prior_among(owner, drawn)
        if all(provides(fn, "sample") for fn in fns.values()):
            drawn[owner] = {
                name: fn.sample(() if fn.batch_shape else (num_samples,))
                for name, fn in fns.items()
            }
    return drawn


def stack_draws(draws: Sequence[Draw]) -> Draw:
    """Return the latents with the draws stacked along a new first dimension."""
    return {
        owner: {name: torch.stack([draw[owner][name] for draw in draws]) for name in latents}
        for owner, latents in draws[0].items()
    }


@torch.no_grad()
def log_densities(draws: Draws) -> tuple[Tensor, Tensor] | None:
    """Return the log prior and log guide density of each draw, ``(S,)`` in float64, on the CPU.

    They are those of the model itself, whatever ``kl_scale`` and ``kl_weight`` are. None if a
    distribution has no density, as an improper prior may.
    """
    # Sums over thousands of units: float32 would leave errors of a tenth of a nat.
    wide = {owner: _double(latents) for owner, latents in stack_draws(draws).items()}
    for owner, logits in draws.logits.items():
        wide[owner] |= {name: clamp_open_unit(value.sigmoid()) for name, value in logits.items()}
    totals = [torch.zeros(len(draws), dtype=torch.float64) for _ in range(2)]
    for owner, latents in wide.items():
        copied = copy.deepcopy(owner).double()
        if isinstance(copied, ConditionalOwner) and isinstance(owner, ConditionalOwner):
            prior = copied.prior_given(wide[owner.parent])
        else:
            prior = copied.prior()
        for index, fns in enumerate((prior, copied.posterior())):
            if not all(provides(fn, "log_prob") for fn in fns.values()):
                return None
            for name, value in latents.items():
                logit = draws.logits.get(owner, {}).get(name)
                fn = fns[name]
                term = fn.log_prob(value) if logit is None else log_prob_at_logit(fn, logit)
                totals[index] = totals[index] + term.cpu()
    return totals[0], totals[1]


def _double(latents: Latents) -> dict[str, Tensor]:
    return {name: value.double() for name, value in latents.items()}


def provides(fn: TorchDistribution, name: str) -> bool:
    """Return whether a distribution implements ``sample``, ``log_prob`` or ``mean``."""
    fn = elements(fn)
    if name == "sample" and fn.has_rsample:
        return True
    return getattr(type(fn), name) is not getattr(Distribution, name)
