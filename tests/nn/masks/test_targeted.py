"""Targeted dropout of units: who is a candidate, how often it is dropped, and its limits."""

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError
from bayesdrop.nn import TargetedDropout
from bayesdrop.testing import assert_mean_close


def masks(norms, dim=1, **options):
    """Return a mask whose units have weights of these norms, and their layer."""
    norms = torch.as_tensor(norms, dtype=torch.get_default_dtype())
    linear = nn.Linear(len(norms), 3) if dim == 1 else nn.Linear(3, len(norms))
    with torch.no_grad():
        by_unit = linear.weight.transpose(0, dim)
        by_unit.mul_(norms[:, None] / by_unit.norm(dim=1, keepdim=True))
    layer = TargetedDropout(len(norms), **options)
    layer.bind_weights(linear, dim)
    return layer, linear


@pytest.mark.parametrize("dim", [0, 1])
def test_the_smallest_units_are_candidates_and_dropped_at_the_rate(dim):
    layer, _ = masks([3.0, 1.0, 2.0, 5.0, 4.0], dim, drop_prob=0.3, targeted_share=0.5)
    assert layer.candidates().tolist() == [False, True, True, False, False]
    torch.testing.assert_close(layer.keep_prob(), torch.tensor([1.0, 0.7, 0.7, 1.0, 1.0]))
    for mode in (True, False):
        z = layer.train(mode).draw_mask({}, torch.ones(8000, 5))
        assert bool(((z == 0) | (z == 1)).all())  # nothing is rescaled
        assert_mean_close(z, layer.keep_prob())


@pytest.mark.parametrize(("alpha", "gamma"), [(0.5, 0.5), (0.33, 0.75), (0.9, 0.2)])
def test_what_is_kept_of_all_is_one_less_the_product(alpha, gamma):
    layer, _ = masks(torch.rand(100), drop_prob=alpha, targeted_share=gamma)
    torch.testing.assert_close(layer.keep_prob().mean(), torch.tensor(1 - alpha * gamma))


def test_candidates_follow_the_weights():
    layer, linear = masks([1.0, 2.0], targeted_share=0.5)
    assert layer.candidates().tolist() == [True, False]
    with torch.no_grad():
        linear.weight[:, 1] = 0.0
    assert layer.candidates().tolist() == [False, True]


def test_gradients_reach_the_weights_of_kept_units_alone():
    layer, linear = masks([1.0, 2.0, 3.0, 4.0], drop_prob=1.0, targeted_share=0.5)
    linear(layer(torch.ones(7, 4))).sum().backward()
    assert (linear.weight.grad != 0).all(0).tolist() == [False, False, True, True]
    assert not bool(linear.weight.grad[:, :2].any())


# -- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"drop_prob": 0.0}, {"targeted_share": 0.0}])
def test_with_no_rate_or_no_candidates_it_is_the_plain_network(options):
    layer, _ = masks([1.0, 2.0, 3.0], **options)
    x = torch.randn(50, 3)
    assert torch.equal(layer(x), x) and torch.equal(layer.eval()(x), x)


def test_where_all_are_candidates_it_is_dropout_without_the_rescaling():
    layer, _ = masks([1.0, 2.0, 3.0], drop_prob=0.3, targeted_share=1.0)
    x = torch.ones(20_000, 3)
    ours, torchs = layer(x), nn.functional.dropout(x, 0.3) * 0.7
    assert_mean_close(ours, torchs.double().mean().round(decimals=1).expand(3))
    torch.testing.assert_close(ours.unique(), torchs.unique())
    assert_mean_close(ours[:, 0] * ours[:, 1], 0.49)  # each unit by itself


def test_a_rate_of_one_is_pruning_by_magnitude_and_compact_takes_it_out():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    options = {"drop_prob": 1.0, "targeted_share": 0.75, "input_dropout": False}
    pruned = bd.convert(net, "targeted", **options).eval()
    x, norms = torch.randn(5, 4), net[2].weight.norm(dim=0)
    two = torch.zeros(8).index_fill(0, norms.topk(2).indices, 1.0)
    expected = net[2](net[1](net[0](x)) * two)
    torch.testing.assert_close(pruned(x), expected)
    torch.testing.assert_close(pruned.train()(x), expected)
    small = bd.compact(pruned, x)
    assert small.get_submodule("2").in_features == 2
    torch.testing.assert_close(small(x), expected)


def test_evaluation_mode_prunes_nothing_or_all_candidates():
    layer, _ = masks([1.0, 2.0, 3.0], drop_prob=0.4, targeted_share=0.67)
    assert layer.mean_mask().tolist() == [1.0, 1.0, 1.0]
    layer.threshold = 0.7
    assert layer.mean_mask().tolist() == [0.0, 0.0, 1.0]


def test_without_a_layer_all_units_are_candidates():
    assert TargetedDropout(3, targeted_share=0.4).candidates().all()
    assert not TargetedDropout(3, targeted_share=0.0).candidates().any()


def test_rate_and_share_can_be_ramped_up():
    net = bd.convert(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), "targeted")
    bnn = bd.BayesianNetwork(net, bd.Categorical(), 10)
    buffers = {
        "drop_prob": bd.schedules.linear(0.0, 0.6),
        "targeted_share": bd.schedules.ramp((0.0, 0.0), (0.5, 0.76), (1.0, 0.8)),
    }
    data = torch.randn(10, 3), torch.arange(10) % 2
    history = bd.fit(bnn, data, epochs=5, buffers=buffers, progress=False).history
    assert [r["drop_prob"] for r in history] == pytest.approx([0.0, 0.15, 0.3, 0.45, 0.6])
    assert [r["targeted_share"] for r in history] == pytest.approx([0.0, 0.38, 0.76, 0.78, 0.8])


def test_bad_arguments_are_named():
    for options in ({"drop_prob": 1.1}, {"drop_prob": -0.1}, {"targeted_share": 2.0}):
        with pytest.raises(ConfigError, match="drop_prob"):
            TargetedDropout(3, **options)
    with pytest.raises(ConfigError, match="3 inputs"):
        TargetedDropout(3).bind_weights(nn.Linear(4, 3), 1)
