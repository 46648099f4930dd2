"""Masks that get more units, and the layers on both sides of them."""

import pytest
import torch
from torch import nn
from torch.distributions import Beta

import bayesdrop as bd
from bayesdrop.errors import ConfigError

GROWING = ("beta-bernoulli", "indian-buffet", "hierarchical-indian-buffet")


def layers(key, *, random=False, **options):
    plain = nn.Linear(4, 6), nn.Linear(6, 3)
    mask = bd.nn.make(key, 6, **options)
    mask.set_posterior(6.0) if hasattr(mask, "set_posterior") else mask.sticks.set_posterior(20.0)
    first, second = (bd.nn.GaussianWeights(p) if random else p for p in plain)
    return first, mask, second


def backward(bnn, x):
    loss = bnn.loss(x, torch.zeros(len(x)).long()).loss
    loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in bnn.parameters())
    return loss.detach()


@pytest.mark.parametrize("updated", [False, True], ids=["first", "updated"])
@pytest.mark.parametrize("random", [False, True], ids=["plain", "random"])
@pytest.mark.parametrize("key", GROWING)
def test_a_wider_network_computes_what_it_did(key, random, updated):
    parts = layers(key, random=random)
    network = nn.Sequential(*parts)
    if updated:
        bd.update_prior(network)
    x = torch.randn(5, 4)
    earlier = network.eval()(x)
    bd.nn.widen(*parts, 3)
    torch.testing.assert_close(network(x), earlier)
    assert parts[1].num_units == parts[1].keep_prob().numel() == 9
    wide = parts[0].plain if random else parts[0]
    assert wide.out_features == 9
    # And it trains as one that was made so wide.
    bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=20).train()
    torch.optim.Adam(bnn.parameters()).step(lambda: backward(bnn, x))
    if random and updated:
        y = torch.zeros(5).long()
        assert bd.check_elbo(bnn, x, y, num_samples=100, num_repeats=10).passed


def test_sticks_that_are_added_are_those_of_the_larger_truncation():
    first, mask, second = layers("indian-buffet", concentration=3.0)
    bd.update_prior(mask)
    mask.sticks.set_posterior(15.0)
    kl, keep = mask.kl_divergence(), mask.keep_prob()
    bd.nn.widen(first, mask, second, 2)
    torch.testing.assert_close(mask.kl_divergence(), kl)
    expected = torch.cat([keep, keep[-1] * torch.tensor([0.75, 0.75**2])])
    torch.testing.assert_close(mask.keep_prob(), expected)


def test_shared_sticks_are_the_prior_of_units_that_were_added_since_an_update(tmp_path):
    parts = layers("hierarchical-indian-buffet", concentration=3.0)
    mask, network = parts[1], nn.Sequential(*parts)
    bd.update_prior(network)
    bd.nn.widen(*parts, 2)
    v = torch.rand(8)
    prior, fresh = mask.prior_given({"v": v})["pi"], (4 * v.cumprod(0))[6:]
    expected = Beta(fresh, 4 - fresh)
    earlier = mask.posterior()["pi"].base_dist.expand((8,))
    value = torch.rand(8)
    by_hand = earlier.log_prob(value)[:6].sum() + expected.log_prob(value[6:]).sum()
    torch.testing.assert_close(prior.log_prob(value), by_hand)
    torch.testing.assert_close(prior.mean[6:], expected.mean)
    # The state of a layer that has grown loads into one of that size.
    bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=20)
    bd.save(bnn, tmp_path / "grown.pt")
    plain = nn.Linear(4, 8), bd.HierarchicalIndianBuffetDropout(8), nn.Linear(8, 3)
    other = bd.BayesianNetwork(nn.Sequential(*plain), bd.Categorical(), num_data=20)
    bd.load(other, tmp_path / "grown.pt")
    assert plain[1].previous("concentration1").shape == (6,)
    bd.update_prior(other)
    assert plain[1].previous("concentration1").shape == (8,)
    torch.testing.assert_close(bd.kl_divergence(other), torch.tensor(0.0), rtol=0, atol=1e-8)


@pytest.mark.parametrize("random", [False, True], ids=["plain", "random"])
def test_new_weights_have_no_more_noise_than_the_most_certain_and_biases_are_zero(random):
    parts = layers("beta-bernoulli", random=random)
    for layer in (parts[0], parts[2]) if random else ():
        nn.init.uniform_(layer.log_variance, -9.0, -3.0)
    least = [p.log_variance.min().item() if random else 0.0 for p in (parts[0], parts[2])]
    bd.nn.widen(*parts, 2)
    assert bool((parts[0].bias[6:] == 0).all()) and bool((parts[2].weight[:, 6:] == 0).all())
    assert bool((parts[0].weight[6:] != 0).all())
    if random:
        assert bool((parts[0].log_variance[6:] == least[0]).all())
        assert bool((parts[2].log_variance[:, 6:] == least[1]).all())


def test_new_weights_have_their_first_prior():
    parts = layers("beta-bernoulli", random=True)
    bd.update_prior(nn.Sequential(*parts))
    bd.nn.widen(*parts, 2)
    for layer, dim in ((parts[0], 0), (parts[2], 1)):
        prior = layer.prior()["weight"].base_dist
        assert bool((prior.scale.narrow(dim, 6, 2) == 1).all())
        assert bool((prior.scale.narrow(dim, 0, 6) < 0.1).all())


def test_all_layers_behind_the_mask_grow():
    first, mask, second = layers("indian-buffet")
    heads = [second, nn.Linear(6, 2)]
    bd.nn.widen(first, mask, heads, 2)
    assert [head.in_features for head in heads] == [8, 8]


def test_channels_of_convolutions_grow_too():
    first, second = nn.Conv2d(1, 3, 2), nn.Conv2d(3, 2, 2)
    mask = bd.BetaBernoulliDropout(3, unit_dim=-3)
    network, x = nn.Sequential(first, mask, second).eval(), torch.randn(2, 1, 5, 5)
    earlier = network(x)
    bd.nn.widen(first, mask, second, 4)
    torch.testing.assert_close(network(x), earlier)
    assert (first.out_channels, second.in_channels) == (7, 7)


def updated_improper():
    first, mask, second = layers("beta-bernoulli")
    second = bd.nn.SparseVariational(second)
    bd.update_prior(second)
    return first, mask, second


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (lambda: layers("beta-bernoulli")[::-1], "as its outputs"),
        (lambda: (nn.Linear(4, 6), bd.NestedDropout(6), nn.Linear(6, 3)), "NestedDropout"),
        (updated_improper, "Gaussian prior"),
    ],
    ids=["order", "kind", "improper"],
)
def test_what_cannot_grow_is_refused_and_left_alone(parts, message):
    parts = parts()
    before = {n: v.clone() for n, v in nn.Sequential(*parts).state_dict().items()}
    with pytest.raises(ConfigError, match=message):
        bd.nn.widen(*parts, 2)
    after = nn.Sequential(*parts).state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("num_units", [0, -1, 1.5])
def test_a_number_of_units_that_makes_no_sense_is_refused(num_units):
    with pytest.raises(ConfigError, match="at least 1 unit"):
        bd.nn.widen(*layers("beta-bernoulli"), num_units)
