import math

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError
from bayesdrop.nn import GaussianWeights
from bayesdrop.testing import assert_mean_close


def layer(mean=0.5, log_variance=-2.0, **options):
    result = GaussianWeights(nn.Linear(4, 3), **options)
    nn.init.constant_(result.weight, mean)
    nn.init.constant_(result.log_variance, log_variance)
    return result


def test_the_divergence_is_that_of_two_normals():
    # 1/2 (sigma^2 + mu^2 - 1 - log sigma^2), by hand.
    value = 0.5 * (math.exp(-2.0) + 0.25 - 1 + 2.0)
    torch.testing.assert_close(layer().kl_divergence().item(), 12 * value)
    scale = 0.3
    value = 0.5 * ((math.exp(-2.0) + 0.25) / scale**2 - 1 + 2.0 + 2 * math.log(scale))
    wide = layer(prior_scale=scale, kl_scale=2.0)
    torch.testing.assert_close(wide.kl_divergence().item(), 24 * value)
    posterior, prior = wide.posterior()["weight"], wide.prior()["weight"]
    registered = torch.distributions.kl_divergence(posterior, prior)
    torch.testing.assert_close(wide.kl_divergence(), 2.0 * registered)


def test_weights_of_the_prior_cost_nothing():
    assert abs(layer(mean=0.0, log_variance=0.0).kl_divergence().item()) < 1e-12
    narrow = layer(mean=0.0, log_variance=2 * math.log(0.2), prior_scale=0.2)
    assert abs(narrow.kl_divergence().item()) < 1e-12


def test_limit_of_no_variance_is_the_plain_network():
    plain = nn.Linear(4, 3)
    random = GaussianWeights(plain, init_log_variance=-80.0)
    x = torch.randn(5, 4)
    for mode in (True, False):
        torch.testing.assert_close(random.train(mode)(x), plain(x), rtol=0, atol=1e-9)


def test_local_noise_has_the_moments_of_the_weights():
    random, x = layer(), torch.tensor([[1.0, -2.0, 0.0, 3.0]])
    with torch.no_grad():
        drawn = torch.cat([random(x) for _ in range(4000)])
    mean = random.bias.detach() + 0.5 * 2.0
    assert_mean_close(drawn, mean)
    assert_mean_close((drawn - mean).square(), math.exp(-2.0) * 14.0)


def test_weights_are_pruned_where_their_noise_is_larger():
    random = layer(log_variance=-2.0, snr_threshold=1.3)  # the ratio is e / 2
    assert bool(random.kept().all())
    random.snr_threshold = 1.4
    assert not bool(random.kept().any())
    assert not bool(random.mean_weight().any())


def test_scales_without_noise_are_the_weights_alone():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    alone = bd.convert(net, "gaussian-weights")
    scaled = bd.convert(
        net, "normal-jeffreys", weights="gaussian-weights", init_log_variance=-80.0
    )
    x, losses = torch.randn(7, 4), []
    for network in (alone, scaled):
        bnn = bd.BayesianNetwork(network.eval(), bd.Categorical(), num_data=7)
        losses.append(bnn.loss(x, torch.zeros(7).long()))
    torch.testing.assert_close(losses[0].nll, losses[1].nll)
    scales = [layer.kl_divergence() for _, layer in bd.nn.named_dropout_layers(scaled)]
    torch.testing.assert_close(losses[1].kl, losses[0].kl + sum(scales))


@pytest.mark.parametrize(
    "options", [{"prior_scale": 0.0}, {"init_log_variance": math.nan}, {"snr_threshold": -1.0}]
)
def test_bad_options_raise(options):
    with pytest.raises(ConfigError, match="GaussianWeights: expected finite prior_scale > 0"):
        GaussianWeights(nn.Linear(3, 2), **options)
