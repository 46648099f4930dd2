"""NUTS on the keep probability of one unit, beside the exact posterior."""

import pytest
import torch
from pyro.infer import MCMC, NUTS
from torch import nn

import bayesdrop as bd

NUM_DATA = 30
GRID = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000


def problem():
    """y_n = 2 z_n + noise of 0.8, z_n ~ Bernoulli(pi), pi ~ Beta(1, 1)."""
    x = torch.ones(NUM_DATA, 1)
    y = 2 * (torch.rand(NUM_DATA, 1) < 0.3).double() + 0.8 * torch.randn(NUM_DATA, 1)
    layer = bd.BetaBernoulliDropout(1, prior_concentration1=1.0, init_concentration1=1.0)
    last = nn.Linear(1, 1, bias=False)
    nn.init.constant_(last.weight, 2.0).requires_grad_(False)
    bnn = bd.BayesianNetwork(nn.Sequential(layer, last), bd.Gaussian(0.8), num_data=NUM_DATA)
    return bnn, x, y


def exact_posterior(y):
    """Mean and standard deviation of pi, by a sum over masks and an integral over a grid."""
    kept, dropped = (torch.exp(-0.5 * ((y - mean) / 0.8) ** 2) for mean in (2.0, 0.0))
    weight = (GRID * kept + (1 - GRID) * dropped).log().sum(0).softmax(0)
    mean = (weight * GRID).sum()
    return mean, (weight * (GRID - mean) ** 2).sum().sqrt()


@pytest.mark.slow
def test_nuts_with_all_masks_summed_out_samples_the_posterior():
    bnn, x, y = problem()
    kernel = NUTS(bnn.eval().model, max_tree_depth=3)
    mcmc = MCMC(kernel, num_samples=300, warmup_steps=100, disable_progbar=True)
    mcmc.run(x, y, num_masks="exact")
    effective = mcmc.diagnostics()["0.pi"]["n_eff"]
    samples = mcmc.get_samples()["0.pi"].flatten()
    mean, deviation = exact_posterior(y)
    assert float(effective) > 50
    assert bool((samples.mean() - mean).abs() < 4.4 * deviation / effective.sqrt())
    # The standard error of a deviation is below 1 / sqrt(2 n) of it for a law near the normal.
    assert bool((samples.std() / deviation - 1).abs() < 4.4 / (2 * effective).sqrt())
