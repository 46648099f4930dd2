import itertools
import math

import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import nn
from torch.utils.data import DataLoader

import bayesdrop as bd
from bayesdrop.errors import ConfigError, ShapeError
from bayesdrop.nn import StandoutDropout
from bayesdrop.testing import assert_mean_close


def test_a_unit_is_kept_by_the_logistic_of_its_activation():
    layer = StandoutDropout(3, scale=2.0, shift=-0.5)
    x = torch.tensor([[-1.0, 0.0, 3.0]])
    expected = torch.sigmoid(2.0 * x - 0.5)
    torch.testing.assert_close(layer.eval().mean_mask(x), expected)
    for training in (True, False):
        masks = layer.train(training).draw_mask({}, x.expand(20_000, 3))
        assert bool(((masks == 0) | (masks == 1)).all())
        assert_mean_close(masks, expected[0])


def test_scale_zero_is_dropout_that_keeps_the_logistic_of_the_shift():
    layer = StandoutDropout(2, scale=0.0, shift=math.log(3.0))
    assert_mean_close(layer.draw_mask({}, torch.randn(20_000, 2)), 0.75)
    torch.testing.assert_close(layer.keep_prob(), torch.full((2,), 0.75))


def test_a_large_scale_before_an_activation_is_a_rectifier():
    net = nn.Sequential(nn.Linear(4, 5), StandoutDropout(5, scale=1e9), nn.Identity())
    x = torch.randn(6, 4)
    for training in (True, False):
        torch.testing.assert_close(net.train(training)(x), net[0](x).relu())


def test_before_the_activation_the_gate_has_the_layer_s_own_weights():
    plain = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    net = bd.convert(plain, "standout", position="before-activation", scale=0.7, shift=0.2).eval()
    x = torch.randn(6, 4)
    a = plain[0](x)
    expected = plain[2](torch.relu(a * torch.sigmoid(0.7 * a + 0.2)))
    torch.testing.assert_close(net(x), expected)


def test_no_gradient_goes_through_the_gate_into_the_weights():
    linear, layer = nn.Linear(3, 2), StandoutDropout(2, learn_gate=True)
    layer.sample_mask(linear(torch.randn(4, 3))).sum().backward()
    assert linear.weight.grad is None
    assert float(layer.scale.grad.abs()) > 0 and float(layer.shift.grad.abs()) > 0


def test_a_prior_costs_each_example_its_divergence():
    layer = StandoutDropout(3, prior_keep_prob=0.8, kl_scale=2.0)
    x = torch.randn(5, 3)
    bernoulli = torch.distributions.Bernoulli
    expected = torch.distributions.kl_divergence(
        bernoulli(torch.sigmoid(x)), bernoulli(torch.tensor(0.8))
    ).sum(1)
    torch.testing.assert_close(layer.divergence_by_example(x), expected)
    bnn = bd.BayesianNetwork(nn.Sequential(layer, nn.Linear(3, 2)), bd.Categorical(), 50)
    for training in (True, False):
        terms = bnn.train(training).loss(x, torch.zeros(5).long())
        torch.testing.assert_close(terms.kl, 10 * 2.0 * expected.sum())


def test_all_masks_of_each_example_can_be_summed():
    net = nn.Sequential(nn.Linear(4, 3), StandoutDropout(3), nn.ReLU(), nn.Linear(3, 2))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), 50)
    x, y = torch.randn(5, 4), torch.tensor([0, 1, 0, 1, 1])
    a, total = net[0](x), torch.zeros(5)
    for mask in itertools.product((0.0, 1.0), repeat=3):
        z = torch.tensor(mask)
        probs = torch.where(z > 0, a.sigmoid(), a.neg().sigmoid()).prod(1)
        total = total + probs * net[3]((a * z).relu()).softmax(1)[range(5), y]
    expected = -10 * total.log().sum()
    torch.testing.assert_close(bnn.loss(x, y, num_masks="exact").loss, expected)
    elbo = TraceMeanField_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1)
    stock = elbo.differentiable_loss(bnn.model, bnn.guide, x, y, num_masks="exact")
    torch.testing.assert_close(stock, expected)
    priced = bd.BayesianNetwork(StandoutDropout(3, prior_keep_prob=0.5), bd.Categorical(), 50)
    with pytest.raises(ConfigError, match="exact"):  # no bound: see all_masks
        priced.loss(x[:, :3], y, num_masks="exact")


def test_without_a_prior_it_costs_nothing():
    bnn = bd.BayesianNetwork(nn.Sequential(StandoutDropout(3), nn.Linear(3, 2)),
                             bd.Categorical(), 50)  # fmt: skip
    assert float(bnn.loss(torch.randn(5, 3), torch.zeros(5).long()).kl) == 0


@pytest.mark.parametrize("per_input", [False, True])
def test_the_compact_network_has_the_gate(per_input):
    net = nn.Sequential(
        *(nn.Conv2d(1, 6, 3), StandoutDropout(6, unit_dim=-3, threshold=0.4), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(24, 5), StandoutDropout(5, threshold=0.5), nn.Linear(5, 2)),
    ).eval()
    net[1].prune(torch.arange(6) == 2)
    x = torch.randn(7, 1, 4, 4)
    small = bd.compact(net, x, per_input=per_input)
    torch.testing.assert_close(small(x), net(x))
    assert small.get_submodule("0").out_channels == 5


@pytest.mark.parametrize("batch_size", [1, 2])
def test_units_that_no_example_of_any_batch_needs_are_pruned(batch_size):
    net = nn.Sequential(StandoutDropout(3, threshold=0.5), nn.Linear(3, 2))
    x = torch.tensor([[1.0, -1.0, 2.0], [-1.0, -2.0, 1.0]])
    bnn = bd.BayesianNetwork(net, bd.Categorical(), 2)
    assert bd.prune_unused_units(bnn, DataLoader(x, batch_size)) == {"0": 1}
    assert net[0].kept().tolist() == [True, False, True]


def test_units_that_are_pruned_for_good_pay_no_divergence():
    layer, x = StandoutDropout(3, prior_keep_prob=0.9), torch.randn(4, 3)
    Bernoulli = torch.distributions.Bernoulli
    each = torch.distributions.kl_divergence(
        Bernoulli(logits=layer.log_odds(x)), Bernoulli(torch.tensor(0.9))
    )
    torch.testing.assert_close(layer.divergence_by_example(x), each.sum(1))
    layer.prune(torch.arange(3) == 1)
    torch.testing.assert_close(layer.divergence_by_example(x), each[:, [0, 2]].sum(1))
    assert layer.mean_mask(x).any(0).tolist() == [True, False, True]


def test_bad_arguments_are_refused():
    with pytest.raises(ConfigError, match="a finite scale and shift"):
        StandoutDropout(3, scale=math.inf)
    with pytest.raises(ConfigError, match="0 < prior_keep_prob < 1"):
        StandoutDropout(3, prior_keep_prob=1.0)
    with pytest.raises(ShapeError, match="StandoutDropout: expected the layer's input"):
        StandoutDropout(3).mean_mask()
