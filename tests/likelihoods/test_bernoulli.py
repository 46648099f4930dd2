"""Laws of labels that are missing among several of an example."""

import pytest
import torch
from torch.nn import functional as F

import bayesdrop as bd
from bayesdrop.errors import ConfigError, DataError


def test_missing_labels_change_neither_the_loss_nor_its_gradient():
    likelihood = bd.Bernoulli(ignore_index=-1)
    output = torch.randn(5, 4, requires_grad=True)
    y = torch.randint(-1, 2, (5, 4))
    there = y >= 0
    loss = likelihood.nll(output, y)
    loss.backward()
    expected = F.binary_cross_entropy_with_logits(
        output[there], y[there].to(output), reduction="sum"
    )
    torch.testing.assert_close(loss, expected)
    assert bool((output.grad[~there] == 0).all()) and bool((output.grad[there] != 0).all())


def test_entropies_of_an_examples_labels_are_summed_and_their_confidences_averaged():
    likelihood, p = bd.Bernoulli(), torch.tensor([[0.9, 0.4], [0.5, 1.0]])
    expected = torch.distributions.Bernoulli(p).entropy().sum(1)
    torch.testing.assert_close(likelihood.entropy(p), expected)
    torch.testing.assert_close(likelihood.confidence(p), torch.tensor([0.75, 0.75]))


def test_draws_are_never_missing():
    fn = bd.Bernoulli(ignore_index=-1).distribution(torch.zeros(5, 4))
    draws = fn.expand((50, 5)).sample()
    assert draws.unique().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("ignore_index", [0, 1, True, 0.5, "none"])
def test_a_label_for_missing_ones_is_another_integer(ignore_index):
    with pytest.raises(ConfigError, match="ignore_index other than 0 and 1"):
        bd.Bernoulli(ignore_index=ignore_index)


@pytest.mark.parametrize(
    ("options", "value", "message"),
    [
        ({}, -1, r"targets of 0 and 1, got -1 in row .*bd.Bernoulli\(ignore_index=...\)"),
        ({"ignore_index": -1}, -2, "targets of 0 and 1, and -1, got -2 in row"),
        ({"ignore_index": -1}, float("nan"), "targets of 0 and 1, and -1, got nan in row"),
    ],
)
def test_a_target_that_is_no_label_is_refused(options, value, message):
    y = torch.ones(3, 2)
    y[1, 0] = value
    with pytest.raises(DataError, match=message):
        bd.Bernoulli(**options).nll(torch.zeros(3, 2), y)
