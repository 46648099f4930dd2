import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from bayesdrop.distributions import LogNormal
from bayesdrop.testing import assert_follows_cdf, assert_goodness_of_fit, assert_mean_close

LOC = torch.tensor([-1.0, 0.3, 2.0], dtype=torch.float64)
SCALE = torch.tensor([0.2, 1.0, 0.5], dtype=torch.float64)
PRIORS = [dist.Gamma(0.5, 0.7), dist.InverseGamma(0.5, 0.7), dist.LogNormal(0.2, 0.9)]


def test_samples_have_the_density():
    fn = LogNormal(torch.tensor(0.3), torch.tensor(0.8))
    samples = fn.rsample((20_000,))
    assert_goodness_of_fit(samples, fn.log_prob(samples))
    assert_follows_cdf(samples, fn.cdf)


def test_its_noise_can_be_replaced(same_noise):
    fn = LogNormal(LOC, SCALE)
    assert torch.equal(fn.rsample((5,)), fn.rsample((5,)))


def test_expand_keeps_the_class():
    wide = LogNormal(LOC, SCALE).expand((4, 3))
    assert type(wide) is LogNormal
    assert wide.rsample((2,)).shape == (2, 4, 3)


@pytest.mark.parametrize("prior", PRIORS, ids=lambda p: type(p).__name__)
def test_divergences_equal_monte_carlo_plain_and_under_to_event(prior):
    q, p = LogNormal(LOC, SCALE), prior.expand((3,))
    value = q.rsample((50_000,))
    kl = kl_divergence(q, p)
    assert_mean_close(q.log_prob(value) - p.log_prob(value), kl)
    torch.testing.assert_close(kl_divergence(q.to_event(1), p.to_event(1)), kl.sum())


def test_gradients_are_finite_in_single_precision():
    loc = torch.tensor([-30.0, 30.0], dtype=torch.float32, requires_grad=True)
    q = LogNormal(loc, torch.full((2,), 0.1))
    q.rsample().sum().backward()
    assert bool(loc.grad.isfinite().all())
    with pytest.raises(ValueError, match="scale"):
        LogNormal(torch.zeros(1), torch.zeros(1), validate_args=True)
