"""How much figures of merit depend on which posterior samples were drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesdrop.errors import DataError
from bayesdrop.metrics.arrays import as_tensor
from bayesdrop.metrics.checks import as_scores

_SEED = 0
_EQUAL = 1e-12


@dataclass(frozen=True, eq=False)
class SampleGroups:
    r"""What each of :math:`G` groups of posterior samples says, averaged over the group.

    Args:
        sizes: Samples in each group, ``(G,)``.
        mean: Probabilities, or means, ``(G, N, ...)``.
        log_likelihood: Log of the average likelihood, as in ``Prediction``, ``(G, N, ...)``; None
            without targets.
        pit: Predictive distribution function at the targets, ``(G, N, ...)``, if there is one.
    """

    sizes: Tensor
    mean: Tensor
    log_likelihood: Tensor | None = None
    pit: Tensor | None = None

    def weighted(self, weights: Tensor) -> SampleGroups:
        """Return the average with these weights ``(G,)``, which sum to one, as one group."""

        def average(values: Tensor) -> Tensor:
            return torch.tensordot(weights.to(values.dtype), values, 1)[None]

        terms = self.log_likelihood
        if terms is not None:
            terms = terms + weights.log().reshape(-1, *[1] * (terms.ndim - 1))
        return SampleGroups(
            sizes=self.sizes.sum()[None],
            mean=average(self.mean),
            log_likelihood=None if terms is None else terms.logsumexp(0)[None],
            pit=None if self.pit is None else average(self.pit),
        )


def monte_carlo_errors(
    groups: SampleGroups,
    figures: Callable[[SampleGroups], Mapping[str, float]],
    *,
    num_resamples: int = 50,
) -> dict[str, float]:
    r"""Return the standard error of each figure that comes from the choice of posterior samples.

    .. math::
        \mathrm{se}^2 = \frac{G}{G - 1}\, \mathrm{Var}_b\, T\Big(\sum_g w_{bg}\, \bar p_g\Big),
        \qquad w_b \sim \tfrac1G \mathrm{Multinomial}(G)

    A bootstrap over groups of samples: the figures are those of averages over groups that are
    drawn with replacement. The factor makes it exact for figures that are averages of the samples.
    It is noise that all test examples share if masks are shared, so that it does not shrink with
    their number, as the intervals of ``bootstrap_metrics`` do: it is no part of those. With 16
    groups the estimate itself is off by a fifth or so; that of the error rate, a step function of
    the averages, is rather too large.

    Args:
        groups: What each group says.
        figures: Groups, of which there is one, to figures by name; the same names at every call.
        num_resamples: Resamples :math:`b`; 25 are enough for dear figures.
    """
    generator = torch.Generator().manual_seed(_SEED)
    number = len(groups.sizes)
    share = groups.sizes.double() / groups.sizes.sum()
    found: dict[str, list[float]] = {}
    for _ in range(num_resamples):
        drawn = torch.randint(number, (number,), generator=generator)
        weights = share * torch.bincount(drawn, minlength=number)
        for name, value in figures(groups.weighted(weights / weights.sum())).items():
            found.setdefault(name, []).append(value)
    factor = math.sqrt(number / (number - 1))
    values = {name: torch.tensor(v, dtype=torch.float64) for name, v in found.items()}
    # A difference that is rounding is none.
    spread = {n: v.std() * (v.max() - v.min() > _EQUAL * v.abs().max()) for n, v in values.items()}
    return {name: factor * float(value) for name, value in spread.items()}


def jackknife_error(values: Sequence[float]) -> float:
    r"""Return the standard error of a figure, from its values with one group of samples left out.

    .. math::
        \mathrm{se}^2 = \frac{G - 1}{G} \sum_{g=1}^G (T_{-g} - \bar T)^2

    For figures that are smooth in the samples and dear, as the CRPS. It overrates steps, as FPR95.

    Args:
        values: Of the figure, without each of the :math:`G` groups.

    Raises:
        DataError: If the values are not numbers ``(G,)``, finite and at least two.

    Example:
        >>> jackknife_error([1.0, 3.0])  # of a mean of two: half their distance
        1.0
    """
    who = "jackknife_error"
    left_out = as_scores(who, "left-out", as_tensor(who, values))
    if len(left_out) < 2:
        raise DataError(
            who, expected="at least two values", got="one", hint="Leave out each group in turn."
        )
    share = (len(left_out) - 1) / len(left_out)
    return math.sqrt(share * float((left_out - left_out.mean()).square().sum()))
