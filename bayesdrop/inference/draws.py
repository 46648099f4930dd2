"""Draws of the global latents, their densities, and each example's likelihood under every draw."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import pyro
import pyro.poutine as poutine
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution

from bayesdrop.distributions.elements import elements, log_prob_at_logit
from bayesdrop.errors import ConfigError, DataError, DivergenceError
from bayesdrop.inference.batches import Data, batches
from bayesdrop.inference.predict import check_finite, probe, seeded
from bayesdrop.nn import ConditionalOwner, LatentOwner, PosteriorSample, prior_among
from bayesdrop.ops.stable import clamp_open_unit
from bayesdrop.program.program import Program
from bayesdrop.typing import Latents

Draw: TypeAlias = dict[LatentOwner, Latents]
"""Values of all global latents, those that dropout layers share included."""

_MAX_ROWS = 1000


class DrawBatch(NamedTuple):
    """A batch of examples under :math:`S` draws; everything is on the CPU.

    Args:
        x: The inputs, ``(B, ...)``.
        y: The targets as the likelihood wants them, ``(B, ...)``, or None.
        log_likelihood: Of each example under each draw, in nats, float64, ``(S, B)``, or None.
        observations: One simulated observation for each, ``(S, B, ...)``, or None.
    """

    x: Tensor
    y: Tensor | None
    log_likelihood: Tensor | None
    observations: Tensor | None


@torch.no_grad()
def evaluate_draws(
    bnn: Program,
    data: Data,
    draws: Sequence[Draw],
    *,
    num_masks: int = 1,
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
        num_masks: Masks :math:`M` for each draw and example.
        noise_seed: Gives every draw the same random numbers for its masks, so that the draws
            differ by their latents alone; None gives every draw fresh ones.
        simulate: Whether to simulate observations, from the first mask.
        batch_size: Examples at a time; None derives it from ``memory_limit``.
        memory_limit: Bytes for the activations of one pass.

    Raises:
        ConfigError: If examples have latents of their own, as in an auto-encoder.
        DataError: If an input is not finite, or the data has no batch.
        DivergenceError: If a log-likelihood is not finite.
    """
    device = next(bnn.parameters(), torch.empty(0)).device
    rows, start = batch_size or _MAX_ROWS, 0
    for x_batch, y_batch in batches(data, rows):
        if start == 0 and batch_size is None:
            affordable = memory_limit // probe(bnn, x_batch[:1].to(device)).activations
            rows = max(1, min(_MAX_ROWS, affordable) // num_masks)
        for lower in range(0, len(x_batch), rows):
            x = x_batch[lower : lower + rows]
            y = None if y_batch is None else y_batch[lower : lower + rows].to(device)
            check_finite(x, start, DataError, "input")
            copies = x.to(device).repeat(num_masks, *[1] * (x.ndim - 1))
            terms, simulated, target = [], [], None
            for draw in draws:
                noise = None if noise_seed is None else noise_seed + start
                with seeded(noise), PosteriorSample(draw, shared=False):
                    output = bnn.network(copies)
                _check_outputs(output, num_masks, start)
                first = output[: len(x)]
                if simulate:
                    simulated.append(bnn.likelihood.distribution(first).sample().cpu())
                if y is not None:
                    target = bnn.likelihood.target(first, y)
                    terms.append(_log_mean_likelihood(bnn, output, target, num_masks, start))
            if start == 0:
                _check_no_local_latents(bnn, x[:1].to(device), draws[0])
            yield DrawBatch(
                x.cpu(),
                None if target is None else target.cpu(),
                torch.stack(terms) if terms else None,
                torch.stack(simulated) if simulated else None,
            )
            start += len(x)
    if start == 0:
        raise DataError(
            "bayesdrop data",
            expected="at least one batch",
            got="none",
            hint="Does the DataLoader drop an incomplete last batch?",
        )


def _check_outputs(output: Tensor, num_masks: int, start: int) -> None:
    examples = output.reshape(num_masks, len(output) // num_masks, -1).transpose(0, 1)
    check_finite(examples, start, DivergenceError, "prediction")


def _check_no_local_latents(bnn: Program, x: Tensor, draw: Draw) -> None:
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


def _log_mean_likelihood(
    bnn: Program, output: Tensor, target: Tensor, num_masks: int, start: int
) -> Tensor:
    copies = target.repeat(num_masks, *[1] * (target.ndim - 1))
    values = bnn.likelihood.distribution(output).log_prob(copies)
    values = values.double().reshape(num_masks, -1).logsumexp(0) - math.log(num_masks)
    check_finite(values, start, DivergenceError, "prediction")
    return values.cpu()


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
