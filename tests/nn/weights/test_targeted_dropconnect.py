"""Targeted dropout of weights: candidates of each output unit, and limits."""

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError
from bayesdrop.nn import TargetedDropconnect
from bayesdrop.testing import assert_mean_close


@pytest.mark.parametrize("make", [lambda: nn.Linear(8, 5), lambda: nn.Conv2d(2, 5, 2)])
def test_each_output_unit_has_its_own_smallest_weights_as_candidates(make):
    plain = make()
    layer = TargetedDropconnect(plain, drop_prob=0.4, targeted_share=0.25)
    found = layer.candidates()
    assert found.shape == plain.weight.shape
    size = plain.weight[0].numel()
    assert found.flatten(1).sum(1).tolist() == [size // 4] * 5
    magnitude = plain.weight.abs().flatten(1)
    least = magnitude.sort(1).values[:, size // 4 - 1 : size // 4]
    assert torch.equal(found.flatten(1), magnitude <= least)
    assert torch.equal(layer.keep_prob(), 1 - 0.4 * found)


def test_drawn_weights_are_there_at_the_rate_and_not_rescaled():
    layer = TargetedDropconnect(nn.Linear(8, 3), drop_prob=0.4, targeted_share=0.5)
    drawn = layer.posterior()["weight"].rsample((8000,)).detach()
    assert bool(((drawn == 0) | (drawn == layer.weight)).all())
    assert_mean_close((drawn != 0).double(), layer.keep_prob())
    mean, variance = layer.weight_moments()
    assert_mean_close(drawn, mean)
    assert_mean_close((drawn - mean).square(), variance)


def test_of_small_units_all_weights_are_candidates_each_by_itself():
    plain = nn.Linear(8, 4)
    layer = TargetedDropconnect(plain, granularity="unit", drop_prob=0.66)
    small = plain.weight.norm(dim=1).topk(2, largest=False).indices
    assert torch.equal(layer.candidates().all(1).nonzero().flatten(), small.sort().values)
    drawn = layer.posterior()["weight"].rsample((2000,))[:, small]
    assert_mean_close((drawn == 0).double(), 0.66)
    whole = (drawn == 0).all(2).double().mean()
    assert float(whole) < 0.1  # 0.66 ** 8 = 0.036: hardly ever as a whole, as in the released code


@pytest.mark.parametrize("options", [{"drop_prob": 0.0}, {"targeted_share": 0.0}])
def test_with_no_rate_or_no_candidates_it_is_a_plain_layer(options):
    plain = nn.Linear(6, 3)
    layer, x = TargetedDropconnect(plain, **options), torch.randn(4, 6)
    for mode in (True, False):
        assert torch.equal(layer.train(mode)(x), plain(x))


def test_where_all_are_candidates_it_is_dropconnect_without_the_rescaling():
    plain = nn.Linear(6, 3)
    ours = TargetedDropconnect(plain, drop_prob=0.3, targeted_share=1.0)
    theirs = bd.nn.Dropconnect(plain, drop_prob=0.3)
    torch.manual_seed(1)
    first = ours.posterior()["weight"].rsample()
    torch.manual_seed(1)
    torch.testing.assert_close(first, 0.7 * theirs.posterior()["weight"].rsample())


def test_a_rate_of_one_is_pruning_by_magnitude():
    plain = nn.Linear(8, 3)
    layer, x = TargetedDropconnect(plain, drop_prob=1.0, targeted_share=0.75), torch.randn(4, 8)
    large = plain.weight.abs() >= plain.weight.abs().topk(2, dim=1).values[:, 1:]
    expected = nn.functional.linear(x, plain.weight * large, plain.bias)
    for mode in (True, False):
        torch.testing.assert_close(layer.train(mode)(x), expected)
    assert torch.equal(layer.kept(), large) and torch.equal(layer.to_plain().weight != 0, large)


def test_evaluation_mode_prunes_nothing_or_all_candidates():
    layer = TargetedDropconnect(nn.Linear(8, 3), drop_prob=0.5, targeted_share=0.5).eval()
    assert torch.equal(layer.mean_weight(), layer.weight)
    layer.threshold = 0.9
    assert torch.equal(layer.mean_weight() == 0, layer.candidates())


def test_weight_decay_stays_with_the_weights():
    assert not list(TargetedDropconnect(nn.Linear(3, 2)).mean_parameters())
    assert not list(TargetedDropconnect(nn.Linear(3, 2)).variational_parameters())


def test_bad_arguments_are_named():
    for options in ({"drop_prob": 1.1}, {"targeted_share": -1.0}, {"threshold": 1.0}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            TargetedDropconnect(nn.Linear(3, 2), **options)
    with pytest.raises(ConfigError, match="granularity"):
        TargetedDropconnect(nn.Linear(3, 2), granularity="layer")
