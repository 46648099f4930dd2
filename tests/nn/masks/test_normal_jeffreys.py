import math

import pytest
import torch
from pyro.distributions import Delta
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError
from bayesdrop.nn import NormalJeffreysDropout
from bayesdrop.testing import assert_mean_close, assert_means_equal

# log alpha to the divergence, of the exact integral.
GOLDEN = {-8: 4.635014, -4: 2.625755, -1: 0.914531, 0: 0.426686, 2: 0.066168, 5: 0.003365}


def layer(loc=1.0, log_alpha=(-8.0, 0.0, 5.0), **options):
    result = NormalJeffreysDropout(len(log_alpha), **options)
    with torch.no_grad():
        result.loc.fill_(loc)
        result.log_variance.copy_(torch.tensor(log_alpha) + 2 * math.log(abs(loc)))
    return result


@pytest.mark.parametrize("loc", [1.0, -0.2, 30.0])
def test_the_divergence_is_the_golden_one_whatever_the_size_of_the_scale(loc):
    kl = [layer(loc, (float(a),)).kl_divergence().item() for a in GOLDEN]
    torch.testing.assert_close(kl, list(GOLDEN.values()), rtol=0, atol=1e-5)


def test_a_unit_is_pruned_by_its_ratio_of_noise_to_signal():
    gates = layer(loc=2.0)
    torch.testing.assert_close(gates.log_alpha(), torch.tensor([-8.0, 0.0, 5.0]))
    gates.threshold = 1 / (1 + math.exp(3.0))  # log alpha > 3
    assert gates.kept().tolist() == [True, True, False]
    assert gates.mean_mask().tolist() == [2.0, 2.0, 0.0]
    gates.threshold = 1 / (1 + math.exp(-2.8))
    assert gates.kept().tolist() == [True, False, False]


def test_keep_prob_is_that_of_bernoulli_noise_with_the_same_ratio():
    gates = layer(loc=-1.5, log_alpha=(-1.0, 1.0))
    z = gates.posterior()["scale"].rsample((40_000,)).detach()
    keep = gates.keep_prob().detach()
    assert_mean_close(z[::2] * z[1::2] - keep * (z[::2] ** 2 + z[1::2] ** 2) / 2, 0.0)


def test_limit_of_no_noise_is_a_constant():
    gates = layer(loc=0.7, log_alpha=(-80.0,) * 3)
    torch.testing.assert_close(gates(torch.ones(5, 3)), torch.full((5, 3), 0.7))


def test_the_weights_of_a_unit_have_its_scale_as_standard_deviation():
    # w = z w~ with w~ of N(0, 1): the variance given z is z^2.
    scale, weight = torch.tensor([0.3, 2.0]), torch.randn(40_000, 2)
    assert_mean_close((scale * weight).square(), scale.square())


def test_divergences_of_scales_and_weights_add():
    net = bd.convert(nn.Sequential(nn.Linear(3, 2)), "normal-jeffreys", weights="gaussian-weights")
    parts = [owner.kl_divergence() for _, owner in bd.nn.named_owners(net)]
    assert len(parts) == 2
    torch.testing.assert_close(bd.kl_divergence(net), sum(parts))


def test_the_mask_is_the_scale_of_the_step():
    gates = layer()
    latents = gates.draw_latents()
    assert isinstance(gates.mask_distribution(latents), Delta)
    rows = gates.draw_mask(latents, torch.ones(5, 3))
    torch.testing.assert_close(rows, latents["scale"].expand(5, 3))


def test_scales_for_each_example_have_the_same_objective_and_less_noise():
    x, y = torch.randn(30, 3), torch.randn(30, 1)
    terms = []
    for shared_by in ("batch", "example"):
        torch.manual_seed(0)
        net = nn.Sequential(layer(log_alpha=(-2.0, -1.0, 0.0), shared_by=shared_by))
        net.append(nn.Linear(3, 1))
        bnn = bd.BayesianNetwork(net, bd.Gaussian(0.5), num_data=30)
        terms.append([bnn.loss(x, y) for _ in range(150)])
    torch.testing.assert_close(terms[0][0].kl, terms[1][0].kl)
    losses = [torch.stack([term.loss for term in values]).detach() for values in terms]
    assert_means_equal(*losses)
    assert float(losses[1].var()) < 0.5 * float(losses[0].var())


def test_scales_for_each_example_have_no_global_site():
    gates = layer(shared_by="example")
    assert gates.prior() == gates.posterior() == {}
    assert_mean_close(gates.draw_mask({}, torch.ones(2000, 3)).detach(), 1.0)


def test_unneeded_inputs_are_pruned_and_needed_ones_stay():
    x = torch.randn(200, 4)
    y = (2 * x[:, :1] - x[:, 1:2]) + 0.1 * torch.randn(200, 1)
    net = bd.convert(
        nn.Sequential(nn.Linear(4, 1)), "normal-jeffreys", weights="gaussian-weights",
        shared_by="example",
    )  # fmt: skip
    bnn = bd.BayesianNetwork(net, bd.Gaussian(0.1), num_data=200)
    bd.fit(bnn, (x, y), epochs=150, batch_size=200, learning_rate=0.02,
           variational_learning_rate=0.1, schedule=(), progress=False, seed=0)  # fmt: skip
    (gates,) = (gates for _, gates in bd.nn.named_dropout_layers(net))
    alpha = gates.log_alpha()
    assert bool((alpha[:2] < -5).all()) and bool((alpha[2:] > -2).all())
    gates.threshold = 1 / (1 + math.exp(-3.0))
    assert bd.compact(bnn, x[:2]).get_submodule("0").in_features == 2


def test_bad_options_raise():
    with pytest.raises(ConfigError, match="NormalJeffreysDropout: expected a finite init_log_var"):
        NormalJeffreysDropout(3, init_log_variance=math.inf)
    with pytest.raises(ConfigError, match="unknown shared_by"):
        NormalJeffreysDropout(3, shared_by="all")
