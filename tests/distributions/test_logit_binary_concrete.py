import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import logistic
from torch.distributions import kl_divergence

from bayesdrop.distributions import BinaryConcrete, LogitBinaryConcrete
from bayesdrop.testing import (
    assert_follows_cdf,
    assert_goodness_of_fit,
    assert_mean_close,
)
from tests.distributions import laws

PARAMETERS = [(0.3, -1.3), (0.7, 0.0), (1.0, 2.0), (2.5, -3.0)]


def make(temperature, logits):
    return LogitBinaryConcrete(temperature, logits)


def fixed(temperature, logits):
    return make(torch.tensor(temperature), torch.tensor(logits))


def test_shapes():
    laws.check_shapes(make)


def test_expand():
    laws.check_expand(make)


def test_mask_silences_the_density():
    laws.check_mask_silences(make)


def test_dtype_is_that_of_the_parameters():
    laws.check_keeps_dtype(make, ["mean", "variance"])


@pytest.mark.parametrize(("temperature", "logits"), PARAMETERS)
def test_is_a_logistic_distribution(temperature, logits):
    fn, y = fixed(temperature, logits), torch.linspace(-20, 20, 41)
    oracle = logistic(loc=logits / temperature, scale=1 / temperature)
    np.testing.assert_allclose(fn.log_prob(y), oracle.logpdf(y), rtol=1e-9)
    np.testing.assert_allclose(fn.cdf(y), oracle.cdf(y), rtol=1e-9)
    np.testing.assert_allclose([fn.mean, fn.variance], [oracle.mean(), oracle.var()], rtol=1e-12)


@pytest.mark.parametrize(("temperature", "logits"), PARAMETERS)
def test_log_prob_is_that_of_the_mask_times_the_jacobian(temperature, logits):
    z = torch.linspace(0.01, 0.99, 21)
    mask = BinaryConcrete(temperature, logits=torch.tensor(logits))
    actual = fixed(temperature, logits).log_prob(torch.logit(z)) - z.log() - (1 - z).log()
    torch.testing.assert_close(actual, mask.log_prob(z), rtol=1e-9, atol=1e-9)


def test_golden_log_prob():
    # temperature 0.3, logits -1.2, y = 2: t = -1.8, log 0.3 + t - 2 log(1 + e^t).
    expected = math.log(0.3) - 1.8 - 2 * math.log1p(math.exp(-1.8))
    torch.testing.assert_close(
        fixed(0.3, -1.2).log_prob(torch.tensor(2.0)), torch.tensor(expected)
    )


@pytest.mark.parametrize(("temperature", "logits"), PARAMETERS)
def test_samples_fit_the_density(temperature, logits):
    fn = fixed(temperature, logits)
    samples = fn.rsample((20_000,))
    assert_goodness_of_fit(samples, fn.log_prob(samples))
    assert_follows_cdf(samples, fn.cdf)


def test_cdf_and_icdf_are_inverse():
    u = torch.linspace(0.01, 0.99, 25)
    fn = fixed(0.3, -1.0)
    torch.testing.assert_close(fn.cdf(fn.icdf(u)), u, rtol=1e-9, atol=1e-12)


def test_temperature_to_zero_is_bernoulli():
    logits = torch.tensor([-2.0, 0.0, 1.0])
    z = torch.sigmoid(make(1e-6, logits).rsample((20_000,)))
    assert bool(((z < 1e-3) | (z > 1 - 1e-3)).double().mean() > 0.999)
    assert_mean_close(z.round(), torch.sigmoid(logits))


def test_pathwise_gradient_equals_finite_differences():
    laws.check_pathwise_gradient(make, [0.8, -1.2])


@pytest.mark.parametrize("difference", [-60.0, -3.0, -0.6, -0.3, 0.01, 0.49, 0.51, 5.0])
@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_kl_at_equal_temperatures_equals_quadrature(difference, temperature):
    q, p = fixed(temperature, 0.5 + difference), fixed(temperature, 0.5)

    def integrand(t):  # over the noise of q, a standard logistic
        y = (q.logits + t) / temperature
        return float((q.log_prob(y) - p.log_prob(y)) * torch.sigmoid(t) * torch.sigmoid(-t))

    expected = quad(lambda t: integrand(torch.tensor(t)), -40, 40, points=[0, -difference])[0]
    np.testing.assert_allclose(float(kl_divergence(q, p)), expected, rtol=1e-6)
    np.testing.assert_allclose(float(kl_divergence(p, q)), expected, rtol=1e-6)  # symmetric


def test_kl_is_zero_only_between_equals_and_registered_under_to_event():
    q = make(0.3, torch.tensor([0.5, -1.0])).to_event(1)
    assert kl_divergence(q, q) == 0.0
    p = make(0.3, torch.tensor([0.5, -1.1])).to_event(1)
    y = q.rsample((50_000,))
    assert float(kl_divergence(q, p)) > 0
    assert_mean_close(q.log_prob(y) - p.log_prob(y), kl_divergence(q, p))


def test_kl_between_two_temperatures_is_left_to_sampling():
    with pytest.raises(NotImplementedError, match="two temperatures"):
        kl_divergence(fixed(0.3, 0.0), fixed(0.25, 0.0))


def test_float32_corners_are_finite():
    temperatures, logits = [1e-3, 0.3, 1.0, 1e3], [-5000.0, -100.0, 0.0, 0.49, 100.0]
    corners = torch.tensor(list(itertools.product(temperatures, logits))).T.float()
    leaves = [p.clone().requires_grad_() for p in corners]
    q, p = make(*leaves), make(leaves[0].detach(), torch.tensor(0.0))
    y = q.rsample((200,))
    outputs = (y, q.log_prob(y), kl_divergence(q, make(leaves[0], torch.zeros(20))), p.log_prob(y))
    for output in outputs:
        assert bool(output.isfinite().all())
        for gradient in torch.autograd.grad(
            output.sum(), leaves, retain_graph=True, allow_unused=True
        ):
            assert gradient is None or bool(gradient.isfinite().all())


@pytest.mark.parametrize(("temperature", "logits"), [(0.0, 0.0), (1.0, math.nan)])
def test_bad_parameters_raise(temperature, logits):
    with pytest.raises(ValueError, match="to satisfy the constraint"):
        fixed(temperature, logits)


def test_values_outside_the_support_raise():
    with pytest.raises(ValueError, match="support"):
        fixed(1.0, 0.0).log_prob(torch.tensor(math.nan))
