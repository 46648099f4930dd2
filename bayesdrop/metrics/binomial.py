"""Confidence intervals of a share."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from bayesdrop.errors import unknown_name

Interval = Literal["wilson", "clopper-pearson"]


def binomial_interval(
    successes: Tensor, counts: Tensor, level: float = 0.95, method: Interval = "wilson"
) -> tuple[Tensor, Tensor]:
    r"""Return the two-sided confidence interval of a share, elementwise; [0, 1] of nothing.

    ``"wilson"``: where :math:`|\hat s - s| \le z \sqrt{s (1 - s) / n}`, close to ``level`` on
    average. ``"clopper-pearson"``: from the binomial's own tails, never below ``level``.

    Args:
        successes: How often it happened.
        counts: Of how many.
        level: Confidence level, inside (0, 1).
        method: The interval.

    Raises:
        ConfigError: If there is no such method.

    References:
        Wilson (1927); Clopper, Pearson (1934). Compared in Brown, Cai, DasGupta (2001),
        https://doi.org/10.1214/ss/1009213286.

    Example:
        >>> lower, upper = binomial_interval(torch.tensor([0.0]), torch.tensor([10.0]))
        >>> float(lower), bool(upper < 0.3)
        (0.0, True)
    """
    k, n = successes.double(), counts.double()
    if method == "wilson":
        z = float(torch.special.ndtri(torch.tensor((1.0 + level) / 2.0, dtype=torch.float64)))
        centre = (k + z * z / 2.0) / (n + z * z)
        half = z * (k * (n - k) / n.clamp(min=1.0) + z * z / 4.0).sqrt() / (n + z * z)
        lower, upper = centre - half, centre + half
        # Exact at the ends, where both formulas cancel.
        lower, upper = torch.where(k == 0, 0.0, lower), torch.where(k == n, 1.0, upper)
        return lower.clamp(0.0, 1.0), upper.clamp(0.0, 1.0)
    if method == "clopper-pearson":
        tail = (1.0 - level) / 2.0
        return 1.0 - upper_bound(n - k, n, tail), upper_bound(k, n, tail)
    raise unknown_name("interval", method, ("wilson", "clopper-pearson"))


def upper_bound(successes: Tensor, counts: Tensor, failure_probability: float) -> Tensor:
    """Return Clopper and Pearson's one-sided upper bound of a share, elementwise.

    The true share exceeds it with at most ``failure_probability``. It is 1 where all happened.
    """
    from scipy.stats import beta

    k, n = successes.double(), counts.double()
    rest = (n - k).clamp(min=0.5)  # the beta distribution needs a positive parameter
    bound = torch.as_tensor(beta.isf(failure_probability, (k + 1.0).numpy(), rest.numpy()))
    return torch.where(k >= n, 1.0, bound)
