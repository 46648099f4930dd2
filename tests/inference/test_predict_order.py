"""Predictions of DataLoaders whose samplers choose which rows there are, and in which order."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import bayesdrop as bd
from bayesdrop.errors import DataWarning

X = torch.randn(7, 4)

OTHER_ORDER = {
    "weighted": lambda data: {"sampler": WeightedRandomSampler(torch.ones(7), 7)},
    "random subset": lambda data: {"sampler": SubsetRandomSampler(range(5))},
    "random batches": lambda data: {"batch_sampler": BatchSampler(RandomSampler(data), 3, False)},
    "whole batches": lambda data: {
        "batch_size": None, "sampler": BatchSampler(RandomSampler(data), 3, False),
    },
    "backwards": lambda data: {"sampler": list(range(6, -1, -1))},
}  # fmt: skip
IN_ORDER = {
    "default": lambda data: {},
    "list": lambda data: {"sampler": list(range(7))},
    "batches": lambda data: {"batch_sampler": BatchSampler(SequentialSampler(data), 3, False)},
}


def predict(options, *targets):
    net = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 3))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=7)
    data = TensorDataset(X, *targets)
    return bd.predict(bnn, DataLoader(data, **options(data)), num_samples=2)


@pytest.mark.parametrize("name", OTHER_ORDER)
def test_rows_that_a_sampler_chooses_are_warned_of_unless_targets_tell_them_apart(name):
    with pytest.warns(DataWarning, match="in the order of the data.*Pass shuffle=False and no"):
        predict(OTHER_ORDER[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict(OTHER_ORDER[name], torch.arange(7) % 3)


@pytest.mark.parametrize("name", IN_ORDER)
def test_rows_in_order_are_not_warned_of(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(predict(IN_ORDER[name]).mean) == 7


def test_a_batch_sampler_that_drops_the_last_batch_is_warned_of():
    with pytest.warns(DataWarning, match="expected all 7 examples, got 6"):
        predict(lambda data: {"batch_sampler": BatchSampler(SequentialSampler(data), 3, True)})
