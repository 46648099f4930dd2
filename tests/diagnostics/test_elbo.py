import copy
import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

import bayesdrop as bd
from bayesdrop.diagnostics import check_elbo
from bayesdrop.diagnostics.elbo import _check_gradients
from bayesdrop.errors import ConfigError, DataError
from bayesdrop.typing import LossTerms

SAMPLES = {"num_samples": 1000, "num_repeats": 10}


def network(first=None, dropout="beta-bernoulli"):
    return nn.Sequential(
        bd.nn.make(dropout, 4) if first is None else first, nn.Linear(4, 5),
        nn.BatchNorm1d(5), nn.ReLU(), bd.nn.make(dropout, 5), nn.Linear(5, 3),
    )  # fmt: skip


def bayesian(first=None, cls=bd.BayesianNetwork, **options):
    return cls(network(first, **options), bd.Categorical(), num_data=500)


def data(rows=17):
    return torch.randn(rows, 4), torch.arange(rows) % 3


def failed(result):
    """Return the checks that failed, without the layer's names."""
    return {row.check for row in result.failures()}


# -- correct networks pass ------------------------------------------------------------------------


# Every registered layer: in the contract.
@pytest.mark.parametrize("dropout", ["beta-bernoulli", "mc-dropout"])
def test_what_is_checked_depends_on_whether_there_are_latents(dropout):
    bnn = bayesian(dropout=dropout)
    result = check_elbo(bnn, *data(), **SAMPLES)
    assert result.passed, str(result)
    has_latents = any(owner.posterior() for _, owner in bnn.named_owners())
    assert {row.check for row in result.rows} == {
        *(["prior support"] if has_latents else []), "KL divergence",
        "batch size, plain loss, NLL", "batch size, plain loss, KL", "batch size, Pyro",
        "gradient",
    }  # fmt: skip


@pytest.mark.parametrize("num_masks", [3, "exact"])
def test_several_masks_pass(num_masks):
    net = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 3))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=500)
    result = check_elbo(bnn, *data(), **SAMPLES, num_masks=num_masks)
    assert result.passed, str(result)
    assert result.rows != check_elbo(bnn, *data(), **SAMPLES).rows


@pytest.mark.parametrize("likelihood", [bd.Gaussian("learned", num_outputs=3), bd.Bernoulli()])
def test_other_likelihoods_and_weights_pass(likelihood):
    bnn = bd.BayesianNetwork(network(), likelihood, num_data=500, kl_weight=0.3)
    x, _ = data()
    result = check_elbo(bnn, x, torch.randint(0, 2, (17, 3)).double(), **SAMPLES)
    assert result.passed, str(result)
    groups = {row.where for row in result.rows if row.check == "gradient"}
    assert groups >= {"weights", "0", "4"}
    assert ("likelihood" in groups) == isinstance(likelihood, bd.Gaussian)


def test_a_network_without_dropout_has_no_kl_rows():
    bnn = bd.BayesianNetwork(nn.Linear(4, 3), bd.Categorical(), num_data=500)
    result = check_elbo(bnn, *data(), **SAMPLES)
    assert result.passed, str(result)
    assert "KL divergence" not in {row.check for row in result.rows}


def test_a_scaled_kl_is_divided_by_its_scale():
    layer = bd.BetaBernoulliDropout(4, kl_scale=7.0)
    (row,) = [
        row
        for row in check_elbo(bayesian(layer), *data(), **SAMPLES).rows
        if row.check == "KL divergence" and row.where == "0"
    ]
    assert row.passed
    assert row.value == pytest.approx(float(layer.kl_divergence().detach()) / 7.0)


def test_units_beyond_float64_are_named_and_the_rest_is_checked():
    layer = bd.BetaBernoulliDropout(4)
    layer.set_posterior(torch.tensor([1e-4, 5.0, 5.0, 5.0]))
    rows = check_elbo(bayesian(layer), *data(), **SAMPLES).rows
    (row,) = [row for row in rows if row.check == "KL divergence" and row.where == "0"]
    assert "1 of 4 units not checked" in row.detail
    assert row.passed
    wrong = copy.deepcopy(layer)
    wrong.__class__ = WrongKL
    rows = check_elbo(bayesian(wrong), *data(), **SAMPLES).rows
    (row,) = [row for row in rows if row.check == "KL divergence" and row.where == "0"]
    assert not row.passed


