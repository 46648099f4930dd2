"""The checks of ``check_elbo`` on single sites: the prior's support, and the closed KL."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import kl_divergence as torch_kl_divergence

from bayesdrop.distributions.elements import elements
from bayesdrop.nn import LatentOwner

FAILURE_RATE = 1e-4
"""Probability that a correct network fails any of the statistical checks of one table."""

ROUNDING = 1e-9  # Relative, in float64: sums of up to a million terms.

_CHUNK = 1000
_CHUNK_ELEMENTS = 2**22

SUPPORT = "prior support"
UNREGISTERED = "no closed form is registered for this pair; the loss cannot be computed"


@dataclass(frozen=True)
class CheckRow:
    """One check.

    Args:
        check: What is checked, such as ``"KL divergence"``.
        where: The site, batch size or parameter group.
        value: What was found.
        expected: What it should be; NaN where nothing is.
        tolerance: How far it may be off: numerical, or computed from the samples' spread.
        passed: Whether it is within.
        detail: What the numbers mean.
    """

    check: str
    where: str
    value: float
    expected: float
    tolerance: float
    passed: bool
    detail: str


@torch.no_grad()
def check_support(
    path: str, owner: LatentOwner, prior: Mapping[str, TorchDistribution], num_samples: int
) -> Iterator[CheckRow]:
    """Yield for each site how much of the posterior is outside the prior's support."""
    for key, posterior in owner.posterior().items():
        support, outside, total = elements(prior[key]).support, 0, 0
        for count in _chunks(num_samples, posterior.event_shape.numel()):
            inside = support.check(posterior.rsample((count,)))
            outside, total = outside + int((~inside).sum()), total + inside.numel()
        bound = f"; the mass is below {3 / total:.1g} (95 % confidence)" if not outside else ""
        yield CheckRow(
            check=SUPPORT,
            where=f"{path}.{key}",
            value=outside / total,
            expected=0.0,
            tolerance=0.0,
            passed=outside == 0,
            detail=f"share of {total:,} posterior values outside{bound}",
        )


@torch.no_grad()
def check_kl(
    path: str,
    owner: LatentOwner,
    prior: Mapping[str, TorchDistribution],
    num_samples: int,
    comparisons: int,
) -> CheckRow:
    """Return the closed KL divergence of an owner's sites beside a Monte Carlo estimate."""
    try:
        kl = owner.kl_divergence(prior=prior)
        closed = float(kl) / owner.kl_scale - float(owner.penalty() or 0.0)
    except NotImplementedError:
        nan = float("nan")
        return CheckRow("KL divergence", path, nan, nan, nan, False, UNREGISTERED)
    samples = torch.zeros(num_samples, dtype=torch.float64)
    rest, skipped, units = 0.0, 0, 0
    for key, posterior in owner.posterior().items():
        q, p = elements(posterior), elements(prior[key])
        # Decided on samples of their own, so that leaving units out does not bias the mean.
        chunks = _chunks(num_samples, posterior.event_shape.numel())
        edge = torch.stack([_at_edge(p, q.rsample((n,))) for n in chunks]).any(0)
        if edge.any():
            rest += float(torch_kl_divergence(q, p).expand(edge.shape)[edge].sum())
        skipped, units = skipped + int(edge.sum()), units + edge.numel()
        start = 0
        for count in chunks:
            value = q.rsample((count,))
            ratio = _log_ratio(q, p, value).masked_fill(edge, 0.0)
            samples[start : start + count] += ratio.reshape(count, -1).sum(1).cpu()
            start += count
    mean = float(samples.mean()) + rest
    error = float(samples.std()) / math.sqrt(num_samples)
    # Rounding, for a posterior that is its prior.
    tolerance = critical_value(num_samples, comparisons) * error + ROUNDING * max(1, abs(mean))
    note = f"; {skipped} of {units} units not checked, their samples leave float64's range"
    return CheckRow(
        check="KL divergence",
        where=path,
        value=closed,
        expected=mean,
        tolerance=tolerance,
        passed=abs(closed - mean) <= tolerance and skipped < max(1, units),
        detail="closed form against Monte Carlo, nats" + (note if skipped else ""),
    )


def _log_ratio(q: Any, p: Any, value: Tensor) -> Tensor:
    inside = p.support.check(value)
    # Any point inside will do where the ratio is infinite anyway.
    event = len(p.event_shape)
    where = inside.reshape(inside.shape + (1,) * event)
    safe = value if inside.all() else torch.where(where, value, p.mean.expand_as(value))
    ratio = q.log_prob(value) - p.log_prob(safe)
    return torch.where(inside, ratio, torch.inf)


def _at_edge(p: Any, value: Tensor) -> Tensor:
    """Return for which units a sample is as close to the end of an interval as floats go."""
    info = torch.finfo(value.dtype)
    edge = torch.zeros_like(value, dtype=torch.bool)
    lower = getattr(p.support, "lower_bound", None)
    upper = getattr(p.support, "upper_bound", None)
    if lower is not None:
        edge |= (value - lower).abs() <= 2 * info.tiny
    if upper is not None:
        edge |= (upper - value).abs() <= 2 * info.eps
    edge = edge.any(0)
    for _ in p.event_shape:  # a unit of several numbers
        edge = edge.any(-1)
    return edge


def _chunks(count: int, units: int) -> list[int]:
    size = max(1, min(_CHUNK, _CHUNK_ELEMENTS // units))
    whole, rest = divmod(count, size)
    return [size] * whole + [rest] * (rest > 0)


def critical_value(num_samples: int, comparisons: int) -> float:
    """Return the bound on a t statistic that one of so many comparisons rarely exceeds."""
    from scipy.stats import t

    quantile: Callable[..., Any] = t.ppf
    return float(quantile(1 - FAILURE_RATE / 2 / comparisons, num_samples - 1))
