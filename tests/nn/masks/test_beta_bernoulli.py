import math

import pytest
import torch
from pyro.distributions import Beta
from torch import nn

import bayesdrop as bd
from bayesdrop import BetaBernoulliDropout
from bayesdrop.errors import ConfigError, ShapeError
from bayesdrop.nn import PosteriorSample, layers, make, register
from bayesdrop.testing import assert_mean_close, assert_means_equal


def concentrated(rate, num_units, **options):
    """A layer whose posterior of pi has median ``rate``, with the least spread."""
    b = 50.0
    a = math.log(-math.expm1(-math.log(2) / b)) / math.log(rate)
    return BetaBernoulliDropout(num_units, init_concentration1=a, init_concentration0=b, **options)


def ones(layer, rows):
    return layer(torch.ones(rows, layer.num_units)).detach()


# -- golden values --------------------------------------------------------------------------------


PAPER = math.log1p(math.exp(-1.0))  # softplus(-1), for LeNet


def test_papers_initial_posterior_is_golden():
    layer = BetaBernoulliDropout(3, init_concentration1=PAPER)
    q = layer.posterior()["pi"].base_dist
    torch.testing.assert_close(q.concentration1, torch.full((3,), 0.3133), rtol=0, atol=5e-5)
    torch.testing.assert_close(q.concentration0, torch.ones(3))
    # Kumaraswamy(a, 1) is Beta(a, 1).
    torch.testing.assert_close(layer.keep_prob(), torch.full((3,), PAPER / (1 + PAPER)))


def test_papers_initial_kl_is_golden():
    layer = BetaBernoulliDropout(3, init_concentration1=PAPER)
    # (a - c) / a (-gamma - psi(1) - 1) + log(a / c) with psi(1) = -gamma.
    per_unit = -(PAPER - 1e-4) / PAPER + math.log(PAPER / 1e-4)
    torch.testing.assert_close(layer.kl_divergence(), torch.tensor(3 * per_unit))
    assert round(per_unit, 4) == 7.0499


def test_units_start_open_by_default():
    torch.testing.assert_close(BetaBernoulliDropout(3).keep_prob(), torch.full((3,), 5 / 6))


def test_kl_scale_multiplies_the_kl():
    torch.testing.assert_close(
        BetaBernoulliDropout(3, kl_scale=16.0).kl_divergence(),
        16.0 * BetaBernoulliDropout(3).kl_divergence(),
    )


def test_kl_is_zero_where_posterior_and_prior_meet():
    layer = BetaBernoulliDropout(3, prior_concentration1=2.0, init_concentration1=2.0)
    torch.testing.assert_close(layer.kl_divergence(), torch.tensor(0.0))


def test_prior_is_the_beta_asked_for():
    prior = BetaBernoulliDropout(3, prior_concentration1=0.2, prior_concentration0=3.0).prior()
    value = torch.tensor([0.1, 0.5, 0.8])
    expected = Beta(0.2, 3.0).log_prob(value).sum()
    torch.testing.assert_close(prior["pi"].log_prob(value), expected)


# -- limit laws -----------------------------------------------------------------------------------


def test_temperature_to_zero_is_bernoulli():
    layer = BetaBernoulliDropout(3, temperature=1e-7)
    latents = {"pi": torch.tensor([0.1, 0.5, 0.9])}
    z = layer.mask_distribution(latents).rsample((20_000,))
    assert bool(((z < 1e-12) | (z > 1 - 1e-12)).double().mean() > 0.999)
    layer.eval()
    exact = layer.mask_distribution(latents).sample((20_000,))
    assert bool(((exact == 0) | (exact == 1)).all())
    for samples in (z, exact):
        assert_mean_close(samples.round(), latents["pi"])


def test_posterior_at_one_keeps_everything():
    layer = BetaBernoulliDropout(5, init_concentration1=1e5)
    assert bool((ones(layer, 1000) > 0.999).double().mean() > 0.999)
    torch.testing.assert_close(layer.keep_prob(), torch.ones(5), rtol=1e-4, atol=0)


@pytest.mark.parametrize("rate", [0.9, 0.99, 0.999])
def test_concentrated_posterior_is_mc_dropout(rate):
    layer = concentrated(rate, 4, temperature=1e-7)
    q = layer.posterior()["pi"]
    keep, variance = float(layer.keep_prob()[0].detach()), float(q.variance[0].detach())
    # The share of the mask's variance that comes from pi, hence the correlation between examples.
    assert variance / (keep * (1 - keep)) < 0.02
    assert abs(keep - rate) < 2 * variance**0.5
    pi = q.rsample((50_000,))
    ours = layer.mask_distribution({"pi": pi}).rsample() / keep
    dropout = nn.functional.dropout(torch.ones_like(ours), p=1 - keep)
    assert_means_equal(ours, dropout)
    assert_means_equal((ours - 1).square(), (dropout - 1).square())


