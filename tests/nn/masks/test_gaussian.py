"""Gaussian dropout; what it shares with Monte Carlo dropout is tested there."""

import pytest
import torch

import bayesdrop as bd
from bayesdrop.testing import assert_mean_close, assert_means_equal


@pytest.mark.parametrize("drop_prob", [0.1, 0.5, 0.8])
def test_mean_and_variance_are_those_of_monte_carlo_dropout(drop_prob):
    x = torch.ones(40_000, 2)
    ours = bd.GaussianDropout(2, drop_prob=drop_prob)(x)
    bernoulli = bd.MonteCarloDropout(2, drop_prob=drop_prob)(x)
    assert_mean_close(ours, 1.0)
    assert_mean_close((ours - 1).square(), drop_prob / (1 - drop_prob))
    assert_means_equal((ours - 1).square(), (bernoulli - 1).square())


def test_the_noise_is_normal():
    fn = bd.GaussianDropout(3, drop_prob=0.2).mask_distribution({})
    expected = torch.distributions.Normal(torch.ones(3), 0.5)  # sqrt(0.2 / 0.8)
    z = fn.sample((5,))
    torch.testing.assert_close(fn.log_prob(z), expected.log_prob(z).sum(-1))


def test_no_unit_is_pruned_and_masks_leave_the_unit_interval():
    layer = bd.GaussianDropout(50, drop_prob=0.5)
    assert bool((layer.keep_prob() == 0.5).all()) and bool(layer.kept().all())
    mask = layer.draw_mask({}, torch.ones(100, 50))
    assert layer.mask_kind == "noise" and bool((mask < 0).any()) and bool((mask > 1).any())
