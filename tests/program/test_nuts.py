"""NUTS on the keep probabilities of a tiny network, beside the fitted guide."""

import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import MCMC, NUTS, SVI, TraceMeanField_ELBO
from torch import nn

import bayesdrop as bd

NUM_DATA = 300


def problem():
    """Half of the examples see unit 0, half unit 1; y says whether that unit is kept."""
    x = torch.eye(2).repeat(NUM_DATA // 2, 1)
    kept = torch.tensor([0.42, 0.57])  # mean of y for each unit, with noise far larger than it
    y = (x @ kept).unsqueeze(-1)
    layer = bd.BetaBernoulliDropout(2, prior_concentration1=2.0, init_concentration1=1.0)
    net = nn.Sequential(layer, nn.Linear(2, 1, bias=False))
    nn.init.ones_(net[1].weight).requires_grad_(False)
    return bd.BayesianNetwork(net, bd.Gaussian(1.0), num_data=NUM_DATA), x, y


def fit(bnn, x, y):
    elbo = TraceMeanField_ELBO(num_particles=60, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 0.1}), elbo)
    seed = torch.initial_seed()
    for _ in range(200):
        torch.manual_seed(seed)  # the same particles at every step: a deterministic, quick descent
        svi.step(x, y)


@pytest.mark.slow
def test_nuts_with_all_masks_summed_out_samples_the_posterior():
    """The density is then fixed; the posterior of one unit is an integral over a grid."""
    x = torch.ones(100, 1)
    y = 2 * (torch.rand(100, 1) < 0.3).double() + torch.randn(100, 1)
    layer = bd.BetaBernoulliDropout(1, prior_concentration1=1.0)
    bnn = bd.BayesianNetwork(nn.Sequential(layer), bd.Gaussian(0.5), num_data=100).eval()
    kernel = NUTS(bnn.model, max_tree_depth=3)
    mcmc = MCMC(kernel, num_samples=300, warmup_steps=100, disable_progbar=True)
    mcmc.run(x, y / 2, num_masks="exact")
    effective = mcmc.diagnostics()["0.pi"]["n_eff"]
    samples = mcmc.get_samples()["0.pi"].flatten()

    grid = (torch.arange(2000) + 0.5) / 2000
    kept, dropped = (torch.exp(-0.5 * (y - mean) ** 2) for mean in (2.0, 0.0))
    weight = (grid * kept + (1 - grid) * dropped).log().sum(0).softmax(0)
    mean = (weight * grid).sum()
    deviation = (weight * (grid - mean) ** 2).sum().sqrt()
    assert float(effective) > 50
    assert bool((samples.mean() - mean).abs() < 4.4 * deviation / effective.sqrt())
    # The standard error of a deviation is below 1 / sqrt(2 n) of it for a law near the normal.
    assert bool((samples.std() / deviation - 1).abs() < 4.4 / (2 * effective).sqrt())


@pytest.mark.slow
def test_nuts_agrees_with_the_fitted_guide_and_not_with_an_untrained_one():
    # As q(z | pi) = p(z | pi), the guide's target is p(pi) exp(sum_n E[log p(y_n | z_n)]). With
    # the masks' noise held fixed the model's density is a Monte Carlo estimate of it, one draw an
    # example, and a smooth function of pi.
    bnn, x, y = problem()
    untrained = bnn.network[0].keep_prob().detach()
    kernel = NUTS(poutine.seed(bnn.model, rng_seed=1), max_tree_depth=3)
    mcmc = MCMC(kernel, num_samples=200, warmup_steps=80, disable_progbar=True)
    mcmc.run(x, y)
    summary = mcmc.diagnostics()["0.pi"]
    assert bool((summary["n_eff"] > 30).all())
    samples = mcmc.get_samples()["0.pi"]
    mean, deviation = samples.mean(0), samples.std(0)

    fit(bnn, x, y)
    fitted = bnn.network[0].keep_prob().detach()
    # Monte Carlo error at z = 4.4, and the gap: the family and the fixed noise move the mean by
    # less than a fifth of the posterior's deviation.
    tolerance = 4.4 * deviation / summary["n_eff"].sqrt() + 0.2 * deviation
    assert bool(((fitted - mean).abs() < tolerance).all()), ((fitted - mean) / deviation).tolist()
    assert bool(((untrained - mean).abs() > tolerance).all())
