import math

import pytest
import torch
from pyro.infer import Predictive
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError, ConversionError, ShapeError
from bayesdrop.nn import SparseVariational, make
from bayesdrop.testing import assert_follows_cdf, assert_mean_close

NOISES = [(noise, by) for noise in ("local", "weights") for by in ("example", "batch")]
PRIORS = ("exact", "fit", "cubic", "hierarchical")


def linear(**options):
    layer = SparseVariational(nn.Linear(4, 3), **options)
    if layer.granularity == "weight":
        layer.log_variance.data.normal_(-1.0)
    return layer


def conv(**options):
    layer = SparseVariational(nn.Conv2d(2, 3, 3, padding=1), **options)
    layer.log_variance.data.normal_(-1.0)
    return layer


# -- four samplers, one distribution --------------------------------------------------------------


@pytest.mark.parametrize("noise, by", NOISES)
@torch.no_grad()
def test_every_sampler_gives_an_output_the_same_distribution(noise, by):
    layer, x = linear(noise=noise, shared_by=by), torch.randn(1, 4)
    mean = x @ layer.weight.T + layer.bias
    scale = (x.square() @ layer.log_variance.exp().T).sqrt()
    draws = torch.stack([layer(x)[0] for _ in range(4000)])
    standard = torch.distributions.Normal(0.0, 1.0)
    for j in range(3):
        assert_follows_cdf((draws[:, j] - mean[0, j]) / scale[0, j], standard.cdf)


@pytest.mark.parametrize("noise, by", NOISES)
@torch.no_grad()
def test_every_sampler_gives_a_pixel_the_same_mean_and_variance(noise, by):
    layer, x = conv(noise=noise, shared_by=by), torch.randn(1, 2, 4, 4)
    mean = layer.operate(x, layer.weight, layer.bias)
    variance = layer.operate(x.square(), layer.log_variance.exp(), None)
    draws = torch.stack([layer(x) for _ in range(2000)])
    assert_mean_close(draws, mean)
    assert_mean_close((draws - mean).square(), variance)


@torch.no_grad()
def test_only_the_dependence_between_examples_differs():
    x = torch.ones(2, 4)
    for noise, by in NOISES:
        layer = linear(noise=noise, shared_by=by)
        pair = torch.stack([layer(x)[:, 0] for _ in range(1000)]).T
        centred = pair - pair.mean(1, keepdim=True)
        if by == "batch":
            torch.testing.assert_close(pair[0], pair[1])
        else:
            assert_mean_close(centred[0] * centred[1], 0.0)


def test_who_shares_a_draw_is_by_default_what_costs_least():
    assert linear().shared_by == "example" and not linear().draws_as_model
    assert linear(noise="weights").shared_by == "batch" and linear(noise="weights").draws_as_model
    assert not linear(noise="weights", shared_by="example").draws_as_model


@torch.no_grad()
def test_weights_of_an_example_are_the_same_at_all_its_pixels():
    layer, x = conv(noise="weights", shared_by="example"), torch.ones(3, 2, 5, 5)
    y = layer(x)[..., 1:-1, 1:-1]  # away from the padding all windows are alike
    torch.testing.assert_close(y, y[..., :1, :1].expand_as(y))
    assert y[:, 0, 0, 0].unique().numel() == 3


def test_local_noise_has_the_gradient_of_the_mean_output():
    layer, x = linear(), torch.randn(500, 4)
    with torch.no_grad():
        layer.log_variance.fill_(-40.0)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_sampled_weights_are_gaussian_around_the_mean():
    layer = linear()
    draws = torch.stack([layer.draw_latents()["weight"] for _ in range(2000)]).detach()
    assert_mean_close(draws, layer.weight)
    assert_mean_close((draws - layer.weight).square(), layer.log_variance.exp())


# -- the published training rule ------------------------------------------------------------------


