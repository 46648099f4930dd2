import math

import numpy as np
import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.diagnostics import log_likelihood_bound
from bayesdrop.errors import ConfigError, DataError
from bayesdrop.testing import assert_mean_close, assert_means_equal

SCALE = 0.7


def linear_gaussian(mask_posterior="structured", mask=None):
    """Two features, three linear-Gaussian outputs: given one of four masks, x is normal."""
    if mask is None:
        mask = bd.IndianBuffetDropout(2, init_concentration1=2.0, init_concentration0=1.5)
    return bd.VariationalAutoencoder(
        nn.Linear(3, 6),
        nn.Linear(2, 3),
        bd.Gaussian(SCALE),
        100,
        latent_dropout=mask,
        mask_posterior=mask_posterior,
    )


def exact(vae, x):
    """log of int q(v) sum_z p(z | v) p(x | z) dv, by quadrature over the sticks' quantiles."""
    u, weight = (torch.as_tensor(a) for a in np.polynomial.legendre.leggauss(60))
    u, weight = (u + 1) / 2, weight / 2
    q = vae.code.mask.posterior()["v"].base_dist
    v1, v2 = (q.expand([60, 2]).icdf(u.unsqueeze(1))[:, k] for k in (0, 1))
    w, b = vae.network.decoder.weight, vae.network.decoder.bias
    total = torch.zeros(len(x))
    for z1, z2 in ((0, 0), (0, 1), (1, 0), (1, 1)):
        rate1, rate2 = v1.unsqueeze(1), v1.unsqueeze(1) * v2
        p = (rate1 if z1 else 1 - rate1) * (rate2 if z2 else 1 - rate2)
        masked = w * torch.tensor([z1, z2])
        covariance = masked @ masked.T + SCALE**2 * torch.eye(3)
        density = torch.distributions.MultivariateNormal(b, covariance).log_prob(x).exp()
        total = total + (weight.unsqueeze(1) * weight * p).sum() * density
    return total.log()


@pytest.fixture
def x():
    return torch.randn(4, 3)


def repeat(vae, x, transform, calls=300, copies=20, **options):
    """Calls with rates of their own, each averaged over copies of the examples: (calls, N)."""
    rows = x.repeat(copies, 1)
    bounds = [log_likelihood_bound(vae, rows, **options).per_example for _ in range(calls)]
    return transform(torch.stack(bounds).reshape(calls, copies, len(x))).mean(1)


@pytest.mark.parametrize("mask_posterior", ["structured", "mean-field"])
@pytest.mark.parametrize("num_rates", [1, 4])
def test_average_weight_is_the_exact_likelihood(mask_posterior, num_rates, x):
    vae = linear_gaussian(mask_posterior)
    weights = repeat(vae, x, torch.exp, num_samples=4, num_rates=num_rates)
    with torch.no_grad():
        assert_mean_close(weights, exact(vae, x).exp())


def test_bound_tightens_with_samples_and_stays_below_the_exact_value(x):
    vae = linear_gaussian()
    with torch.no_grad():
        target = exact(vae, x)
    means = [
        repeat(vae, x, torch.clone, calls, 50, num_samples=count).mean(0)
        for calls, count in ((200, 1), (40, 5), (8, 50))
    ]
    assert bool((means[0] < means[1]).all() and (means[1] < means[2]).all())
    assert bool((means[2] < target).all())
    gaps = [target - mean for mean in means]
    assert bool((gaps[2] < 0.2 * gaps[0]).all())


def test_one_sample_is_the_elbo_of_the_exact_model(x):
    vae = linear_gaussian().eval()
    vae.num_data = len(x)
    bounds = [log_likelihood_bound(vae, x, num_samples=1) for _ in range(300)]
    evidence = torch.tensor([bound.evidence for bound in bounds])
    with torch.no_grad():
        losses = torch.stack([vae.loss(x).loss for _ in range(300)])
        assert bounds[0].global_kl == pytest.approx(float(vae.code.mask.kl_divergence()))
    assert_means_equal(evidence, -losses / len(x))


def test_given_rates_lies_below_and_the_metrics_differ_by_the_global_kl(x):
    bound = log_likelihood_bound(linear_gaussian(), x, num_samples=40, num_rates=4)
    assert bool((bound.given_rates <= bound.per_example).all())
    assert bound.mean - bound.published_metric == pytest.approx(bound.global_kl / 4)
    assert bound.given_rates.mean() - bound.evidence == pytest.approx(bound.global_kl / 4)
    assert bound.standard_error == pytest.approx(float(bound.per_example.std()) / 2)


def test_evidence_is_below_the_exact_evidence():
    # The sticks' posterior is their prior: one example's evidence is its marginal likelihood.
    mask = bd.IndianBuffetDropout(2, concentration=2.0, init_concentration1=2.0)
    vae, x = linear_gaussian(mask=mask), torch.randn(1, 3)
    bounds = [log_likelihood_bound(vae, x, num_samples=30, num_rates=3) for _ in range(20)]
    assert bounds[0].global_kl == pytest.approx(0.0, abs=1e-12)
    with torch.no_grad():
        assert float(exact(vae, x)) > np.mean([bound.evidence for bound in bounds])


