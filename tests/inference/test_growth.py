"""Laws of growth: the function stays, the posterior and the optimiser's state come along."""

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError
from bayesdrop.inference.growth import grow
from bayesdrop.inference.objectives import DisARM


def images(key="neural-plasticity", **options):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 5),
        nn.ReLU(),
        nn.Linear(5, 3),
    ).double()
    network = bd.convert(network, key, trained=False, **options)
    bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=20)
    x, y = torch.randn(20, 1, 8, 8), torch.arange(20) % 3
    bnn(x)
    return bnn, (x, y)


def names(bnn):
    return [name for name, _ in bnn.named_dropout_layers()]


@pytest.mark.parametrize("key", ["neural-plasticity", "beta-bernoulli", "hard-concrete"])
def test_the_function_stays_to_the_bit(key):
    bnn, (x, _) = images(key)
    bnn.eval()
    before = bnn(x)
    first, second, flat, last = names(bnn)
    assert grow(bnn, {first: 2, second: 3, last: 4}) == {first: 5, second: 7, flat: 28, last: 9}
    torch.testing.assert_close(bnn(x), before, rtol=1e-12, atol=1e-12)
    assert bnn.units_total() == [5, 7, 28, 9]
    sizes = [m.weight.shape[:2] for m in bnn.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert sizes == [(5, 1), (7, 5), (9, 28), (3, 9)]


def test_old_units_keep_their_posterior_and_new_ones_begin_as_new_layers_do():
    bnn, _ = images("beta-bernoulli")
    layer = bnn.named_dropout_layers()[0][1]
    with torch.no_grad():
        layer.location.add_(1.0)
    before, divergence = layer.keep_prob().detach(), layer.kl_divergence()
    grow(bnn, {names(bnn)[0]: 2})
    fresh = bd.BetaBernoulliDropout(2, unit_dim=-3)
    torch.testing.assert_close(layer.keep_prob(), torch.cat([before, fresh.keep_prob()]))
    torch.testing.assert_close(layer.kl_divergence(), divergence + fresh.kl_divergence())


def test_the_price_follows_the_parameters():
    bnn, _ = images()
    prices = {name: int(m.parameters_per_unit) for name, m in bnn.named_dropout_layers()}
    first, second, flat, last = names(bnn)
    assert list(prices.values()) == [10, 13, 5, 3]
    grow(bnn, {first: 2, last: 4})
    prices = [int(m.parameters_per_unit) for _, m in bnn.named_dropout_layers()]
    assert prices == [10, 21, 9, 3]


@pytest.mark.parametrize("make", [torch.optim.Adam, lambda p: torch.optim.SGD(p, 0.1, 0.9)])
def test_the_optimiser_goes_on_with_its_state_and_trains_what_is_new(make):
    bnn, data = images()
    optimizer = make(bnn.parameters())
    options = {"optimizer": optimizer, "schedule": (), "progress": False, "weight_decay": 0.0}
    bd.fit(bnn, data, epochs=1, objective=DisARM(), **options)
    linear = [m for m in bnn.modules() if isinstance(m, nn.Linear)]
    state = {name: v.clone() for name, v in optimizer.state[linear[1].weight].items() if v.ndim}
    grow(bnn, {names(bnn)[-1]: 4}, optimizer=optimizer)
    for name, value in state.items():
        grown = optimizer.state[linear[1].weight][name]
        torch.testing.assert_close(grown, torch.cat([value, torch.zeros(3, 4)], 1))
    held = {p for group in optimizer.param_groups for p in group["params"]}
    assert held == set(bnn.parameters()) and set(optimizer.state) <= held
    before = linear[1].weight.detach().clone()
    bd.fit(bnn, data, epochs=3, objective=DisARM(), **options)
    assert bool((linear[1].weight[:, 5:] != before[:, 5:]).any())


def test_new_units_start_as_torch_starts_them_and_what_is_frozen_stays_so():
    bnn, _ = images()
    linear = next(m for m in bnn.modules() if isinstance(m, nn.Linear))
    linear.weight.requires_grad_(False)
    grow(bnn, {names(bnn)[-1]: 400})
    assert not linear.weight.requires_grad and linear.bias.requires_grad
    for new in (linear.weight[5:], linear.bias[5:]):  # uniform up to 1 / sqrt(16)
        assert 0.24 < float(new.detach().abs().max()) <= 0.25


def test_new_units_can_sleep():
    bnn, (x, y) = images()
    name = names(bnn)[-1]
    grow(bnn, {name: 4}, init_awake=0)
    layer = bnn.network.get_submodule(name)
    assert layer.awake.tolist() == [True] * 5 + [False] * 4
    bnn.train()
    DisARM()(bnn, x, y).loss.backward()
    assert bool((layer.scores.grad[5:] == 0).all())


def test_a_grown_network_compacts_and_saves(tmp_path):
    bnn, (x, _) = images()
    grow(bnn, {names(bnn)[1]: 2})
    bnn.eval()
    torch.testing.assert_close(bd.compact(bnn)(x), bnn(x))
    bd.save(bnn, tmp_path / "model.pt")
    other, _ = images()
    grow(other, {names(other)[1]: 2})
    torch.testing.assert_close(bd.load(other, tmp_path / "model.pt").eval()(x), bnn(x))


def test_the_prior_of_new_units_after_an_update_is_their_own_posterior():
    bnn, _ = images("beta-bernoulli")
    bd.nn.update_prior(bnn)
    grow(bnn, {names(bnn)[0]: 2})
    torch.testing.assert_close(bd.kl_divergence(bnn).item(), 0.0, atol=1e-6, rtol=0)


def test_what_cannot_grow_is_refused_and_left():
    bnn, _ = images()
    before = bnn.units_total()
    first, second, flat, last = names(bnn)
    for units, message in (
        ({flat: 3}, "its units come from"),
        ({first: 0}, "at least 1 new unit"),
        ({"nothing": 1}, "dropout layer that can grow 'nothing'"),
    ):
        with pytest.raises(ConfigError, match=message):
            grow(bnn, units)
    assert bnn.units_total() == before
    sticks, _ = images("indian-buffet")
    with pytest.raises(ConfigError, match="parameters of each unit's own"):
        grow(sticks, {names(sticks)[0]: 1})
    tied, _ = images("standout")
    with pytest.raises(ConfigError, match="its units cannot be followed"):
        grow(tied, {names(tied)[0]: 1})
    network = nn.Sequential(nn.Linear(3, 4), bd.BetaBernoulliDropout(4), nn.Softmax(-1))
    ending = bd.BayesianNetwork(network, bd.Categorical(), num_data=20)
    with pytest.raises(ConfigError, match="has seen an input"):
        grow(ending, {"1": 1})
    ending(torch.zeros(2, 3))
    with pytest.raises(ConfigError, match="how many units"):
        grow(ending, {"1": 1})
    inputs = bd.BayesianNetwork(network[1:], bd.Categorical(), num_data=20)
    inputs(torch.zeros(2, 4))
    with pytest.raises(ConfigError, match="its units come from"):
        grow(inputs, {"1": 1})