def half_pruned(**options):
    layer = linear(**options)
    layer.log_variance.data.fill_(-6.0)
    layer.weight.data.fill_(0.5)
    layer.weight.data[:, :2] = 1e-3  # log alpha is 7.8 there and -4.6 elsewhere
    return layer


def test_a_pruned_mean_has_no_gradient_from_the_data_and_its_variance_has():
    layer, x = half_pruned(mean_path="pruned"), torch.rand(50, 4)
    layer(x).square().mean().backward()
    mean, variance = layer.weight.grad, layer.log_variance.grad
    assert bool((mean[:, :2] == 0).all()) and bool((mean[:, 2:] != 0).all())
    assert bool((variance != 0).all())
    layer.zero_grad()
    layer.kl_divergence().backward()
    assert bool((layer.weight.grad[:, :2] > 0).all())  # which drives it to zero


@torch.no_grad()
def test_the_published_rule_cuts_means_and_keeps_variances():
    cut, whole = half_pruned(mean_path="pruned"), half_pruned()
    cut.load_state_dict(whole.state_dict())
    x = torch.rand(1, 4)
    draws = torch.stack([cut(x)[0] for _ in range(4000)])
    assert_mean_close(draws, cut.eval()(x)[0])
    assert_mean_close((draws - draws.mean(0)).square(), x.square() @ cut.log_variance.exp().T)
    torch.testing.assert_close(cut.kl_divergence(), whole.kl_divergence())
    torch.testing.assert_close(cut(x), whole.eval()(x))
    cut.train().weight.fill_(0.5)  # with nothing pruned it is the ELBO's rule
    assert all(map(torch.equal, cut.moments_in_training(), cut.weight_moments()))


def test_the_published_rule_needs_local_noise():
    with pytest.raises(ConfigError, match="noise='local'"):
        linear(mean_path="pruned", noise="weights")
    with pytest.raises(ConfigError, match="mean_path"):
        linear(mean_path="cut")


# -- priors and granularity -----------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["weight", "unit", "layer"])
def test_alpha_is_shared_as_asked(granularity):
    layer = linear(granularity=granularity)
    if granularity == "unit":
        layer.log_alpha_shared.data.copy_(torch.arange(4.0)[None])
    log_alpha = layer.log_alpha()
    assert log_alpha.shape == (3, 4)
    mean, variance = layer.weight_moments()
    torch.testing.assert_close(log_alpha, variance.log() - mean.square().log())
    distinct = {"weight": 12, "unit": 4, "layer": 1}[granularity]
    assert log_alpha.unique().numel() == distinct
    q = layer.posterior()["weight"].base_dist
    torch.testing.assert_close(q.variance, variance)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("granularity", ["weight", "unit", "layer"])
def test_every_setting_trains(prior, granularity):
    layer = linear(prior=prior, granularity=granularity)
    bnn = bd.BayesianNetwork(nn.Sequential(layer), bd.Categorical(), 20)
    bnn.loss(torch.randn(5, 4), torch.randint(3, (5,))).loss.backward()
    for name, parameter in bnn.named_parameters():
        assert bool(parameter.grad.isfinite().all()), name
        assert bool((parameter.grad != 0).any()), name


def test_the_hierarchical_divergence_is_closed():
    layer = linear(prior="hierarchical")
    expected = 0.5 * torch.log1p((-layer.log_alpha()).exp())
    torch.testing.assert_close(layer.kl_by_unit(0), expected.sum(1))
    bnn = bd.BayesianNetwork(nn.Sequential(layer), bd.Categorical(), 20)
    # A proper prior, unlike the others, has prior predictions.
    assert Predictive(bnn.model, num_samples=3)(torch.randn(2, 4))["obs"].shape == (3, 2)
    improper = bd.BayesianNetwork(nn.Sequential(linear()), bd.Categorical(), 20)
    with pytest.raises(ConfigError, match="improper prior"):
        Predictive(improper.model, num_samples=3)(torch.randn(2, 4))


