"""What a distribution over many units says about one, and of log-odds in place of a unit."""

from __future__ import annotations

from typing import Any

from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Beta, Independent
from torch.nn.functional import logsigmoid

from bayesdrop.ops.stable import clamp_open_unit


def elements(fn: TorchDistribution) -> Any:
    """Return the distribution of single units, as far as ``to_event`` joined them."""
    base: Any = fn
    while isinstance(base, Independent):
        base = base.base_dist
    return base


def log_prob_at_logit(fn: TorchDistribution, logit: Tensor) -> Tensor:
    r"""Return the log density in :math:`x \in (0, 1)` of what has these log-odds.

    A float sticks at the ends of the interval, where a density with a pole says the most. Families
    other than Beta and those with a ``log_prob_at_logit`` are asked at the float.

    Args:
        fn: A distribution on the unit interval.
        logit: :math:`\log x - \log(1 - x)`, of the shape of a value.
    """
    base = elements(fn)
    if hasattr(base, "log_prob_at_logit"):
        terms = base.log_prob_at_logit(logit)
    elif isinstance(base, Beta):
        c, d = base.concentration1, base.concentration0
        log_beta = c.lgamma() + d.lgamma() - (c + d).lgamma()
        terms = (c - 1) * logsigmoid(logit) + (d - 1) * logsigmoid(-logit) - log_beta
    else:
        return fn.log_prob(clamp_open_unit(logit.sigmoid()))
    return terms.sum(tuple(range(-fn.event_dim, 0))) if fn.event_dim else terms
