"""bd.loo against leave-one-out by quadrature, on one unit whose posterior is known."""

import json
import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesdrop as bd
from bayesdrop.diagnostics.arviz_bridge import import_arviz
from bayesdrop.errors import ConfigError, DataError, FewMasksWarning, ReliabilityWarning

pytest.importorskip("arviz")
az = import_arviz()
# Pareto k of a guide that is only like the posterior is now and then above the threshold.
pytestmark = pytest.mark.filterwarnings("ignore::bayesdrop.errors.ReliabilityWarning")

GRID = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000


class OneUnit:
    """y_n = 2 z_n + N(0, 1), z_n ~ Bernoulli(pi), pi ~ Beta(1, 1), by quadrature over pi."""

    def __init__(self, keep, rows):
        self.y = 2 * (torch.rand(rows) < keep).double() + torch.randn(rows)
        kept, dropped = (dist.Normal(mean, 1.0).log_prob(self.y).exp() for mean in (2.0, 0.0))
        # (rows, grid): the mask summed out.
        self.log_likelihood = (GRID * kept[:, None] + (1 - GRID) * dropped[:, None]).log()
        self.total = self.log_likelihood.sum(0)
        posterior = self.total.softmax(0)
        self.mean = float((GRID * posterior).sum())
        self.sd = math.sqrt(float((GRID**2 * posterior).sum()) - self.mean**2)

    def elpd(self):
        """Exact log p(y_n | y_-n) of each example."""
        return self.total.logsumexp(0) - (self.total - self.log_likelihood).logsumexp(1)

    def p_loo(self):
        density = (self.total + self.log_likelihood).logsumexp(1) - self.total.logsumexp(0)
        return float((density - self.elpd()).sum())

    def program(self, mean, sd, units=1):
        """The same as a network, whose guide has this mean and about this standard deviation."""
        concentration = mean * (1 - mean) / sd**2 - 1
        b = (1 - mean) * concentration
        # a for which b B(1 + 1/a, b) is the mean.
        candidates = torch.logspace(-3, 3, 20_001, dtype=torch.float64)
        log_mean = math.log(b) + math.lgamma(b) + torch.lgamma(1 + 1 / candidates)
        log_mean = log_mean - torch.lgamma(1 + 1 / candidates + b)
        a = float(candidates[(log_mean.exp() - mean).abs().argmin()])
        layer = bd.BetaBernoulliDropout(
            units, prior_concentration1=1.0, init_concentration1=a, init_concentration0=b
        )
        net = nn.Sequential(layer, nn.Linear(units, 1, bias=False))
        nn.init.zeros_(net[1].weight)
        with torch.no_grad():
            net[1].weight[0, 0] = 2.0
        bnn = bd.BayesianNetwork(net, bd.Gaussian(1.0), num_data=len(self.y))
        return bnn, (torch.ones(len(self.y), units), self.y)


def exact_within_error(result, problem):
    """Compare with quadrature, within 4.5 of the error that is claimed."""
    exact = problem.elpd()
    assert result.num_masks == "exact" and result.monte_carlo_error < 0.2
    assert abs(result.elpd - float(exact.sum())) < 4.5 * result.monte_carlo_error
    # Examples share their draws: each is as near as the sum.
    error = (result.elpd_per_example - exact).abs().max()
    assert float(error) < 4.5 * result.monte_carlo_error
    assert result.p_loo == pytest.approx(problem.p_loo(), abs=4.5 * result.monte_carlo_error)
    assert result.looic == -2 * result.elpd
    spread = math.sqrt(len(exact) * float(exact.var()))
    assert result.standard_error == pytest.approx(spread, rel=0.05)


@pytest.mark.parametrize(("keep", "rows"), [(0.8, 30), (0.2, 60)])
def test_it_is_leave_one_out_by_quadrature(keep, rows):
    problem = OneUnit(keep, rows)
    bnn, data = problem.program(problem.mean, 1.3 * problem.sd)
    exact_within_error(bd.loo(bnn, data, num_samples=1000, seed=0), problem)


@pytest.mark.filterwarnings("ignore:Estimated shape parameter")
def test_a_guide_two_deviations_off_is_corrected_for():
    problem = OneUnit(0.5, 100)
    bnn, data = problem.program(problem.mean + 2 * problem.sd, 2 * problem.sd)
    exact_within_error(bd.loo(bnn, data, num_samples=1000, seed=0), problem)
    # What corrects for the left out example alone is off by several nats.
    plain = az.loo(bd.to_inference_data(bnn, *data, num_samples=1000, seed=0))
    plain = float(plain.elpd if hasattr(plain, "elpd") else plain.elpd_loo)
    assert float(problem.elpd().sum()) - plain > 3.0


def test_the_monte_carlo_error_is_that_between_seeds():
    problem = OneUnit(0.5, 20)
    bnn, data = problem.program(problem.mean, 1.5 * problem.sd, units=2)
    found = [bd.loo(bnn, data, num_samples=100, num_masks=8, seed=seed) for seed in range(10)]
    spread = float(torch.tensor([result.elpd for result in found]).std())
    claimed = float(torch.tensor([result.monte_carlo_error for result in found]).mean())
    # A standard deviation from 10 values is known to 24 %.
    assert 0.45 * spread < claimed < 2.5 * spread
    exact = bd.loo(bnn, data, num_samples=100, seed=0)
    assert exact.num_masks == "exact" and exact.monte_carlo_error < 0.5 * claimed


