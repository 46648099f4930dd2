import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError
from bayesdrop.nn import Dropconnect, GaussianDropconnect, named_weight_layers
from bayesdrop.testing import assert_mean_close, assert_means_equal

BOTH = [Dropconnect, GaussianDropconnect]
P = 0.3


def layer(cls, **options):
    torch.manual_seed(1)
    return cls(nn.Linear(4, 3), drop_prob=P, **options)


def outputs(module, x, draws=20_000):
    with torch.no_grad():
        return module(x.expand(draws, -1))


@pytest.mark.parametrize("cls", BOTH)
def test_drawn_weights_have_the_mean_and_variance_of_the_rate(cls):
    module = layer(cls)
    w = module.posterior()["weight"].rsample((20_000,)).detach()
    assert_mean_close(w, module.weight)
    assert_mean_close((w - module.weight.detach()).square(), module.weight.square() * P / (1 - P))


def test_gaussian_local_noise_has_the_law_of_drawn_weights():
    x = torch.randn(1, 4)
    module = layer(GaussianDropconnect)
    local = outputs(module, x)
    variance = (x.square() @ module.weight.square().T)[0] * P / (1 - P)
    assert_mean_close(local, nn.functional.linear(x, module.weight, module.bias)[0])
    assert_mean_close((local - local.mean(0)).square(), variance)
    w = module.posterior()["weight"].rsample((20_000,)).detach()
    drawn = torch.einsum("soi,i->so", w, x[0]) + module.bias.detach()
    assert_means_equal(local, drawn)
    assert_means_equal(local.square(), drawn.square())


def convolution(cls, **options):
    torch.manual_seed(1)
    return cls(nn.Conv2d(2, 4, (3, 2), 2, 1, groups=2), drop_prob=P, **options)


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize("noise", ["weights", "local"])
@pytest.mark.parametrize("by", ["example", "batch"])
def test_a_convolutions_pixels_have_the_mean_and_variance_of_the_rate(cls, noise, by):
    module, x = convolution(cls, noise=noise, shared_by=by), torch.randn(1, 2, 5, 4)
    with torch.no_grad():
        if by == "example":
            y = module(x.expand(4000, -1, -1, -1))
        else:
            y = torch.cat([module(x) for _ in range(2000)])
    mean = module.operate(x, module.weight, module.bias)[0]
    variance = module.operate(x.square(), module.weight.square(), None)[0] * P / (1 - P)
    assert_mean_close(y, mean)
    assert_mean_close((y - mean.detach()).square(), variance)


@pytest.mark.parametrize("cls", BOTH)
def test_a_convolution_of_rate_zero_and_its_mean_are_the_plain_layer(cls):
    plain, x = nn.Conv2d(2, 4, (3, 2), 2, 1, groups=2), torch.randn(3, 2, 5, 4)
    torch.testing.assert_close(cls(plain, drop_prob=0.0)(x), plain(x),
                               rtol=0, atol=1e-6)  # fmt: skip
    module = cls(plain, drop_prob=0.7)
    torch.testing.assert_close(module.eval()(x), plain(x))
    torch.testing.assert_close(module.to_plain()(x), plain(x))
    assert repr(module.to_plain()) == repr(plain)


@pytest.mark.parametrize("cls", BOTH)
def test_the_kl_is_exactly_zero_and_the_elbos_agree(cls):
    net = nn.Sequential(layer(cls), nn.Tanh(), nn.Linear(3, 3))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=10)
    assert bd.kl_divergence(net).item() == 0.0
    data = torch.randn(10, 4), torch.randint(3, (10,))
    losses = []
    for elbo in (Trace_ELBO(), TraceMeanField_ELBO()):
        torch.manual_seed(3)
        losses.append(elbo.loss(bnn.model, bnn.guide, *data))
    assert losses[0] == pytest.approx(losses[1])
    kl = bd.kl_divergence(net) + 0.0 * net[0].weight.sum()
    assert float(torch.autograd.grad(kl, net[0].weight)[0].abs().max()) < 1e-9


@pytest.mark.parametrize("cls", BOTH)
def test_rate_zero_and_evaluation_mode_are_the_plain_layer(cls):
    plain, x = nn.Linear(4, 3), torch.randn(5, 4)
    torch.testing.assert_close(cls(plain, drop_prob=0.0)(x), plain(x),
                               rtol=0, atol=1e-6)  # fmt: skip
    torch.testing.assert_close(cls(plain, drop_prob=0.7).eval()(x), plain(x))


@pytest.mark.parametrize("cls", BOTH)
def test_the_penalty_is_the_expected_squared_norm_of_the_weights(cls):
    module = layer(cls, length_scale=0.5)
    w = module.posterior()["weight"].rsample((20_000,)).detach()
    energy = w.square().sum((1, 2)) + module.bias.detach().square().sum()
    assert_mean_close(0.125 * energy, module.penalty())
    scaled = layer(cls, length_scale=0.5, kl_scale=3.0)
    torch.testing.assert_close(scaled.kl_divergence(), 3 * scaled.penalty())
    assert [id(p) for p in module.mean_parameters()] == [id(module.weight)]
    assert layer(cls).penalty() is None and not list(layer(cls).mean_parameters())


@pytest.mark.parametrize("key", ["dropconnect", "gaussian-dropconnect"])
@pytest.mark.parametrize("conv", [False, True])
def test_convert_predict_and_compact(key, conv):
    torch.set_default_dtype(torch.float32)
    first = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten()) if conv else nn.Flatten()
    plain = nn.Sequential(first, nn.Linear(12 if conv else 9, 6), nn.ReLU(), nn.Linear(6, 3))
    plain.eval()
    bnn = bd.BayesianNetwork(bd.convert(plain, key, drop_prob=P), bd.Categorical(), num_data=10)
    assert len(list(named_weight_layers(bnn.network))) == (3 if conv else 2)
    x = torch.randn(5, 1, 3, 3)
    assert float(bd.predict(bnn, x, num_samples=50).mutual_information.min()) > 0.0
    torch.testing.assert_close(bnn.eval()(x), plain(x))
    torch.testing.assert_close(bd.compact(bnn, x)(x), plain(x))


def test_spike_and_slab_is_both_kinds_of_noise():
    torch.manual_seed(2)
    plain = nn.Sequential(nn.Linear(4, 3))
    net = bd.convert(plain, "gaussian-dropconnect", drop_prob=P)
    net = bd.convert(net, "mc-dropout", drop_prob=0.4)
    x, weight = torch.randn(1, 4), plain[0].weight.detach()
    y = outputs(net.train(), x) - plain[0].bias.detach()
    # E[b^2] (1 + sigma^2) theta^2, b rescaled: the spike is at zero, the slab wider by 1 / 0.6.
    second = x.square() @ weight.square().T / (0.6 * (1 - P))
    cross = (x @ weight.T).square() - x.square() @ weight.square().T
    assert_mean_close(y, (x @ weight.T)[0])
    assert_mean_close(y.square(), (second + cross)[0])


def test_bad_options_are_refused():
    with pytest.raises(ConfigError, match="0 <= drop_prob < 1"):
        Dropconnect(nn.Linear(3, 2), drop_prob=1.0)
    with pytest.raises(ConfigError, match="length_scale"):
        GaussianDropconnect(nn.Conv2d(1, 2, 3), length_scale=0.0)