@pytest.mark.parametrize("kl_scale", [0.01, 0.1, 3.0])
def test_the_bound_is_that_of_the_model_however_training_weighed_the_divergence(kl_scale, x):
    mask = bd.IndianBuffetDropout(2, concentration=0.2)
    vae = linear_gaussian(mask=mask)
    plain = log_likelihood_bound(vae, x, num_samples=3, seed=0)
    mask.kl_scale = kl_scale
    vae.kl_weight = 0.5
    scaled = log_likelihood_bound(vae, x, num_samples=3, seed=0)
    # KL(Beta(a, 1) || Beta(c, 1)) = log(a / c) + c / a - 1 of two sticks, in nats.
    a = mask.posterior()["v"].base_dist.concentration1[0].item()
    golden = 2 * (math.log(a / 0.2) + 0.2 / a - 1)
    assert plain.global_kl == pytest.approx(golden, rel=1e-6)
    assert golden == pytest.approx(5.955, abs=1e-3)
    assert scaled.global_kl == pytest.approx(plain.global_kl, rel=1e-12)
    assert scaled.evidence == pytest.approx(plain.evidence, rel=1e-12)
    assert scaled.published_metric == pytest.approx(plain.published_metric, rel=1e-12)


def test_a_penalty_of_the_mask_is_no_divergence_of_its_rates(x):
    vae = linear_gaussian(mask=bd.nn.NeuralPlasticityDropout(2, kl_scale=2.0))
    assert vae.code.mask.kl_divergence() > 0
    assert log_likelihood_bound(vae, x, num_samples=2).global_kl == pytest.approx(0.0, abs=1e-9)


def test_a_scaled_divergence_does_not_carry_the_evidence_over_the_exact_value():
    # The decoder ignores the code, so that every example has log-density log N(x; 0, 1) exactly.
    mask = bd.IndianBuffetDropout(2, concentration=0.2, kl_scale=0.01)
    vae = linear_gaussian(mask=mask)
    with torch.no_grad():
        vae.network.decoder.weight.zero_()
        vae.network.decoder.bias.zero_()
    x = torch.randn(4, 3)
    exact_value = float(torch.distributions.Normal(0.0, SCALE).log_prob(x).sum(1).mean())
    bound = log_likelihood_bound(vae, x, num_samples=400, num_rates=4, seed=0)
    assert bound.evidence < exact_value - 5.95 / 4 + 0.05
    assert bound.mean == pytest.approx(exact_value, abs=0.1)


def test_plain_autoencoder_against_the_exact_marginal(x):
    vae = bd.VariationalAutoencoder(
        nn.Linear(3, 4), nn.Linear(2, 3), bd.Gaussian(SCALE), 100, latent_size=2
    )
    w, b = vae.network.decoder.weight.detach(), vae.network.decoder.bias.detach()
    marginal = torch.distributions.MultivariateNormal(b, w @ w.T + SCALE**2 * torch.eye(3))
    weights = repeat(vae, x, torch.exp, num_samples=4)
    assert_mean_close(weights, marginal.log_prob(x).exp())
    assert log_likelihood_bound(vae, x).global_kl == 0.0


def test_relaxed_masks_are_another_model(x):
    vae = linear_gaussian()
    vae.code.mask.temperature.fill_(1e-4)  # at temperature 0 they are the same
    relaxed = repeat(vae, x, torch.exp, 150, num_samples=4, masks="relaxed")
    with torch.no_grad():
        assert_mean_close(relaxed, exact(vae, x).exp())
    vae.code.mask.temperature.fill_(2.0)
    with torch.no_grad():
        soft = repeat(vae, x, torch.exp, 150, num_samples=4, masks="relaxed")
        with pytest.raises(AssertionError, match="error / SE"):
            assert_mean_close(soft, exact(vae, x).exp())


def test_batches_share_the_rates_and_the_seed_leaves_the_generator_alone():
    vae, x = linear_gaussian(), torch.randn(1, 3).repeat(600, 1)
    state = torch.get_rng_state()
    first = log_likelihood_bound(vae, x, num_samples=100, num_rates=1, batch_size=100, seed=3)
    again = log_likelihood_bound(
        vae, (x, torch.zeros(600)), num_samples=100, num_rates=1, batch_size=100, seed=3
    )
    assert torch.equal(first.per_example, again.per_example)
    assert torch.equal(torch.get_rng_state(), state)
    # Copies of one example given the same rates: the batches' means agree.
    means = first.per_example.reshape(6, 100)
    assert_mean_close(means.T - means.mean(), 0.0)


def test_modes_are_restored(x):
    vae = linear_gaussian().train()
    vae.network.decoder.eval()
    log_likelihood_bound(vae, x, num_samples=2, masks="relaxed")
    assert vae.training and vae.code.training and not vae.network.decoder.training


@pytest.mark.parametrize(
    "options",
    [
        {"num_samples": 0},
        {"num_samples": 2.0},
        {"num_samples": 10, "num_rates": 3},
        {"batch_size": 0},
    ],
)
def test_bad_options_are_refused(options, x):
    with pytest.raises(ConfigError, match="log_likelihood_bound: expected num_samples >= 1"):
        log_likelihood_bound(linear_gaussian(), x, **options)


def test_unknown_masks_are_refused(x):
    with pytest.raises(ConfigError, match="Did you mean 'exact'"):
        log_likelihood_bound(linear_gaussian(), x, masks="exat")


def test_bad_data_is_refused(x):
    vae = linear_gaussian()
    with pytest.raises(DataError, match="an empty data set"):
        log_likelihood_bound(vae, x[:0])
    x[2, 1] = math.nan
    with pytest.raises(DataError, match="row 2"):
        log_likelihood_bound(vae, x, num_samples=2)


def test_what_is_no_autoencoder_is_refused(x):
    bnn = bd.BayesianNetwork(nn.Linear(3, 1), bd.Gaussian(), num_data=10)
    with pytest.raises(ConfigError, match="a VariationalAutoencoder, got a BayesianNetwork"):
        log_likelihood_bound(bnn, x)