def test_sampled_masks_come_near_the_sum_over_all():
    problem = OneUnit(0.8, 30)
    bnn, data = problem.program(problem.mean, 1.3 * problem.sd, units=8)  # seven say nothing
    result = bd.loo(bnn, data, num_samples=400, seed=1)
    assert result.num_masks == 32
    assert abs(result.elpd - float(problem.elpd().sum())) < 5 * result.monte_carlo_error


def test_a_far_guide_warns_and_says_what_to_do():
    problem = OneUnit(0.5, 200)
    bnn, data = problem.program(0.95, 0.03)
    with pytest.warns(ReliabilityWarning, match="loo: Unreliable: Pareto k .* guide is too far"):
        result = bd.loo(bnn, data, num_samples=500, seed=0)
    assert result.pareto_k > result.threshold and result.num_unreliable > 100
    assert "num_masks=8 or 'exact'" in result.verdict and "held-out data" in result.verdict


def test_single_examples_that_matter_too_much_are_named_as_that():
    values = torch.tensor([0.1, 0.9])
    result = bd.diagnostics.LeaveOneOut(
        -9.0, 1.0, 0.1, 2.0, 0.2, 0.7, 2, 3000, 32, torch.tensor([-4.0, -5.0]), values
    )
    assert result.num_unreliable == 1
    assert "1 of 2 examples, up to 0.90, though the guide is near" in result.verdict
    assert "K-fold" in result.verdict
    record = json.loads(json.dumps(result.to_dict()))
    assert record["looic"] == 18.0 and record["verdict"] == result.verdict
    assert "elpd_per_example" not in record


def test_without_latents_it_is_the_log_marginal_likelihood():
    bnn = bd.BayesianNetwork(
        nn.Sequential(bd.MonteCarloDropout(4, drop_prob=0.5), nn.Linear(4, 3)),
        bd.Categorical(),
        num_data=12,
    )
    x, y = torch.randn(12, 4), torch.arange(12) % 3
    result = bd.loo(bnn, (x, y), num_samples=100, num_masks=500, seed=0)
    density = bd.predict(bnn, x, num_samples=2000, shared_by="example", seed=1)
    expected = density.samples.double().mean(0)[range(12), y].log()
    torch.testing.assert_close(result.elpd_per_example, expected, atol=0.3, rtol=0.0)
    assert result.pareto_k == -math.inf and abs(result.p_loo) < 1e-9


@pytest.mark.parametrize("kind", ["dataset", "loader"])
def test_every_kind_of_data_gives_the_same(kind):
    problem = OneUnit(0.5, 20)
    bnn, (x, y) = problem.program(0.5, 0.1)
    plain = bd.loo(bnn, (x, y), num_samples=200, seed=0)
    dataset = TensorDataset(x, y)
    other = DataLoader(dataset, batch_size=7) if kind == "loader" else dataset
    torch.testing.assert_close(
        bd.loo(bnn, other, num_samples=200, seed=0).elpd_per_example, plain.elpd_per_example
    )


@pytest.mark.skipif(not hasattr(az, "loo_approximate_posterior"), reason="new in ArviZ 1")
def test_it_is_what_arviz_1_makes_of_the_same_densities():
    problem = OneUnit(0.5, 40)
    bnn, data = problem.program(problem.mean, 1.3 * problem.sd)
    ours = bd.loo(bnn, data, num_samples=500, seed=0)
    # The same draws: loo draws the seed of its masks after them.
    idata = bd.to_inference_data(bnn, *data, num_samples=500, seed=0)
    stats = idata.sample_stats
    log_p = (stats["log_prior"] + idata.log_likelihood["obs"].sum("example")).values[0]
    theirs = az.loo_approximate_posterior(
        idata, log_p, stats["log_guide"].values[0], pointwise=True
    )
    np.testing.assert_allclose(theirs.elpd_i.values, ours.elpd_per_example, rtol=1e-6)
    np.testing.assert_allclose(theirs.se, ours.standard_error, rtol=1e-6)


# -- errors --------------------------------------------------------------------------------------


def test_bad_input_is_refused():
    problem = OneUnit(0.5, 10)
    bnn, (x, y) = problem.program(0.5, 0.1)
    with pytest.raises(ConfigError, match="loo: expected the training set, bnn.num_data=10"):
        bd.loo(bnn, (x[:9], y[:9]))
    with pytest.raises(DataError, match="loo: expected the training set with its targets"):
        bd.loo(bnn, x)
    with pytest.raises(DataError, match="loo: expected the training set with its targets"):
        bd.loo(bnn, TensorDataset(x), num_samples=100)
    with pytest.raises(ConfigError, match="loo: expected num_samples of at least 100"):
        bd.loo(bnn, (x, y), num_samples=50)
    with pytest.raises(ConfigError, match="loo: expected a result of at most memory_limit"):
        bd.loo(bnn, (x, y), memory_limit=1000)
    with pytest.raises(ConfigError, match="loo: expected a BayesianNetwork"):
        bd.loo(nn.Linear(1, 1), (x, y))
    with pytest.warns(FewMasksWarning, match="loo: expected several masks"):
        bd.loo(bnn, (x, y), num_samples=100, num_masks=1, seed=0)
