"""Monte Carlo dropout, and what it shares with the other unit noise of fixed rate."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import bayesdrop as bd
from bayesdrop.errors import ConfigError, ConversionWarning
from bayesdrop.testing import assert_mean_close, assert_means_equal

FIXED = [bd.MonteCarloDropout, bd.GaussianDropout]


def trained_network():
    """A network with nn.Dropout of several rates, one of them in front of an activation."""
    return nn.Sequential(
        nn.Dropout(0.1),
        nn.Linear(4, 6),
        nn.Dropout(0.3),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(6, 3),
    )


def converted(net, key="mc-dropout", **options):
    return bd.convert(net, key, linear=False, conv=False, **options)


def test_training_mode_is_nn_dropout_in_law():
    x = torch.ones(40_000, 3)
    ours = bd.MonteCarloDropout(3, drop_prob=0.3)(x)
    theirs = nn.Dropout(0.3)(x)
    values = theirs.unique()
    torch.testing.assert_close(ours.unique(), values)
    for value in values:
        assert_means_equal((ours == value).double(), (theirs == value).double())
    # Units and examples are independent.
    assert_mean_close((ours[:, 0] - 1) * (ours[:, 1] - 1), 0.0)
    assert_mean_close((ours[1:, 0] - 1) * (ours[:-1, 0] - 1), 0.0)


def test_maps_lose_whole_channels():
    y = bd.MonteCarloDropout(5, unit_dim=-3, drop_prob=0.5)(torch.ones(20, 5, 3, 3))
    assert bool((y == y[:, :, :1, :1]).all()) and y.unique().tolist() == [0.0, 2.0]


@pytest.mark.parametrize("cls", FIXED)
def test_evaluation_mode_is_the_identity(cls):
    x = torch.randn(5, 4)
    assert torch.equal(cls(4, drop_prob=0.7).eval()(x), x)


@pytest.mark.parametrize("cls", FIXED)
def test_rate_zero_is_the_plain_network(cls):
    x = torch.randn(5, 4)
    layer = cls(4, drop_prob=0.0)
    assert torch.equal(layer.train()(x), x)
    bnn = bd.BayesianNetwork(nn.Sequential(layer, nn.Linear(4, 3)), bd.Categorical(), 5)
    y = torch.randint(3, (5,))
    expected = 5 * cross_entropy(bnn.network[1](x), y)
    torch.testing.assert_close(bnn.loss(x, y).loss, expected)
    assert float(bd.predict(bnn, x, num_samples=8).mutual_information.max()) < 1e-12


@pytest.mark.parametrize("cls", FIXED)
def test_there_is_no_latent_and_the_kl_is_exactly_zero(cls):
    layer = cls(4)
    assert layer.prior() == layer.posterior() == {}
    assert layer.penalty() is None and float(layer.kl_divergence()) == 0.0


def test_concentrated_beta_bernoulli_is_monte_carlo_dropout():
    """With pi at 1 - p, beta-Bernoulli dropout is Monte Carlo dropout without the rescaling."""
    drop_prob, x = 0.3, torch.randn(4, 6)
    torch.manual_seed(1)
    linear = nn.Linear(6, 3)
    layer = bd.BetaBernoulliDropout(6).eval()
    keep = torch.full((6,), 1 - drop_prob)  # what q(pi) would draw
    masks = torch.stack([layer.draw_mask({"pi": keep}, x) for _ in range(4000)])
    ours = bd.MonteCarloDropout(6, drop_prob=drop_prob)
    others = torch.stack([ours.draw_mask({}, x) for _ in range(4000)])
    outputs = linear(x * masks / keep), linear(x * others)
    assert_means_equal(*outputs)
    assert_means_equal(outputs[0].square(), outputs[1].square())


@pytest.mark.parametrize("shared_by", ["batch", "example"])
def test_predict_draws_masks_though_there_are_no_latents(shared_by):
    torch.manual_seed(2)
    net = trained_network().eval()
    x = torch.randn(7, 4)
    bnn = bd.BayesianNetwork(converted(net), bd.Categorical(), num_data=10)
    prediction = bd.predict(bnn, x, num_samples=1500, shared_by=shared_by)
    assert float(prediction.mutual_information.min()) > 1e-6
    net.train()
    with torch.no_grad():
        theirs = torch.stack([net(x).softmax(-1) for _ in range(1500)])
    assert_means_equal(prediction.samples, theirs)
    assert_means_equal(prediction.samples.square(), theirs.square())


@pytest.mark.parametrize("key", ["mc-dropout", "gaussian"])
def test_a_trained_network_converts_with_its_own_rates_and_outputs(key):
    net = trained_network().eval()
    before = copy.deepcopy(net.state_dict())
    bayesian = converted(net, key)
    rates = {name: float(m.drop_prob) for name, m in bd.BayesianNetwork(
        bayesian, bd.Categorical(), 10
    ).named_dropout_layers()}  # fmt: skip
    assert rates == pytest.approx({"0": 0.1, "2": 0.3, "4": 0.5})
    x = torch.randn(5, 4)
    torch.testing.assert_close(bayesian(x), net(x))
    assert not any(isinstance(module, nn.Dropout) for module in bayesian.modules())
    torch.testing.assert_close(net.state_dict(), before)


def test_an_option_goes_before_the_rate_of_the_module():
    bayesian = converted(trained_network(), drop_prob=0.25, overrides={"4": {"drop_prob": 0.75}})
    assert [float(bayesian.get_submodule(n).drop_prob) for n in "024"] == [0.25, 0.25, 0.75]


def test_a_mask_put_before_a_linear_takes_the_rate_of_the_dropout_it_replaces():
    net = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.2), nn.Dropout(0.5), nn.Linear(6, 3))
    bayesian = bd.convert(net, "mc-dropout", input_dropout=False)
    layers = dict(bd.BayesianNetwork(bayesian, bd.Categorical(), 9).named_dropout_layers())
    assert {name: float(m.drop_prob) for name, m in layers.items()} == pytest.approx(
        {"3_dropout": 0.6}
    )


def test_a_mask_after_a_convolution_takes_the_rate_of_the_dropout_it_replaces():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout2d(0.2), nn.Flatten(), nn.Linear(16, 2)
    )
    layer = bd.convert(net, "mc-dropout").get_submodule("0_dropout")
    assert float(layer.drop_prob) == pytest.approx(0.2) and layer.unit_dim == -3


def test_a_dropout_of_unknown_width_is_not_left_silently():
    net = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.2), nn.Unflatten(1, (2, 3)), nn.Flatten(),
                        nn.Softmax(-1), nn.Dropout(0.5), nn.Softmax(-1))  # fmt: skip
    with pytest.warns(ConversionWarning, match=r"'5' \(Dropout, dropout 0.5.*by hand"):
        bayesian = converted(net)
    assert isinstance(bayesian.get_submodule("1"), bd.MonteCarloDropout)
    with pytest.warns(ConversionWarning, match=r"'5' \(Dropout.*width cannot be told"):
        bd.convert(net, "beta-bernoulli")


# -- the prior on the weights ---------------------------------------------------------------------


@pytest.mark.parametrize("cls", FIXED)
@pytest.mark.parametrize("dim", [0, 1])
def test_the_penalty_is_minus_the_expected_log_prior_of_the_random_weights(cls, dim):
    linear, scale, p = nn.Linear(4, 3), 0.7, 0.4
    layer = cls(linear.weight.shape[dim], drop_prob=p, length_scale=scale)
    layer.bind_weights(linear, dim)
    z = layer.mask_distribution({}).sample((40_000,))
    with torch.no_grad():
        weight = linear.weight * (z[:, None, :] if dim == 1 else z[:, :, None])
        bias = linear.bias.expand(len(z), -1) if dim == 1 else linear.bias * z
        prior = torch.distributions.Normal(0.0, 1 / scale)
        energy = -(prior.log_prob(weight) - prior.log_prob(torch.zeros(()))).sum((1, 2))
        energy = energy - (prior.log_prob(bias) - prior.log_prob(torch.zeros(()))).sum(1)
    assert_mean_close(energy, layer.penalty())


def test_the_penalty_is_the_published_one():
    linear = nn.Linear(4, 3)
    layer = bd.MonteCarloDropout(4, drop_prob=0.2, length_scale=0.5, kl_scale=3.0)
    layer.bind_weights(linear, 1)
    unscaled = linear.weight / (1 - 0.2)  # the paper's M, whose inputs are not rescaled
    expected = 0.125 * (0.8 * unscaled.square().sum() + linear.bias.square().sum())
    torch.testing.assert_close(layer.penalty(), expected)
    torch.testing.assert_close(bd.kl_divergence(layer), 3 * expected)


def test_convert_attaches_the_layer_behind_the_mask_and_a_copy_its_own():
    net = converted(trained_network(), length_scale=1.0)
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=10)
    for network in (bnn, copy.deepcopy(bnn)):
        first, last = (network.network.get_submodule(name) for name in "15")
        energies = [
            network.network.get_submodule("0").penalty(),
            network.network.get_submodule("4").penalty(),
        ]
        for energy, linear, p in zip(energies, (first, last), (0.1, 0.5), strict=True):
            expected = linear.weight.square().sum() / (1 - p) + linear.bias.square().sum()
            torch.testing.assert_close(energy, expected / 2)
    names = [name for name, _ in bnn.named_parameters()]
    assert len(names) == len(set(names)) == 4
    assert len({id(parameter) for parameter in bnn.parameters()}) == 4


def test_a_prior_without_its_layer_is_refused():
    with pytest.raises(ConfigError, match="know the layer.*length_scale=0.1 and no layer.*bind_w"):
        bd.MonteCarloDropout(4, length_scale=0.1).penalty()
    with pytest.raises(ConfigError, match="a layer with 4 inputs.*dim=1"):
        bd.MonteCarloDropout(4).bind_weights(nn.Linear(5, 2), 1)
    for layer in (nn.LayerNorm(4), nn.ReLU()):  # weights of no inputs and outputs, or none
        for dim in (0, 1):
            with pytest.raises(ConfigError, match="a layer with 4 inputs"):
                bd.MonteCarloDropout(4).bind_weights(layer, dim)


@pytest.mark.parametrize("cls", FIXED)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop_prob": 1.0}, "0 <= drop_prob < 1"),
        ({"drop_prob": -0.1}, "0 <= drop_prob < 1"),
        ({"length_scale": 0.0}, "length_scale > 0"),
    ],
)
def test_bad_options_are_refused(cls, options, message):
    with pytest.raises(ConfigError, match=message):
        cls(4, **options)


# -- what the rest of the package makes of it -----------------------------------------------------


@pytest.mark.parametrize("cls", FIXED)
def test_compact_is_the_plain_network(cls):
    net = nn.Sequential(cls(4), nn.Linear(4, 6), nn.ReLU(), cls(6, drop_prob=0.9), nn.Linear(6, 3))
    x = torch.randn(5, 4)
    small = bd.compact(net, x)
    plain = nn.Sequential(net[1], net[2], net[4])
    torch.testing.assert_close(small(x), plain(x))
    assert sum(p.numel() for p in small.parameters()) == sum(p.numel() for p in plain.parameters())


def test_inference_data_has_the_rate_and_the_predictions():
    pytest.importorskip("arviz")
    bnn = bd.BayesianNetwork(converted(trained_network()), bd.Categorical(), num_data=10)
    x, y = torch.randn(5, 4), torch.randint(3, (5,))
    idata = bd.to_inference_data(bnn, x, y, num_samples=6, seed=0)
    assert set(idata.posterior.data_vars) == {f"{name}.keep_prob" for name in "024"}
    assert float(idata.posterior["4.keep_prob"].mean()) == pytest.approx(0.5)
    assert idata.log_likelihood["obs"].shape == (1, 6, 5)
    assert float(abs(idata.sample_stats["log_ratio"]).max()) == 0.0


def test_size_and_frontier_prune_nothing():
    torch.set_default_dtype(torch.float32)
    bnn = bd.BayesianNetwork(converted(trained_network()), bd.Categorical(), num_data=10)
    x, y = torch.randn(5, 4), torch.randint(3, (5,))
    rows = bd.compression.sweep_thresholds(bnn, (x, y), [0.0, 0.99]).rows
    assert {row.units for row in rows} == {(4, 6, 6)}