def test_the_table_is_reproducible_and_nothing_is_changed():
    bnn, (x, y) = bayesian(), data()
    bnn.train()
    before = copy.deepcopy(bnn.state_dict())
    state, names = torch.random.get_rng_state(), list(pyro.get_param_store())
    first = check_elbo(bnn, x, y, seed=3, **SAMPLES)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert list(pyro.get_param_store()) == names
    torch.rand(4)
    assert str(check_elbo(bnn, x, y, seed=3, **SAMPLES)) == str(first)
    assert str(check_elbo(bnn, x, y, seed=4, **SAMPLES)) != str(first)
    assert all(module.training for module in bnn.modules())
    for name, value in bnn.state_dict().items():
        assert torch.equal(value, before[name])
    assert json.loads(json.dumps(first.to_dict()))["passed"] is True
    assert str(first).count("\n") == 1 + len(first.rows)


def test_a_pair_is_inputs_and_targets():
    bnn, (x, y) = bayesian(), data()
    assert str(check_elbo(bnn, (x, y), **SAMPLES)) == str(check_elbo(bnn, x, y, **SAMPLES))
    with pytest.raises(DataError, match="check_elbo: expected y to be a tensor, got None"):
        check_elbo(bnn, x)


def test_float32_networks_are_checked_in_float64():
    bnn, (x, y) = bayesian().float(), data()
    assert check_elbo(bnn, x.float(), y, **SAMPLES).passed
    assert next(bnn.parameters()).dtype == torch.float32


# -- planted bugs fail ----------------------------------------------------------------------------


class WrongKL(bd.BetaBernoulliDropout):
    """Off by a tenth of a nat per unit, 1 % of the divergence."""

    def kl_divergence(self, posterior=None, **options):
        return super().kl_divergence(posterior, **options) + 0.1 * self.num_units


class NoKL(bd.BetaBernoulliDropout):
    def kl_divergence(self, posterior=None, **options):
        return 0.0 * super().kl_divergence(posterior, **options)


@pytest.mark.parametrize("layer", [WrongKL, NoKL])
def test_a_wrong_kl_fails(layer):
    result = check_elbo(bayesian(layer(4)), *data(), num_samples=10_000, num_repeats=10)
    assert failed(result) == {"KL divergence"}
    assert [row.where for row in result.failures()] == ["0"]
    assert "**FAIL**" in str(result)


class OutsideSupport(bd.BetaBernoulliDropout):
    """A normal posterior for a probability."""

    def posterior(self):
        loc = self.location.sigmoid()
        return {"pi": dist.Normal(loc, 0.5).to_event(1)}

    def mask_distribution(self, latents, x=None):
        return super().mask_distribution({"pi": latents["pi"].clamp(0.01, 0.99)}, x)

    def kl_divergence(self, posterior=None, **options):
        return self.location.square().sum()


def test_mass_outside_the_priors_support_fails():
    result = check_elbo(bayesian(OutsideSupport(4)), *data(), **SAMPLES)
    rows = {row.check: row for row in result.failures() if row.where in ("0", "0.pi")}
    # Normal(sigmoid(5), 0.5), about half of it above 1.
    assert rows["prior support"].value == pytest.approx(0.5, abs=0.1)
    assert rows["KL divergence"].expected == math.inf
    assert failed(result) == set(rows)
    assert not [row for row in result.rows if row.check.startswith("batch size")]


class Unregistered(bd.BetaBernoulliDropout):
    def posterior(self):
        return {"pi": dist.LogNormal(self.location, 0.1).to_event(1)}


def test_a_pair_without_a_closed_form_fails_alone():
    result = check_elbo(bayesian(Unregistered(4)), *data(), **SAMPLES)
    (row,) = [row for row in result.failures() if row.check == "KL divergence"]
    assert "no closed form is registered" in row.detail
    assert not [row for row in result.rows if row.check.startswith("batch size")]


class KLByBatch(bd.BayesianNetwork):
    def loss(self, x, y):
        terms = super().loss(x, y)
        return LossTerms(terms.nll, terms.kl * len(x) / self.num_data)


