import json
import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import bayesdrop as bd
from bayesdrop.diagnostics import guide
from bayesdrop.diagnostics.arviz_bridge import import_arviz, pareto_smooth
from bayesdrop.errors import ConfigError, DataError
from bayesdrop.testing import TEST_FAILURE_RATE

pytest.importorskip("arviz")
import_arviz()

NOISE = 0.5


class WeightDropout(bd.BayesianDropout):
    """Multiplies unit k by w_k ~ N(0, 1): linear regression, whose posterior is known."""

    key, reference = "weight", ""

    def __init__(self, num_units, loc, scale):
        super().__init__(num_units)
        self.loc, self.scale = nn.Parameter(loc.clone()), nn.Parameter(scale.clone())

    def prior(self):
        return {"w": dist.Normal(torch.zeros_like(self.loc), 1.0).to_event(1)}

    def posterior(self):
        return {"w": dist.Normal(self.loc, self.scale).to_event(1)}

    def mask_distribution(self, latents, x=None):
        return dist.Delta(latents["w"]).to_event(1)

    def keep_prob(self):
        return torch.ones_like(self.loc)

    def mean_mask(self, x=None):
        return self.loc


def conjugate(width=1.0, shift=0.0, rows_per_unit=5, units=2):
    """Each row sees one unit: the posterior is a product of Gaussians; the guide's is scaled."""
    x = torch.eye(units).repeat(rows_per_unit, 1)
    y = (x @ torch.linspace(-1, 1, units) + NOISE * torch.randn(len(x))).unsqueeze(-1)
    precision = 1 + rows_per_unit / NOISE**2
    loc = (x * y).sum(0) / NOISE**2 / precision
    scale = torch.full((units,), precision**-0.5)
    layer = WeightDropout(units, loc + shift * scale, width * scale)
    net = nn.Sequential(layer, nn.Linear(units, 1, bias=False))
    nn.init.ones_(net[1].weight)
    return bd.BayesianNetwork(net, bd.Gaussian(NOISE), num_data=len(x)), (x, y)


def test_the_exact_posterior_has_equal_ratios():
    bnn, data = conjugate()
    result = bd.guide_diagnostic(bnn, data, num_samples=200, num_masks=1)
    assert float(result.log_ratios.max() - result.log_ratios.min()) < 1e-8
    assert result.pareto_k == -math.inf and result.reliable
    assert result.verdict.startswith("Good")
    assert result.effective_sample_size == pytest.approx(200)


def test_all_draws_have_the_same_noise_in_their_masks(monkeypatch):
    """Draws that do not differ have one likelihood, however few the masks that estimate it."""
    net = nn.Sequential(bd.BetaBernoulliDropout(6), nn.Linear(6, 3))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=40)
    data, found, inner = (torch.randn(40, 6), torch.randint(3, (40,))), [], guide.evaluate_draws

    def evaluate_one(bnn, data, draws, **options):
        for part in inner(bnn, data, [draws[0]] * len(draws), **options):
            found.append(part.log_likelihood)
            yield part

    monkeypatch.setattr(guide, "evaluate_draws", evaluate_one)
    bd.guide_diagnostic(bnn, data, num_samples=100, num_masks=2)
    values = torch.cat(found, 1)
    assert values.shape == (100, 40) and bool((values == values[:1]).all())


def test_the_effective_sample_size_is_that_of_known_weights(monkeypatch):
    weights = np.full(100, 0.25 / 98)
    weights[:2] = 0.5, 0.25
    monkeypatch.setattr(guide, "pareto_smooth", lambda ratios: (np.log(weights), np.array(0.4)))
    bnn, data = conjugate()
    result = bd.guide_diagnostic(bnn, data, num_samples=100, num_masks=1)
    assert result.effective_sample_size == pytest.approx(1 / (0.25 + 0.0625 + 0.0625 / 98))


