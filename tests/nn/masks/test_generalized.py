import math

import pytest
import scipy.stats
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError
from bayesdrop.nn import GeneralizedDropout
from bayesdrop.testing import assert_mean_close

EDGE = 1e-4


def with_rates(rates, **options):
    layer = GeneralizedDropout(len(rates), **options)
    with torch.no_grad():
        layer.logits.copy_(torch.logit(torch.tensor(rates)))
    return layer


def test_the_divergence_is_minus_the_log_density():
    rates = [0.001, 0.3, 0.9]
    layer = with_rates(rates, prior_concentration1=0.3, prior_concentration0=0.7, kl_scale=2.0)
    expected = -2.0 * scipy.stats.beta(0.3, 0.7).logpdf(rates).sum()
    assert bd.kl_divergence(layer).item() == pytest.approx(expected, rel=1e-10)


def test_uniform_prior_is_dropout_with_rates_that_only_data_train():
    layer = with_rates([0.1, 0.9], prior_concentration1=1.0, prior_concentration0=1.0)
    assert layer.kl_divergence().item() == 0
    (gradient,) = torch.autograd.grad(layer.kl_divergence(), layer.logits)
    assert bool((gradient == 0).all())


def test_masks_of_fixed_rates_are_monte_carlo_dropout_s_without_its_scale():
    layer, fixed = with_rates([0.7, 0.7]), bd.MonteCarloDropout(2, drop_prob=0.3)
    x = torch.ones(20_000, 2)
    for training in (True, False):
        layer.train(training)
        masks = layer.draw_mask(layer.draw_latents(), x)
        assert bool(((masks == 0) | (masks == 1)).all())
        assert_mean_close(masks, 0.7)
        assert_mean_close(fixed.train(training).draw_mask({}, x) * 0.7, 0.7)


@pytest.mark.parametrize(("start", "end"), [(0.45, 0.0), (0.55, 1.0)])
def test_without_data_an_architecture_s_rates_go_to_the_nearer_end(start, end):
    layer = with_rates([start])
    optimiser = torch.optim.SGD(layer.parameters(), lr=4.0)
    for _ in range(100):
        optimiser.zero_grad()
        layer.kl_divergence().backward()
        optimiser.step()
    assert layer.keep_prob().item() == pytest.approx(abs(end - EDGE), rel=1e-9)


@pytest.mark.parametrize("value", [-1e4, -30.0, 30.0, 1e4])
def test_rates_are_held_inside_and_come_back(value):
    layer = GeneralizedDropout(3).float()
    with torch.no_grad():
        layer.logits.fill_(value)
    assert layer.keep_prob().sub(0.5).abs().max() <= 0.5 - EDGE + 1e-7
    assert bool(layer.kl_divergence().isfinite())
    layer.keep_prob().sum().mul(math.copysign(1.0, value)).backward()
    assert bool((layer.logits.grad != 0).all())


def test_a_kept_unit_costs_the_difference_of_the_concentrations():
    a, b = 0.1, 0.6
    kept, pruned = (
        with_rates([rate], prior_concentration1=a, prior_concentration0=b).kl_divergence()
        for rate in (1 - EDGE, EDGE)
    )
    price = (b - a) * math.log((1 - EDGE) / EDGE)
    assert (kept - pruned).item() == pytest.approx(price, rel=1e-9)


def test_the_straight_through_gradient_is_exact_where_the_loss_is_linear():
    layer = with_rates([0.2, 0.6], prior_concentration1=1.0, prior_concentration0=1.0)
    weights = torch.tensor([1.5, -2.0])
    (layer(torch.ones(5, 2)) @ weights).mean().backward()
    keep = torch.tensor([0.2, 0.6])
    torch.testing.assert_close(layer.logits.grad, weights * keep * (1 - keep))


def test_units_that_the_target_does_not_need_are_pruned():
    x = torch.randn(400, 2)
    y = 3 * x[:, :1]
    net = nn.Sequential(
        GeneralizedDropout(2, prior_concentration1=0.1, prior_concentration0=1.0, threshold=0.5),
        nn.Linear(2, 1),
    )
    bnn = bd.BayesianNetwork(net, bd.Gaussian(1.0), num_data=400)
    bd.fit(bnn, (x, y), epochs=30, variational_learning_rate=0.3, weight_decay=0.0,
           schedule=(), progress=False)  # fmt: skip
    assert net[0].kept().tolist() == [True, False]


def test_convert_starts_at_the_rate_of_the_dropout_it_replaces():
    net = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.3), nn.Linear(5, 2))
    bayesian = bd.convert(net, "generalized", linear=False)
    ((_, layer),) = bd.nn.named_dropout_layers(bayesian)
    torch.testing.assert_close(layer.keep_prob().detach(), torch.full((5,), 0.7))


def test_all_masks_can_be_summed():
    net = nn.Sequential(with_rates([0.2, 0.6]), nn.Linear(2, 3))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=6)
    x, y = torch.randn(6, 2), torch.randint(3, (6,))
    total = torch.zeros(6)
    for mask in ((0, 0), (0, 1), (1, 0), (1, 1)):
        weight = math.prod(q if z else 1 - q for q, z in zip((0.2, 0.6), mask, strict=True))
        logits = net[1](x * torch.tensor(mask))
        total = total + weight * logits.softmax(1)[range(6), y]
    loss = bnn.loss(x, y, num_masks="exact")
    torch.testing.assert_close(loss.nll, -total.log().sum())


def test_bad_options_are_refused():
    for options in (
        {"prior_concentration1": 0.0},
        {"prior_concentration0": math.inf},
        {"init_keep_prob": 1.0},
    ):
        with pytest.raises(ConfigError, match=r"0 < init_keep_prob < 1"):
            GeneralizedDropout(3, **options)
