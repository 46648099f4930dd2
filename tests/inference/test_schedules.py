"""Schedules: their values, and arguments that give none."""

import pickle

import pytest

from bayesdrop import schedules
from bayesdrop.errors import ConfigError

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (schedules.constant(0.3), [0.3] * 5),
        (schedules.steps(), [1.0] * 5),
        (schedules.steps(0.5, 4), [1.0, 1.0, 0.1, 0.1, 0.01]),
        (schedules.steps(1, factor=0.0), [1.0, 0.0, 0.0, 0.0, 0.0]),
        (schedules.piecewise((4.0, 2.0, 3.0), (0.4, 3)), [4.0, 4.0, 2.0, 3.0, 3.0]),
        (schedules.linear(1.0, 0.2), [1.0, 0.8, 0.6, 0.4, 0.2]),
        (schedules.linear(1.0, 0.2, until=0.6), [1.0, 0.6, 0.2, 0.2, 0.2]),
        (schedules.ramp((0.5, 2.0)), [2.0] * 5),
        (schedules.ramp((0.25, 0.0), (0.75, 1.0)), [0.0, 0.0, 0.5, 1.0, 1.0]),
        (schedules.decay(), [1.0, 0.8, 0.6, 0.4, 0.2]),
        (schedules.warm_up(0.4), [0.5, 1.0, 1.0, 1.0, 1.0]),
        (schedules.warm_up(0), [1.0] * 5),
        (schedules.cosine(1.0), [1.0] * 5),
        (schedules.cosine(0.2), [1.0, 0.92360680, 0.72360680, 0.47639320, 0.27639320]),
    ],
)
def test_values_by_epoch(schedule, expected):
    assert [schedule(epoch, 5) for epoch in range(5)] == pytest.approx(expected)
    # An estimator that has one is pickled with it.
    again = pickle.loads(pickle.dumps(schedule))
    assert [again(epoch, 5) for epoch in range(5)] == pytest.approx(expected)


def test_the_first_epoch_of_a_short_run_is_before_every_milestone():
    assert [schedules.steps(0.5, 0.8)(epoch, 1) for epoch in range(1)] == [1.0]
    assert [schedules.steps(0.1)(epoch, 3) for epoch in range(3)] == pytest.approx([1, 0.1, 0.1])


@pytest.mark.parametrize(
    "make",
    [
        lambda: schedules.constant("1"),
        lambda: schedules.constant(NAN),
        lambda: schedules.steps(0),
        lambda: schedules.steps(-0.5),
        lambda: schedules.steps(1.0),
        lambda: schedules.steps(NAN),
        lambda: schedules.steps("0.5"),
        lambda: schedules.steps([0.5]),
        lambda: schedules.steps(0.5, factor=-1.0),
        lambda: schedules.steps(0.5, factor=NAN),
        lambda: schedules.cosine(-1.0),
        lambda: schedules.cosine(INF),
        lambda: schedules.linear("a", 1.0),
        lambda: schedules.linear(1.0, NAN),
        lambda: schedules.linear(1.0, 0.0, until=2.0),
        lambda: schedules.piecewise((1.0, 2.0), (0,)),
        lambda: schedules.piecewise((1.0, 2.0), ("3",)),
        lambda: schedules.piecewise((1.0, 2.0, 3.0), (0.7, 0.2)),
        lambda: schedules.piecewise((1.0, 2.0, 3.0), (4, 4)),
        lambda: schedules.piecewise((1.0, 2.0), (0.2, 0.7)),
        lambda: schedules.ramp(),
        lambda: schedules.ramp((0.5, 1.0), (0.5, 2.0)),
        lambda: schedules.ramp((0.5, NAN)),
        lambda: schedules.ramp((2.0, 1.0)),
        lambda: schedules.decay(1.0),
        lambda: schedules.decay(NAN),
        lambda: schedules.decay("0"),
        lambda: schedules.warm_up(12),
        lambda: schedules.warm_up(-0.1),
        lambda: schedules.warm_up(None),
    ],
)
def test_an_argument_without_values_is_refused(make):
    with pytest.raises(ConfigError, match="schedules"):
        make()
