"""Values that change during training: learning-rate factors, KL weights, temperatures.

A schedule is a function of the epoch (from 0) and the number of epochs. A plain number is a
constant schedule everywhere one is accepted. Those made here can be pickled, since they are
functions of this module with their first arguments given.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch

from bayesdrop.errors import ConfigError
from bayesdrop.inference.settings import require_function
from bayesdrop.nn.arguments import is_real, is_whole

Schedule: TypeAlias = Callable[[int, int], float]

_LEAVE = (
    "For a scheduler of torch's pass schedule=(), which leaves the rates, its "
    "optimizer, and callbacks=[lambda bnn, record: scheduler.step()]."
)


def constant(value: float) -> Schedule:
    """Return a schedule that is ``value`` throughout."""
    _require("constant", "value", value, -math.inf, math.inf)
    return partial(_constant, value)


def _constant(value: float, epoch: int, epochs: int) -> float:
    return value


def steps(*milestones: float, factor: float = 0.1) -> Schedule:
    """Return a schedule that starts at 1 and is multiplied by ``factor`` at each milestone.

    Args:
        *milestones: Integers are epochs; floats in (0, 1) are fractions of the run. None comes
            before the first epoch has ended.
        factor: Multiplier at each milestone.

    Example:
        >>> [round(steps(0.5, 0.8)(epoch, 10), 4) for epoch in (0, 5, 8)]
        [1.0, 0.1, 0.01]
    """
    _require("steps", "factor", factor, 0.0, math.inf)
    for milestone in milestones:
        if not _is_milestone(milestone):
            raise ConfigError(
                "schedules.steps",
                expected="positive epochs (int) or fractions of the run (float below 1)",
                got=repr(milestone),
                hint="For example steps(0.5, 0.8) or steps(100, 160).",
            )
    return partial(_steps, milestones, factor)


def _steps(milestones: Sequence[float], factor: float, epoch: int, epochs: int) -> float:
    return factor ** _passed(milestones, epoch, epochs)


def piecewise(values: Sequence[float], milestones: Sequence[float]) -> Schedule:
    """Return a schedule that is each value in turn, and changes at each milestone.

    Args:
        values: One more than there are milestones.
        milestones: Increasing; integers are epochs, floats in (0, 1) are fractions of the run.

    Example:
        A network that is plain at first, then plastic, then hardens:

        >>> slope = piecewise((5000.0, 7.0, 5000.0), (0.2, 0.7))
        >>> [slope(epoch, 10) for epoch in (0, 1, 2, 6, 7)]
        [5000.0, 5000.0, 7.0, 7.0, 5000.0]
    """
    for value in values:
        _require("piecewise", "each value", value, -math.inf, math.inf)
    valid = len(values) == len(milestones) + 1 and all(map(_is_milestone, milestones))
    # Epochs and fractions can be told apart only in a run.
    kinds = ([m for m in milestones if (m < 1) == fraction] for fraction in (True, False))
    if not valid or any(a >= b for kind in kinds for a, b in itertools.pairwise(kind)):
        raise ConfigError(
            "schedules.piecewise",
            expected="positive, increasing milestones, and one value more",
            got=f"values={values!r} and milestones={milestones!r}",
            hint="For example piecewise((5000.0, 7.0, 5000.0), (0.2, 0.7)).",
        )
    return partial(_piecewise, tuple(values), tuple(milestones))


def _piecewise(
    values: Sequence[float], milestones: Sequence[float], epoch: int, epochs: int
) -> float:
    return values[_passed(milestones, epoch, epochs)]


def cosine(final: float = 0.0) -> Schedule:
    """Return a schedule that falls from 1 towards ``final`` >= 0 along half a cosine."""
    _require("cosine", "final", final, 0.0, math.inf)
    return partial(_cosine, final)


def _cosine(final: float, epoch: int, epochs: int) -> float:
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * epoch / max(1, epochs)))


def linear(start: float, stop: float, until: float = 1.0) -> Schedule:
    """Return a schedule from ``start`` to ``stop``, which it reaches at a fraction of the run.

    Args:
        start: Value in the first epoch.
        stop: Value from the fraction ``until`` of the run on.
        until: Fraction of the run, in (0, 1].
    """
    for name, number in (("start", start), ("stop", stop)):
        _require("linear", name, number, -math.inf, math.inf)
    _require("linear", "until", until, 0.0, 1.0)
    return partial(_linear, start, stop, until)


def _linear(start: float, stop: float, until: float, epoch: int, epochs: int) -> float:
    last = max(1.0, until * epochs - 1)
    return start + (stop - start) * min(1.0, epoch / last)


def ramp(*points: tuple[float, float]) -> Schedule:
    """Return a schedule that is linear between points: a fraction of the run, and a value there.

    Args:
        *points: At least one, with rising fractions in [0, 1]; before the first and behind the
            last the schedule is constant. The last epoch is at 1.

    Example:
        >>> share = ramp((0.0, 0.0), (0.5, 0.95), (1.0, 1.0))
        >>> [round(share(epoch, 5), 3) for epoch in range(5)]
        [0.0, 0.475, 0.95, 0.975, 1.0]
    """
    for point in points:
        _require("ramp", "a fraction", point[0], 0.0, 1.0)
        _require("ramp", "a value", point[1], -math.inf, math.inf)
    fractions, values = zip(*points, strict=True) if points else ((), ())
    if not points or any(b <= a for a, b in itertools.pairwise(fractions)):
        raise ConfigError(
            "schedules.ramp",
            expected="one or more points (fraction, value), whose fractions rise",
            got=repr(points),
            hint="For example ramp((0.0, 0.0), (0.5, 0.95), (1.0, 1.0)).",
        )
    return partial(_ramp, fractions, values)


def _ramp(fractions: Sequence[float], values: Sequence[float], epoch: int, epochs: int) -> float:
    return float(np.interp(epoch / max(1, epochs - 1), fractions, values))


def decay(since: float = 0.0) -> Schedule:
    """Return a schedule that is 1 at first and then falls linearly, to reach 0 after the run.

    Args:
        since: Fraction of the run, in [0, 1), at which it begins to fall.

    Example:
        >>> [decay(0.5)(epoch, 4) for epoch in range(4)]
        [1.0, 1.0, 1.0, 0.5]
    """
    if not is_real(since) or not 0.0 <= since < 1.0:
        raise ConfigError(
            "schedules.decay",
            expected="a fraction of the run in [0, 1)",
            got=repr(since),
            hint="For example decay() or decay(0.5).",
        )
    return partial(_decay, since)


def _decay(since: float, epoch: int, epochs: int) -> float:
    return min(1.0, (epochs - epoch) / (epochs * (1 - since)))


def warm_up(until: float) -> Schedule:
    """Return a KL warm-up: from near 0 to 1 in the first fraction ``until``, in [0, 1]."""
    _require("warm_up", "until", until, 0.0, 1.0)
    return partial(_warm_up, until)


def _warm_up(until: float, epoch: int, epochs: int) -> float:
    return min(1.0, (epoch + 1) / max(1.0, until * epochs))


def as_schedule(value: float | Schedule, name: str = "schedule") -> Schedule:
    """Return ``value`` itself if it is a schedule, else a constant one.

    Args:
        value: A function of the epoch and the number of epochs, or a number.
        name: What it is for, for the message.

    Raises:
        ConfigError: If it is neither.
    """
    if is_real(value):
        return constant(float(value))  # type: ignore[arg-type]
    if not callable(value):
        raise ConfigError(
            "fit",
            expected=f"{name} to be a number, or a function of (epoch, epochs)",
            got=repr(value),
            hint="For example bd.schedules.linear(1.0, 0.1).",
        )
    require_function(f"{name}", value, "schedule(epoch, epochs)", 2)
    return value


def as_rate_schedule(value: Schedule | Sequence[float]) -> Schedule:
    """Return the schedule of the learning rates: ``steps`` of a sequence, or a function.

    Raises:
        ConfigError: If it is neither. A number is none: it may mean a factor or an epoch.
    """
    kind = value if isinstance(value, type) else type(value)
    if issubclass(kind, torch.optim.lr_scheduler.LRScheduler):
        raise ConfigError(
            "fit",
            expected="schedule to be a function of (epoch, epochs), or a sequence of milestones",
            got=f"torch's {kind.__name__}",
            hint=_LEAVE,
        )
    if isinstance(value, Sequence) and not isinstance(value, str):
        return steps(*value)
    if not callable(value):
        raise ConfigError(
            "fit",
            expected="schedule to be a function of (epoch, epochs), or a sequence of milestones",
            got=repr(value),
            hint="For example (0.5, 0.8) or bd.schedules.cosine(); () leaves the rates.",
        )
    return as_schedule(value)


def rates_were_changed(given: Sequence[float], found: Sequence[float]) -> ConfigError:
    """Return the error for learning rates that someone else has changed between two epochs."""
    old, new = next(pair for pair in zip(given, found, strict=True) if pair[0] != pair[1])
    return ConfigError(
        "fit",
        expected="learning rates that only schedule changes",
        got=f"{new:g} after an epoch of {old:g}, which would have no effect",
        hint=_LEAVE,
    )


def value_of(
    schedule: Schedule, name: str, epoch: int, epochs: int, *, lower: float = -math.inf
) -> float:
    """Return a schedule's value in an epoch.

    Args:
        schedule: The schedule.
        name: What it is for, for the message.
        epoch: The epoch, from 0.
        epochs: Number of epochs.
        lower: Least value.

    Raises:
        ConfigError: If it is no number, not finite, or less.
    """
    value: Any = schedule(epoch, epochs)
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    finite = is_real(value) and math.isfinite(value)
    if not finite or value < lower:
        least = f" of at least {lower:g}" if finite else ""
        raise ConfigError(
            "fit",
            expected=f"the schedule {name!r} to give finite numbers{least}",
            got=f"{value!r} in epoch {epoch + 1} of {epochs}",
            hint="A schedule is called with the epoch, from 0, and the number of epochs.",
        )
    return float(value)


def _passed(milestones: Sequence[float], epoch: int, epochs: int) -> int:
    return sum(epoch >= (m if m >= 1 else max(1, int(m * epochs))) for m in milestones)


def _is_milestone(value: Any) -> bool:
    return is_real(value) and value > 0 and (is_whole(value) or value < 1)


def _require(who: str, name: str, value: Any, low: float, high: float) -> None:
    if not is_real(value) or not math.isfinite(value) or not low <= value <= high:
        bounds = f" in [{low:g}, {high:g}]" if math.isfinite(high) else f" of at least {low:g}"
        raise ConfigError(
            f"schedules.{who}",
            expected=f"{name} to be a finite number{'' if low == -math.inf else bounds}",
            got=f"{name}={value!r}",
            hint="See its docstring.",
        )
