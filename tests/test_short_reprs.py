"""What a notebook cell ends in fits on a screen, and says what is in it."""

import pytest
import torch
from torch import nn

import bayesdrop as bd


def evaluation(likelihood, num_outputs, y, **options):
    network = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, num_outputs))
    bnn = bd.BayesianNetwork(network, likelihood, num_data=100)
    return bd.evaluate(bnn, (torch.randn(len(y), 4), y), num_samples=16, seed=0, **options)


LABELS = torch.arange(30) % 3


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (
            lambda: evaluation(bd.Categorical(), 3, LABELS, ood={"far": 9 * torch.randn(9, 4)}),
            ["Evaluation of 30 examples, 16 posterior samples", "nll: ", " ± ", "far 0."],
        ),
        (
            lambda: evaluation(bd.Gaussian(), 1, torch.randn(30), keep_samples=True),
            ["rmse: ", "crps: ", "coverage of 0.9 intervals: "],
        ),
        (
            lambda: evaluation(bd.Categorical(), 3, LABELS).prediction,
            ["Prediction:", "num_samples: 16", "mean: tensor of shape (30, 3), float64"],
        ),
        (lambda: bd.load_data("digits"), ["train: tensor of shape (", "num_classes: 10"]),
    ],
    ids=["classifier", "regression", "prediction", "data"],
)
def test_a_repr_is_short_and_names_what_is_inside(make, parts):
    text = repr(make())
    assert len(text.splitlines()) <= 16 and max(map(len, text.splitlines())) <= 100
    for part in parts:
        assert part in text