class NLLNotScaled(bd.BayesianNetwork):
    def loss(self, x, y):
        terms = super().loss(x, y)
        return LossTerms(terms.nll * len(x) / self.num_data, terms.kl)


class PyroByBatch(bd.BayesianNetwork):
    """The KL of the Pyro pair counts once per batch, not once per data set."""

    @property
    def model(self):
        return self._by_batch(super().model)

    @property
    def guide(self):
        return self._by_batch(super().guide)

    def _by_batch(self, program):
        def run(x, y=None):
            with poutine.scale(scale=len(x) / self.num_data):
                return program(x, y)

        return run


@pytest.mark.parametrize(
    ("cls", "check"),
    [
        (KLByBatch, "batch size, plain loss, KL"),
        (NLLNotScaled, "batch size, plain loss, NLL"),
        (PyroByBatch, "batch size, Pyro"),
    ],
)
def test_a_loss_that_depends_on_the_batch_size_fails(cls, check):
    result = check_elbo(bayesian(cls=cls), *data(), **SAMPLES)
    assert failed(result) == {check}
    assert len(result.failures()) == 2  # halves and quarters


class Detached(bd.BetaBernoulliDropout):
    def draw_latents(self):
        return {name: value.detach() for name, value in super().draw_latents().items()}

    def posterior(self):
        (q,) = super().posterior().values()
        a, b = (getattr(q.base_dist, f"concentration{i}").detach() for i in (1, 0))
        return {"pi": type(q.base_dist)(a, b).to_event(1)}


class NaNGradient(bd.BetaBernoulliDropout):
    def kl_divergence(self, posterior=None, **options):
        # sqrt(0) has an infinite slope, times zero.
        zero = (self.location - self.location.detach()).sum()
        return super().kl_divergence(posterior, **options) + (zero * zero).sqrt()


@pytest.mark.parametrize(
    ("layer", "detail"),
    [(Detached, "no gradient reaches network.0.location"), (NaNGradient, "mean nan")],
)
def test_lost_and_non_finite_gradients_fail(layer, detail):
    result = check_elbo(bayesian(layer(4)), *data(), **SAMPLES)
    assert failed(result) == {"gradient"}
    (row,) = result.failures()
    assert row.where == "0"
    assert detail in row.detail


def test_gradient_noise_is_that_of_the_draws():
    # One weight, one unit: d loss / d w = -N z x / sigma^2 (y - w z x), z a mask.
    bnn = bd.BayesianNetwork(
        nn.Sequential(bd.BetaBernoulliDropout(1), nn.Linear(1, 1, bias=False)),
        bd.Gaussian(1.0),
        num_data=4,
    )
    bnn.network[1].weight.data.fill_(0.0)
    x = torch.ones(4, 1)
    rows = _check_gradients(bnn, x, torch.ones(4), {}, num_repeats=1000)
    (row,) = [row for row in rows if row.where == "weights"]
    # -sum of the four masks, which share pi.
    layer = bnn.network[0].train()
    draws = torch.stack([layer(x).detach().sum() for _ in range(1000)])
    noise = float(draws.std() / draws.mean())
    # The ratio of two standard deviations of 1,000 draws each, kurtosis below 9.
    assert row.value == pytest.approx(noise, rel=4.3 * math.sqrt(2 * 8 / 4 / 1000))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"bnn": nn.Linear(4, 3)}, ConfigError, "expected a BayesianNetwork, .* got a Linear"),
        ({"num_samples": 10}, ConfigError, "num_samples >= 100"),
        ({"num_repeats": 1}, ConfigError, "num_repeats >= 10"),
        ({"x": torch.zeros(3, 4), "y": torch.zeros(3).long()}, DataError, "at least 4 examples"),
    ],
)
def test_bad_requests_are_refused(change, error, message):
    x, y = data()
    request = {"bnn": bayesian(), "x": x, "y": y, **change}
    with pytest.raises(error, match=f"check_elbo: expected .*{message}|check_elbo: {message}"):
        check_elbo(**request)


def test_an_auto_encoder_is_refused_and_told_why():
    vae = bd.networks.vae(20, input_shape=4, latent_size=2)
    with pytest.raises(ConfigError, match="got a VariationalAutoencoder.*example's own latents"):
        bd.check_elbo(vae, torch.zeros(8, 4), torch.zeros(8, 4))
