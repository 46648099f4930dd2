"""Values that change during training: learning-rate factors, KL weights, temperatures.

A schedule is a function of the epoch (from 0) and the number of epochs. A plain number is a
constant schedule everywhere one is accepted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from bayesdrop.errors import ConfigError

Schedule: TypeAlias = Callable[[int, int], float]


def constant(value: float) -> Schedule:
    """Return a schedule that is ``value`` throughout."""
    return lambda epoch, epochs: value


def steps(*milestones: float, factor: float = 0.1) -> Schedule:
    """Return a schedule that starts at 1 and is multiplied by ``factor`` at each milestone.

    Args:
        *milestones: Integers are epochs; floats in (0, 1) are fractions of the run.
        factor: Multiplier at each milestone.

    Example:
        >>> [round(steps(0.5, 0.8)(epoch, 10), 4) for epoch in (0, 5, 8)]
        [1.0, 0.1, 0.01]
    """
    for milestone in milestones:
        if milestone <= 0 or (isinstance(milestone, float) and milestone >= 1):
            raise ConfigError(
                "schedules.steps",
                expected="positive epochs (int) or fractions of the run (float below 1)",
                got=repr(milestone),
                hint="For example steps(0.5, 0.8) or steps(100, 160).",
            )

    def value(epoch: int, epochs: int) -> float:
        passed = sum(
            epoch >= (milestone if isinstance(milestone, int) else int(milestone * epochs))
            for milestone in milestones
        )
        return factor**passed

    return value


def cosine(final: float = 0.0) -> Schedule:
    """Return a schedule that falls from 1 towards ``final`` along half a cosine."""
    return lambda epoch, epochs: (
        final + (1 - final) * 0.5 * (1 + math.cos(math.pi * epoch / max(1, epochs)))
    )


def linear(start: float, stop: float, until: float = 1.0) -> Schedule:
    """Return a schedule from ``start`` to ``stop``, which it reaches at a fraction of the run.

    Args:
        start: Value in the first epoch.
        stop: Value from the fraction ``until`` of the run on.
        until: Fraction of the run, in (0, 1].
    """

    def value(epoch: int, epochs: int) -> float:
        last = max(1.0, until * epochs - 1)
        return start + (stop - start) * min(1.0, epoch / last)

    return value


def decay(since: float = 0.0) -> Schedule:
    """Return a schedule that is 1 at first and then falls linearly, to reach 0 after the run.

    Args:
        since: Fraction of the run, in [0, 1), at which it begins to fall.

    Example:
        >>> [decay(0.5)(epoch, 4) for epoch in range(4)]
        [1.0, 1.0, 1.0, 0.5]
    """
    if not 0.0 <= since < 1.0:
        raise ConfigError(
            "schedules.decay",
            expected="a fraction of the run in [0, 1)",
            got=repr(since),
            hint="For example decay() or decay(0.5).",
        )
    return lambda epoch, epochs: min(1.0, (epochs - epoch) / (epochs * (1 - since)))


def warm_up(until: float) -> Schedule:
    """Return a KL warm-up: from near 0 to 1 in the first fraction ``until`` of the run."""
    return lambda epoch, epochs: min(1.0, (epoch + 1) / max(1.0, until * epochs))


def as_schedule(value: float | Schedule) -> Schedule:
    """Return ``value`` itself if it is a schedule, else a constant one."""
    return value if callable(value) else constant(float(value))