def test_log_ratios_are_the_log_evidence_where_the_guide_is_exact():
    bnn, (x, y) = conjugate()
    result = bd.guide_diagnostic(bnn, (x, y), num_samples=100, num_masks=1)
    covariance = NOISE**2 * torch.eye(len(x)) + x @ x.T
    evidence = dist.MultivariateNormal(torch.zeros(len(x)), covariance).log_prob(y[:, 0])
    torch.testing.assert_close(result.log_ratios, evidence.expand(100))


def test_a_guide_that_is_too_wide_is_good_and_one_too_narrow_is_poor():
    bnn, data = conjugate(width=1.3)
    wide = bd.guide_diagnostic(bnn, data, num_samples=500, num_masks=1)
    assert wide.pareto_k < 0.5 and wide.verdict.startswith("Good")
    bnn, data = conjugate(width=0.1, units=8)
    narrow = bd.guide_diagnostic(bnn, data, num_samples=1000, num_masks=1)
    assert narrow.pareto_k > 0.7 and not narrow.reliable
    assert narrow.verdict.startswith("Poor") and "8 latents" in narrow.verdict
    assert narrow.effective_sample_size < wide.effective_sample_size


@pytest.mark.parametrize("k", [0.2, 0.6, 1.0])
def test_k_is_the_shape_of_a_pareto_tail(k):
    # log of a Pareto variable of shape k is exponential with mean k.
    size = 20_000
    ratios = k * torch.empty(size).exponential_().numpy()
    tail = 3 * math.sqrt(size)
    # The estimate's asymptotic standard error, (1 + k) / sqrt(tail), and its prior: ten draws'
    # worth of 0.5.
    z = dist.Normal(0.0, 1.0).icdf(torch.tensor(1 - TEST_FAILURE_RATE / 2))
    tolerance = float(z) * (1 + k) / math.sqrt(tail) + 10 / (tail + 10) * abs(k - 0.5)
    weights, estimate = pareto_smooth(ratios)
    assert abs(estimate - k) < tolerance
    assert np.exp(weights).sum() == pytest.approx(1.0)


def test_ratios_whose_largest_are_equal_stay_as_they_are():
    ratios = np.array([0.0] * 60 + [-1.0] * 40)
    weights, k = pareto_smooth(np.stack([ratios, np.zeros(100)]))
    assert k.tolist() == [-np.inf, -np.inf]
    np.testing.assert_allclose(np.exp(weights[0]), np.exp(ratios) / np.exp(ratios).sum())
    np.testing.assert_allclose(np.exp(weights[1]), 0.01)


def test_one_layer_can_be_asked_about_alone():
    exact, data = conjugate()
    narrow = WeightDropout(1, torch.zeros(1), torch.full((1,), 1e-3))
    bnn = bd.BayesianNetwork(
        nn.Sequential(exact.network, narrow), exact.likelihood, num_data=exact.num_data
    )
    with torch.no_grad():
        narrow.loc.fill_(1.0)  # the second layer multiplies by about one
    only = bd.guide_diagnostic(bnn, data, layer="0.0", num_samples=200, num_masks=1)
    assert only.layer == "0.0" and only.num_latents == 2
    assert only.pareto_k < 0.5
    both = bd.guide_diagnostic(bnn, data, num_samples=200, num_masks=1)
    assert both.num_latents == 3 and both.layer is None
    assert both.pareto_k > only.pareto_k


@pytest.mark.parametrize("key", list(bd.nn.registered(bd.BayesianDropout)))
def test_every_registered_dropout_has_a_diagnostic(key):
    net = nn.Sequential(bd.nn.make(key, 4), nn.Linear(4, 3), bd.nn.make(key, 3))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=10)
    data = TensorDataset(torch.randn(10, 4), torch.arange(10) % 3)
    if not any(owner.posterior() for _, owner in bnn.named_owners()):
        with pytest.raises(ConfigError, match="got no latents"):
            bd.guide_diagnostic(bnn, data, num_samples=100)
        return
    a, b = (bd.guide_diagnostic(bnn, data, num_samples=100, num_masks=2, seed=1) for _ in "ab")
    assert torch.isfinite(a.log_ratios).all() and torch.equal(a.log_ratios, b.log_ratios)
    assert 1.0 <= a.effective_sample_size <= 100.0
    assert bnn.training