@pytest.mark.parametrize("granularity", ["weight", "unit", "layer"])
def test_kingmas_alpha_stays_below_one(granularity):
    layer = linear(prior="cubic", granularity=granularity)
    for parameter in layer.variational_parameters():
        parameter.data.fill_(9.0)
    assert bool((layer.log_alpha() <= 0).all())
    mean, variance = layer.weight_moments()
    assert bool((variance <= mean.square() * (1 + 1e-6) + 1e-12).all())
    assert bool(layer.kept().all())


def test_kl_by_unit_sums_to_the_layers_divergence():
    for layer in (linear(), conv(), linear(granularity="unit")):
        for dim in (0, 1):
            by_unit = layer.kl_by_unit(dim)
            assert by_unit.shape == (layer.weight.shape[dim],)
            torch.testing.assert_close(by_unit.sum(), layer.kl_divergence())


def test_weights_without_signal_are_pruned():
    layer = linear()
    with torch.no_grad():
        layer.weight[0], layer.log_variance[0] = 0.1, math.log(0.01) + 2.9
        layer.weight[1], layer.log_variance[1] = 0.1, math.log(0.01) + 3.1
        layer.weight[2] = 0.0
    assert layer.kept().tolist() == [[True] * 4, [False] * 4, [False] * 4]


# -- in a network ---------------------------------------------------------------------------------


def test_fit_keeps_weight_decay_off_the_posterior():
    net = nn.Sequential(nn.Linear(4, 4), linear())
    bnn = bd.BayesianNetwork(net, bd.Categorical(), 20)
    groups = {}

    def optimizer(found):
        groups.update({id(p): group for group in found for p in group["params"]})
        return torch.optim.Adam(found)

    data = torch.randn(20, 4), torch.randint(3, (20,))
    result = bd.fit(
        bnn, data, epochs=1, learning_rate=1e-3, variational_learning_rate=1e-2,
        weight_decay=0.1, optimizer=optimizer, progress=False,
    )  # fmt: skip
    rates = {
        name: (groups[id(p)]["initial_lr"], groups[id(p)]["weight_decay"])
        for name, p in net.named_parameters()
    }
    assert rates["0.weight"] == rates["1.bias"] == (1e-3, 0.1)
    assert rates["1.weight"] == (1e-3, 0.0)
    assert rates["1.log_variance"] == (1e-2, 0.0)
    assert result.history[0]["weights"] == bnn.kept()["weights"]
    assert result.history[0]["units"] == []


@torch.no_grad()
def test_masks_go_in_beside_random_weights_in_either_order():
    net, x = bd.networks.lenet5_caffe(), torch.rand(2, 1, 28, 28)
    weights_first = bd.convert(bd.convert(net, "sparse-variational"), "beta-bernoulli")
    masks_first = bd.convert(bd.convert(net, "beta-bernoulli"), "sparse-variational")
    names = [
        name for name, _ in bd.BayesianNetwork(net, bd.Categorical(), 9).named_dropout_layers()
    ]
    assert names == []
    for both in (weights_first, masks_first):
        bnn = bd.BayesianNetwork(both, bd.Categorical(), 9).eval()
        assert len(bnn.named_dropout_layers()) == len(bnn.named_weight_layers()) == 4
        small = bd.compact(bnn, x)
        torch.testing.assert_close(small(x), bnn(x), rtol=0, atol=1e-6)
        assert bd.compression.measure_size(bnn, num_samples=3, example_input=x).total(
            "params"
        ).shape == (3,)


def test_a_mask_learns_of_the_layer_that_replaces_its_own():
    class Listening(bd.BetaBernoulliDropout):
        def bind_weights(self, layer, dim):
            self.__dict__["_bound"] = layer, dim

    old = nn.Linear(4, 3)
    mask = Listening(4)
    mask.bind_weights(old, 1)
    converted = bd.convert(nn.Sequential(mask, old), "sparse-variational")
    found, dim = converted.get_submodule("0").__dict__["_bound"]
    assert found is converted.get_submodule("1") and dim == 1


