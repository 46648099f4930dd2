import numpy as np
import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.diagnostics.arviz_bridge import import_arviz
from bayesdrop.likelihoods import NegativeBinomial, Poisson

import_arviz()
import arviz as az  # noqa: E402


@pytest.mark.parametrize("likelihood", [Poisson(), NegativeBinomial(0.5), bd.Bernoulli()])
def test_counts_and_yes_or_no_are_integers_so_that_loo_pit_is_uniform(likelihood):
    torch.manual_seed(0)
    net = nn.Sequential(bd.BetaBernoulliDropout(3), nn.Linear(3, 1))
    net[0].set_posterior(torch.full((3,), 20.0))
    nn.init.constant_(net[1].bias, -1.0)  # many zeros, which are ties
    x = torch.randn(200, 3)
    y = likelihood.distribution(net.eval()(x)).sample()
    bnn = bd.BayesianNetwork(net, likelihood, num_data=200)
    idata = bd.to_inference_data(bnn, x, y, num_samples=200, num_masks=8, seed=0)
    for group in (idata.observed_data, idata.posterior_predictive):
        assert group["obs"].dtype == np.int64
    # P(y <= obs), as of a continuous law, has a mean of 0.75 and more here.
    assert abs(float(az.loo_pit(idata, y="obs").mean()) - 0.5) < 0.08


def test_targets_of_a_regression_stay_floats():
    bnn = bd.BayesianNetwork(
        nn.Sequential(bd.BetaBernoulliDropout(3), nn.Linear(3, 1)), bd.Gaussian(), num_data=5
    )
    idata = bd.to_inference_data(bnn, torch.randn(5, 3), torch.arange(5), num_samples=4)
    assert idata.observed_data["obs"].dtype.kind == "f"
