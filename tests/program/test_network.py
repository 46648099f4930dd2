import math

import numpy as np
import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.distributions import Beta
from pyro.infer import SVI, Predictive, TraceMeanField_ELBO
from scipy.optimize import minimize
from torch import nn
from torch.distributions import kl_divergence

import bayesdrop as bd
from bayesdrop.distributions import Kumaraswamy
from bayesdrop.errors import ConfigError, DataError
from bayesdrop.program.network import BayesianNetwork
from bayesdrop.testing import assert_mean_close


def network(width=4):
    return nn.Sequential(bd.BetaBernoulliDropout(width), nn.Linear(width, 3))


def batch(rows=8, width=4):
    return torch.randn(rows, width), torch.randint(3, (rows,))


# -- a posterior that is known --------------------------------------------------------------------
#
# One unit, y_n ~ N(z_n, 1) and pi ~ Beta(2, 1). The ELBO's optimum over all q(pi) is
# q*(pi) ~ p(pi) exp(sum_n E[log p(y_n | z_n)]), with z_n given pi the relaxed mask: one integral
# over its noise for each pi, and one over pi.

PRIOR = Beta(torch.tensor(2.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))
Y = torch.linspace(-1.5, 2.2, 20, dtype=torch.float64).unsqueeze(-1) + 0.03
NODES = (torch.arange(500, dtype=torch.float64) + 0.5) / 500


def tiny():
    layer = bd.BetaBernoulliDropout(1, prior_concentration1=2.0)
    return BayesianNetwork(nn.Sequential(layer), bd.Gaussian(1.0), num_data=len(Y))


def expected_log_likelihood(pi):
    """E over the relaxed mask of sum_n log p(y_n | z_n), up to a constant, for each ``pi``."""
    z = torch.sigmoid((torch.logit(pi)[:, None] + torch.logit(NODES)) / 0.1)
    # -1/2 sum_n (y_n - z)^2, of which only two sums of y matter.
    return (Y.sum() * z - 0.5 * len(Y) * z.square()).mean(1)


def exact_moments():
    log_q = PRIOR.log_prob(NODES) + expected_log_likelihood(NODES)
    weight = (log_q - log_q.max()).exp()
    mean = float((weight * NODES).sum() / weight.sum())
    return mean, float((weight * (NODES - mean) ** 2).sum() / weight.sum()) ** 0.5


def best_kumaraswamy():
    """The concentrations that minimise the exact loss, by quadrature."""

    def loss(log_concentrations):
        q = Kumaraswamy(*torch.as_tensor(log_concentrations).exp())
        return float(kl_divergence(q, PRIOR) - expected_log_likelihood(q.icdf(NODES)).mean())

    result = minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-4})
    return np.exp(result.x)


def test_gradient_vanishes_in_expectation_at_the_known_optimum():
    bnn, x = tiny(), torch.ones(len(Y), 1)
    layer = bnn.network[0]

    def gradients(count):
        losses = [bnn.loss(x, Y).loss for _ in range(count)]
        return torch.stack(
            [torch.cat(torch.autograd.grad(loss, list(layer.parameters()))) for loss in losses]
        )

    with pytest.raises(AssertionError, match="error / SE"):
        assert_mean_close(gradients(300), torch.zeros(2))
    layer.set_posterior(*map(float, best_kumaraswamy()))
    assert_mean_close(gradients(1000), torch.zeros(2))


def test_svi_recovers_the_known_posterior():
    bnn, x = tiny(), torch.ones(len(Y), 1)
    elbo = TraceMeanField_ELBO(num_particles=5000, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 0.1}), elbo)
    seed = torch.initial_seed()
    for _ in range(120):
        torch.manual_seed(seed)  # the same particles at every step: a deterministic, quick descent
        svi.step(x, Y)
    q = bnn.network[0].posterior()["pi"]
    mean, deviation = exact_moments()
    # 5000 particles say 0.05 deviations; the best Kumaraswamy is 0.03 from the exact mean.
    assert abs(float(q.mean.detach()) - mean) < 0.2 * deviation
    assert abs(float(q.variance.detach()) ** 0.5 - deviation) < 0.2 * deviation
    assert abs(float(tiny().network[0].keep_prob().detach()) - mean) > deviation


def test_uninformative_data_give_back_the_prior():
    layer = bd.BetaBernoulliDropout(2, prior_concentration1=0.7)
    bnn = BayesianNetwork(nn.Sequential(layer, nn.Linear(2, 3)), bd.Categorical(), num_data=8)
    nn.init.zeros_(bnn.network[1].weight).requires_grad_(False)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(600):
        optimiser.zero_grad()
        bnn.loss(*batch(width=2)).loss.backward()
        optimiser.step()
    # Kumaraswamy(c, 1) is Beta(c, 1), so the family has no gap and the optimum has no noise.
    assert float(layer.kl_divergence().detach()) < 1e-4
    torch.testing.assert_close(layer.keep_prob(), torch.full((2,), 0.7 / 1.7), rtol=1e-3, atol=0)