@torch.no_grad()
def test_compact_drops_dead_pixels_and_dead_units():
    net = bd.convert(bd.networks.lenet_300_100(in_features=40), "sparse-variational")
    net.fc1.log_variance[:, 10:] = 20.0
    net.fc2.log_variance[:, 5:] = 20.0
    bnn = bd.BayesianNetwork(net, bd.Categorical(), 9).eval()
    x = torch.randn(3, 40)
    small = bd.compact(bnn, x)
    assert (small.fc1.in_features, small.fc1.out_features) == (10, 5)
    torch.testing.assert_close(small(x), bnn(x), rtol=0, atol=1e-6)


@torch.no_grad()
def test_an_empty_network_is_the_constant_of_its_biases():
    net = bd.convert(bd.networks.lenet_300_100(in_features=6), "sparse-variational")
    for _, layer in bd.BayesianNetwork(net, bd.Categorical(), 9).named_weight_layers():
        layer.log_variance.fill_(30.0)
    small = bd.compact(net.eval(), torch.randn(3, 6))
    expected = net.fc3.bias.expand(3, 10)
    torch.testing.assert_close(small(torch.randn(3, 6)), expected)


def test_inference_data_has_the_weights_or_says_that_they_do_not_fit():
    pytest.importorskip("arviz")
    bnn = bd.BayesianNetwork(nn.Sequential(linear()), bd.Categorical(), 20)
    data = torch.randn(5, 4), torch.randint(3, (5,))
    idata = bd.to_inference_data(bnn, *data, num_samples=8, seed=0)
    assert idata.posterior["0.weight"].shape == (1, 8, 3, 4)
    assert idata.log_likelihood["obs"].shape == (1, 8, 5)
    with pytest.raises(ConfigError, match="12 random weights.*fewer examples or draws"):
        bd.to_inference_data(bnn, *data, num_samples=8, memory_limit=2000)


def test_shapes_of_any_rank():
    for noise, by in NOISES:
        layer = linear(noise=noise, shared_by=by)
        assert layer(torch.randn(2, 5, 4)).shape == (2, 5, 3)
        assert layer(torch.randn(4)).shape == (3,)
        layer = conv(noise=noise, shared_by=by)
        assert layer(torch.randn(2, 5, 6)).shape == (3, 5, 6)


def test_bad_input_is_explained():
    with pytest.raises(ShapeError, match="expected 4 units in the last dimension"):
        linear()(torch.ones(2, 3))
    with pytest.raises(ConfigError, match="unknown noise of SparseVariational 'locale'"):
        linear(noise="locale")
    with pytest.raises(ConfigError, match="unknown prior of SparseVariational 'exakt'"):
        linear(prior="exakt")
    with pytest.raises(ConfigError, match="unknown granularity"):
        linear(granularity="filter")
    with pytest.raises(ConfigError, match="init_log_variance for granularity='weight'"):
        linear(init_log_alpha=-2.0)
    with pytest.raises(ConfigError, match="a log_alpha_threshold that is a number"):
        linear(log_alpha_threshold=math.nan)
    for given in ({"log_alpha_threshold": "3"}, {"init_log_variance": math.nan}):
        with pytest.raises(ConfigError, match="a log_alpha_threshold that is a number"):
            linear(**given)
    with pytest.raises(ConfigError, match="Did you mean 'prior'\\? Available: granularity, init"):
        make("sparse-variational", nn.Linear(2, 2), priors="exact")
    with pytest.raises(ConfigError, match="Did you mean 'sparse-variational'"):
        bd.convert(nn.Sequential(nn.Linear(2, 2)), "sparse-variationl")
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    with pytest.raises(ConversionError, match="share no parameter"):
        bd.convert(tied, "sparse-variational")