def test_keep_prob_equals_the_sampled_mean_of_pi():
    layer = BetaBernoulliDropout(4)
    nn.init.normal_(layer.location)
    nn.init.normal_(layer.log_shape)
    pi = layer.posterior()["pi"].rsample((50_000,))
    assert_mean_close(pi, layer.keep_prob())
    layer.eval()
    assert_mean_close(layer.mask_distribution({"pi": pi}).sample(), layer.keep_prob())


# -- masks ----------------------------------------------------------------------------------------


def test_threshold_zeroes_the_mean_mask():
    layer = BetaBernoulliDropout(2, threshold=0.2).eval()
    with torch.no_grad():
        layer.location[0] = -4.0
    assert layer.kept().tolist() == [False, True]
    assert layer.mean_mask()[0] == 0
    assert layer.mean_mask()[1] == layer.keep_prob()[1]
    torch.testing.assert_close(ones(layer, 1)[0], layer.mean_mask().detach())


def test_evaluation_mode_is_deterministic():
    layer = BetaBernoulliDropout(5).eval()
    assert torch.equal(ones(layer, 3), ones(layer, 3))


@pytest.mark.parametrize("shape", [(6, 40), (6, 7, 40), (6, 2, 3, 40)])
def test_examples_have_their_own_mask_shared_along_other_dimensions(shape):
    layer = concentrated(0.99, 40)
    layer.location.data.fill_(1.0)
    y = layer(torch.ones(shape)).detach().reshape(6, -1, 40)
    assert torch.equal(y, y[:, :1].expand_as(y))
    assert not torch.equal(y[0], y[1])


@pytest.mark.parametrize("leading", [(6,), (6, 2)])
def test_maps_share_their_mask_over_space(leading):
    layer = BetaBernoulliDropout(5, unit_dim=-3, init_concentration1=2.0)
    y = layer(torch.ones(*leading, 5, 3, 4)).detach()
    assert torch.equal(y, y[..., :1, :1].expand_as(y))
    assert not torch.equal(y[0], y[1])
    # The rows differ in the masks; the other leading dimensions share them.
    rows = y.reshape(6, -1, 5, 3, 4)
    assert torch.equal(rows, rows[:, :1].expand_as(rows))


def test_unbatched_input_gets_one_mask():
    assert BetaBernoulliDropout(5)(torch.ones(5)).shape == (5,)
    assert BetaBernoulliDropout(5, unit_dim=-3)(torch.ones(5, 2, 2)).shape == (5, 2, 2)


def test_straight_through_masks_are_zero_or_one_and_learn():
    layer = BetaBernoulliDropout(50, relaxation="straight-through", init_concentration1=2.0)
    y = layer(torch.ones(20, 50))
    assert bool(((y == 0) | (y == 1)).all())
    y.sum().backward()
    assert bool((layer.location.grad != 0).all())


def test_imposed_masks_replace_the_draw():
    net = nn.Sequential(BetaBernoulliDropout(3))
    for mask in (torch.tensor([1.0, 0.0, 0.5]), torch.rand(4, 3)):
        with bd.impose_masks(net, {"0": mask}):
            assert torch.equal(net(torch.ones(4, 3)), mask.expand(4, 3))
    with pytest.raises(ConfigError, match=r"unknown dropout layer '1'\. .*Available: 0\."):
        bd.impose_masks(net, {"1": torch.ones(3)})