# -- the program ----------------------------------------------------------------------------------


def test_a_network_without_dropout_layers_is_legal():
    bnn = BayesianNetwork(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)), bd.Categorical(), 8)
    x, y = batch()
    assert float(bnn.loss(x, y).kl) == 0
    assert bnn.units() == bnn.units_total() == []
    svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({}), TraceMeanField_ELBO())
    assert math.isfinite(svi.step(x, y))
    assert Predictive(bnn.model, guide=bnn.guide, num_samples=3)(x)["obs"].shape == (3, 8)


def test_units_are_counted_in_network_order():
    net = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 3), bd.BetaBernoulliDropout(3))
    with torch.no_grad():
        net[0].location[1:] = -9.0
    bnn = BayesianNetwork(net, bd.Categorical(), num_data=8)
    assert bnn.units() == [1, 3]
    assert bnn.units_total() == [4, 3]


def test_calling_it_runs_the_network():
    bnn, (x, _) = BayesianNetwork(network(), bd.Categorical(), num_data=8).eval(), batch()
    assert torch.equal(bnn(x), bnn.network(x))
    assert "num_data=8" in repr(bnn)


def test_draw_latents_gives_one_draw_of_each_layer():
    bnn = BayesianNetwork(network(), bd.Categorical(), num_data=8)
    (latents,) = bnn.draw_latents().values()
    assert latents["pi"].shape == (4,)


def test_frozen_parameters_stay_out_of_the_store():
    bnn = BayesianNetwork(network(), bd.Categorical(), num_data=8, name="net")
    bnn.network[1].requires_grad_(False)
    bnn.model(*batch())
    assert set(pyro.get_param_store().keys()) == {
        "net.network.0.location",
        "net.network.0.log_shape",
    }


def test_channels_last_parameters_are_trained():
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    bnn = BayesianNetwork(net.to(memory_format=torch.channels_last), bd.Categorical(), num_data=8)
    before = net[0].weight.detach().clone()
    svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 0.1}), TraceMeanField_ELBO())
    svi.step(torch.randn(8, 2, 4, 4), torch.randint(3, (8,)))
    assert not torch.equal(net[0].weight, before)


def test_a_replaced_parameter_is_trained():
    bnn = BayesianNetwork(network(), bd.Categorical(), num_data=8)
    svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 0.1}), TraceMeanField_ELBO())
    svi.step(*batch())
    bnn.network[1].weight = nn.Parameter(torch.zeros(3, 4))
    svi.step(*batch())
    assert bool((bnn.network[1].weight != 0).any())


def test_networks_of_the_same_name_are_refused():
    first, second = (BayesianNetwork(network(), bd.Categorical(), 8, name="net") for _ in "ab")
    first.model(*batch())
    with pytest.raises(ConfigError, match="under 'net.network.0.*got that of another network"):
        second.model(*batch())


def test_models_without_targets_sample_them():
    bnn, (x, _) = BayesianNetwork(network(), bd.Categorical(), num_data=100), batch()
    node = poutine.trace(bnn.model).get_trace(x).nodes["obs"]
    assert not node["is_observed"]
    assert node["scale"] == 1.0
    assert node["value"].shape == (8,)


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_data", [0, -3])
def test_num_data_must_be_positive(num_data):
    with pytest.raises(ConfigError, match=f"num_data >= 1.*got num_data={num_data}.*len"):
        BayesianNetwork(network(), bd.Categorical(), num_data=num_data)


def test_the_likelihood_must_be_one():
    with pytest.raises(ConfigError, match=r"a likelihood object such as bd.Categorical\(\)"):
        BayesianNetwork(network(), bd.Categorical, num_data=8)


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_kl_weight_must_be_positive_and_finite(value):
    with pytest.raises(ConfigError, match=f"a finite kl_weight > 0, got kl_weight={value}"):
        BayesianNetwork(network(), bd.Categorical(), num_data=8, kl_weight=value)
    bnn = BayesianNetwork(network(), bd.Categorical(), num_data=8)
    with pytest.raises(ConfigError, match="a finite kl_weight > 0"):
        bnn.kl_weight = value


def programs(bnn):
    return {"model": bnn.model, "guide": bnn.guide, "loss": bnn.loss}


@pytest.mark.parametrize("program", ["model", "guide", "loss"])
def test_bad_batches_raise(program):
    run = programs(BayesianNetwork(network(), bd.Categorical(), num_data=8))[program]
    with pytest.raises(DataError, match=r"at least one example, got x of shape \(0, 4\)"):
        run(*batch(0))
    with pytest.raises(DataError, match="a batch of at most num_data=8 examples, got 9 examples"):
        run(*batch(9))
