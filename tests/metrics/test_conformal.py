"""Conformal sets and intervals hold the truth as often as asked, whatever the network."""

import json
import math

import pytest
import torch

from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.metrics import conformal_intervals, conformal_sets
from bayesdrop.metrics.conformal import conformal_rank
from bayesdrop.testing import assert_mean_close


def classified(rows, sharpness=1.0):
    """Probabilities that are over-confident where ``sharpness`` is above 1, and labels."""
    logits = torch.randn(rows, 4)
    labels = torch.distributions.Categorical(logits=logits).sample()
    return (sharpness * logits).softmax(1), labels


@pytest.mark.parametrize("sharpness", [0.2, 1.0, 5.0])
def test_sets_hold_the_label_as_often_as_asked_however_wrong_the_network(sharpness):
    # Continuous scores: on average over validation sets exactly 9 / 10 for 99 examples.
    covered = []
    for _ in range(400):
        sets = conformal_sets(*classified(99, sharpness), miscoverage=0.1)
        p, y = classified(200, sharpness)
        covered.append(sets.predict(p)[range(200), y].double().mean())
    assert_mean_close(torch.stack(covered)[:, None], torch.tensor([0.9]))


@pytest.mark.parametrize("scaled", [False, True])
def test_intervals_hold_the_target_as_often_as_asked(scaled):
    covered = []
    for _ in range(400):
        noise = torch.rand(300) + 0.1
        y = torch.randn(300) * noise
        scale = noise.square() if scaled else None  # a wrong one
        fitted = conformal_intervals(
            torch.zeros(99),
            y[:99],
            miscoverage=0.2,
            scale=None if scale is None else scale[:99],
        )
        new = None if scale is None else scale[99:]
        lower, upper = fitted.predict(torch.zeros(201), scale=new)
        covered.append(((lower <= y[99:]) & (y[99:] <= upper)).double().mean())
    assert_mean_close(torch.stack(covered)[:, None], torch.tensor([0.8]))


def test_ties_only_add_coverage():
    p = torch.tensor([[0.7, 0.3]]).expand(50, 2)
    sets = conformal_sets(p, torch.zeros(50).long(), miscoverage=0.1)
    assert sets.predict(p)[:, 0].all() and not sets.predict(p)[:, 1].any()


def test_a_scale_makes_intervals_wider_where_it_is_larger():
    scale = torch.linspace(0.1, 2.0, 100)
    y = scale * torch.randn(100)
    fitted = conformal_intervals(torch.zeros(100), y, miscoverage=0.1, scale=scale)
    lower, upper = fitted.predict(torch.ones(2, 1), scale=torch.tensor([1.0, 2.0]))
    assert lower.shape == (2, 1)
    width = (upper - lower)[:, 0]
    assert float(width[1]) == pytest.approx(2 * float(width[0]))
    assert float(width[0]) == pytest.approx(2 * fitted.quantile)


def test_samples_are_averaged_and_columns_taken():
    samples = torch.randn(5, 60, 3).softmax(-1)
    labels = torch.arange(60) % 3
    assert conformal_sets(samples, labels, miscoverage=0.2) == conformal_sets(
        samples.mean(0), labels, miscoverage=0.2
    )
    mean, y = torch.randn(30, 1), torch.randn(30)
    fitted = conformal_intervals(mean, y, miscoverage=0.1)
    assert fitted == conformal_intervals(mean[:, 0], y[:, None].numpy(), miscoverage=0.1)
    assert set(json.loads(json.dumps(fitted.to_dict()))) >= {"quantile", "miscoverage"}


@pytest.mark.parametrize(
    ("count", "miscoverage", "rank"),
    [(9, 0.1, 9), (19, 0.1, 18), (99, 0.01, 99), (999, 0.1, 900), (1, 0.5, 1), (29, 0.3, 21)],
)
def test_the_rank_is_that_of_the_formula(count, miscoverage, rank):
    assert conformal_rank("test", count, miscoverage) == rank
    assert rank == math.ceil(round((count + 1) * (1 - miscoverage), 9))


def test_bad_input_is_refused():
    p, y = classified(20)
    with pytest.raises(DataError, match="at least 9 examples for a rate of 0.1, got 8"):
        conformal_sets(p[:8], y[:8], miscoverage=0.1)
    with pytest.raises(ConfigError, match="conformal_sets: expected 0 < miscoverage < 1"):
        conformal_sets(p, y, miscoverage=90)
    with pytest.raises(ShapeError, match="conformal_sets: expected 20 labels"):
        conformal_sets(p, y[:1], miscoverage=0.1)
    mean = torch.zeros(20)
    with pytest.raises(ShapeError, match=r"mean of shape \(N,\) or \(N, 1\), got \(20, 2\)"):
        conformal_intervals(torch.zeros(20, 2), mean, miscoverage=0.1)
    with pytest.raises(ShapeError, match="expected 20 targets, .* got 19"):
        conformal_intervals(mean, mean[1:], miscoverage=0.1)
    with pytest.raises(DataError, match="expected 20 scales > 0, got 20, from 0 up"):
        conformal_intervals(mean, mean, miscoverage=0.1, scale=mean)
    with pytest.raises(DataError, match="finite"):
        conformal_intervals(mean, mean + math.nan, miscoverage=0.1)