def test_posterior_sample_shares_masks_or_rates():
    layer = BetaBernoulliDropout(30, init_concentration1=2.0)
    latents = {layer: layer.draw_latents()}
    with PosteriorSample(latents, shared=True):
        first, second = ones(layer, 4), ones(layer, 4)
    assert torch.equal(first, second)
    assert torch.equal(first, first[:1].expand_as(first))
    with PosteriorSample(latents, shared=False):
        first, second = ones(layer, 4), ones(layer, 4)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_contexts_nest_and_close_after_errors():
    net = nn.Sequential(BetaBernoulliDropout(3))
    outer = bd.impose_masks(net, {"0": torch.zeros(3)})
    with outer:
        with pytest.raises(ShapeError), bd.impose_masks(net, {"0": torch.ones(3)}):
            net(torch.ones(4, 2))
        assert bool((net(torch.ones(4, 3)) == 0).all())
    assert bool((net.eval()(torch.ones(4, 3)) > 0).all())


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_units": 0}, "BetaBernoulliDropout: expected at least 1 unit, got num_units=0"),
        ({"unit_dim": 1}, "expected a negative unit_dim.*got unit_dim=1.*Use -1 for features"),
        (
            {"threshold": 1.0},
            "0 <= threshold < 1 and a finite kl_scale > 0, got threshold=1.0",
        ),
        ({"kl_scale": 0.0}, "kl_scale > 0, got threshold=0.001, kl_scale=0.0"),
        ({"kl_scale": float("inf")}, "a finite kl_scale > 0, got .*kl_scale=inf"),
        ({"temperature": 0.0}, "expected temperature > 0 and finite, got temperature=0.0"),
        ({"prior_concentration1": math.inf}, "expected prior_concentration1 > 0 and finite"),
        ({"prior_concentration0": -1.0}, "expected prior_concentration0 > 0"),
        ({"init_concentration1": 0.0}, "expected init_concentration1 > 0"),
        ({"init_concentration0": math.nan}, "expected init_concentration0 > 0"),
        (
            {"init_concentration1": 1e-6, "parametrization": "softplus"},
            "concentrations that 'softplus' parameters hold, .*got concentration1 1e-06",
        ),
        (
            {"init_concentration0": 80.0, "parametrization": "softplus"},
            "concentrations that 'softplus' parameters hold, .*concentration0 80",
        ),
        ({"parametrization": "mean"}, "expected parametrization 'location', 'softplus' or 'log'"),
        ({"relaxation": "conrete"}, "unknown relaxation 'conrete'. Did you mean 'concrete'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_options_raise(options, message):
    with pytest.raises(ConfigError, match=message):
        BetaBernoulliDropout(**{"num_units": 3, **options})


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({}, (2, 4), r"expected 3 units in the last dimension, got input of shape \(2, 4\)"),
        ({}, (2, 3, 4, 4), r"For convolution maps \(N, K, H, W\) pass unit_dim=-3"),
        (
            {"unit_dim": -3},
            (2, 3),
            r"3 units in dimension -3, got input of shape \(2, 3\)",
        ),
        ({"unit_dim": -3}, (2, 4, 5, 5), "Is the dropout layer placed before the right Linear"),
    ],
)
def test_wrong_widths_raise(options, shape, message):
    with pytest.raises(ShapeError, match=message):
        BetaBernoulliDropout(3, **options)(torch.ones(shape))


def test_the_message_names_the_layer():
    net = nn.Sequential(nn.Linear(4, 2), BetaBernoulliDropout(3))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=10)
    with pytest.raises(ShapeError, match="BetaBernoulliDropout '1': expected 3 units"):
        bnn(torch.ones(2, 4))


def test_registry_knows_names_and_options():
    assert isinstance(make("beta-bernoulli", 3, temperature=0.2), BetaBernoulliDropout)
    with pytest.raises(ConfigError, match="unknown layer 'beta-bernouli'. Did you mean 'beta"):
        make("beta-bernouli", 3)
    with pytest.raises(ConfigError, match="Did you mean 'temperature'\\? Available: batch_dim"):
        make("beta-bernoulli", 3, temprature=0.2)

    class Other(BetaBernoulliDropout):
        pass

    with pytest.raises(ConfigError, match="expected a new name, got 'beta-bernoulli'"):
        register(Other)
    assert layers["beta-bernoulli"] is BetaBernoulliDropout


# -- learning -------------------------------------------------------------------------------------


def test_inputs_of_pure_noise_are_dropped():
    x = torch.randn(500, 10)
    y = (x[:, :5].sum(1) > 0).long()  # the other five inputs say nothing
    layer = BetaBernoulliDropout(10)
    net = nn.Sequential(layer, nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 2))
    groups = [{"params": layer.parameters(), "lr": 0.1}, {"params": list(net[1:].parameters())}]
    optimiser = torch.optim.Adam(groups, lr=0.02)
    for _ in range(400):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y) + bd.kl_divergence(net) / len(x)
        loss.backward()
        optimiser.step()
    keep = layer.keep_prob()
    assert bool((keep[:5] > 0.8).all())
    assert bool((keep[5:] < 0.1).all())


def test_a_pass_with_the_mean_mask_follows_every_change_of_its_parameters():
    layer, x = bd.BetaBernoulliDropout(3).eval(), torch.ones(2, 3)
    with torch.no_grad():
        for change in (
            lambda: layer.set_posterior(torch.tensor([1e-5, 1.0, 3.0])),
            lambda: layer.location.data.fill_(0.5),
            lambda: layer.log_shape.numpy().__setitem__(0, -1.0),
            lambda: setattr(layer, "threshold", 0.6),
            lambda: layer.double(),
        ):
            change()
            expected = layer.posterior()["pi"].base_dist.mean
            expected = torch.where(expected < layer.threshold, 0.0, expected)
            torch.testing.assert_close(layer(x), x * expected)
            torch.testing.assert_close(layer(x[0]), x[0] * expected)
        with bd.impose_masks(nn.Sequential(layer), {"0": torch.zeros(3)}):
            assert not layer(x).any()
    assert layer(x).requires_grad


def test_a_mean_mask_of_a_class_below_is_its_own():
    class Half(bd.BetaBernoulliDropout):
        def mean_mask(self, x=None):
            return super().mean_mask(x) / 2

    layer = Half(3).eval()
    with torch.no_grad():
        torch.testing.assert_close(layer(torch.ones(1, 3))[0], layer.keep_prob() / 2)