def test_more_masks_leave_less_noise_in_the_ratios():
    net = nn.Sequential(bd.BetaBernoulliDropout(4, init_concentration1=1.0), nn.Linear(4, 3))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=50)
    data = torch.randn(50, 4), torch.arange(50) % 3
    ratios = {
        masks: bd.guide_diagnostic(bnn, data, num_samples=100, num_masks=masks, seed=0).log_ratios
        for masks in (1, 30, 100)
    }
    assert (ratios[30] - ratios[100]).std() < 0.5 * (ratios[1] - ratios[100]).std()


def test_the_result_is_json():
    bnn, data = conjugate(width=0.9)
    result = bd.guide_diagnostic(bnn, data, num_samples=100, num_masks=1)
    figures = json.loads(json.dumps(result.to_dict()))
    assert figures["threshold"] == pytest.approx(0.5)
    assert figures["verdict"] == result.verdict
    usable = bd.diagnostics.GuideDiagnostic(0.6, 0.7, 50.0, 2200, 1, 3)
    assert usable.verdict.startswith("Usable") and usable.reliable


# -- errors --------------------------------------------------------------------------------------


def test_it_needs_the_whole_training_set_with_targets():
    bnn, (x, y) = conjugate()
    with pytest.raises(ConfigError, match="num_data=10 examples, got 9"):
        bd.guide_diagnostic(bnn, (x[:9], y[:9]))
    with pytest.raises(DataError, match="expected the training set with its targets"):
        bd.guide_diagnostic(bnn, x)
    with pytest.raises(DataError, match="expected the training set with its targets"):
        bd.guide_diagnostic(bnn, TensorDataset(x))


def test_bad_options_raise():
    bnn, data = conjugate()
    with pytest.raises(ConfigError, match="num_samples of at least 100"):
        bd.guide_diagnostic(bnn, data, num_samples=99)
    for given in ({"batch_size": 2.5}, {"memory_limit": math.nan}):
        with pytest.raises(ConfigError, match="batch_size and memory_limit"):
            bd.guide_diagnostic(bnn, data, **given)
    with pytest.raises(ConfigError, match=r"unknown dropout layer 'fc'.* Available: 0"):
        bd.guide_diagnostic(bnn, data, layer="fc")
    with pytest.raises(ConfigError, match="there is nothing to draw"):
        plain = bd.BayesianNetwork(nn.Linear(2, 1), bd.Gaussian(1.0), num_data=10)
        bd.guide_diagnostic(plain, data)


def test_latents_without_a_density_raise():
    class NoLatents(WeightDropout):
        def prior(self):
            return {}

        def posterior(self):
            return {}

        def mask_distribution(self, latents, x=None):
            return dist.Bernoulli(torch.full((2,), 0.5)).to_event(1)

    net = nn.Sequential(NoLatents(2, torch.zeros(2), torch.ones(2)), nn.Linear(2, 1))
    bnn = bd.BayesianNetwork(net, bd.Gaussian(1.0), num_data=10)
    with pytest.raises(ConfigError, match="got no latents"):
        bd.guide_diagnostic(bnn, (torch.zeros(10, 2), torch.zeros(10, 1)))

    class Improper(dist.TorchDistribution):
        arg_constraints = {}
        support = dist.constraints.real

    class ImproperPrior(WeightDropout):
        def prior(self):
            return {"w": Improper(torch.Size((2,))).to_event(1)}

    net = nn.Sequential(ImproperPrior(2, torch.zeros(2), torch.ones(2)), nn.Linear(2, 1))
    bnn = bd.BayesianNetwork(net, bd.Gaussian(1.0), num_data=10)
    with pytest.raises(ConfigError, match="without log_prob"):
        bd.guide_diagnostic(bnn, (torch.zeros(10, 2), torch.zeros(10, 1)))
