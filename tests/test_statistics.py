import pytest
import torch
from pyro.distributions import Normal

from bayesdrop.testing import (
    assert_follows_cdf,
    assert_goodness_of_fit,
    assert_mean_close,
    assert_means_equal,
)


def test_mean_assertions_pass_on_the_mean_and_fail_beside_it():
    samples = torch.randn(10_000, 3)
    assert_mean_close(samples, torch.zeros(3))
    assert_means_equal(samples, torch.randn(10_000, 3))
    for assertion, other in [
        (assert_mean_close, torch.tensor([0.0, 0.0, 0.1])),
        (assert_means_equal, torch.randn(10_000, 3) + 0.1),
    ]:
        with pytest.raises(AssertionError, match="error / SE"):
            assertion(samples, other)


def test_what_is_not_random_may_differ_by_rounding_alone():
    constant = torch.full((10,), 0.1, dtype=torch.float64)
    others = torch.full((7,), 0.1 + 1e-16, dtype=torch.float64)
    assert_means_equal(constant, others)
    with pytest.raises(AssertionError, match="error / SE"):
        assert_means_equal(constant, others + 1e-11)
    with pytest.raises(AssertionError, match="error / SE"):
        assert_mean_close(constant, 0.1 + 1e-11)


@pytest.mark.parametrize("scale", [1.5, 3.0])
def test_goodness_of_fit_fails_on_another_density(scale):
    samples = torch.randn(20_000)
    right, wrong = Normal(0.0, 1.0), Normal(0.0, scale)
    assert_goodness_of_fit(samples, right.log_prob(samples))
    assert_follows_cdf(samples, right.cdf)
    with pytest.raises(AssertionError, match="p ="):
        assert_goodness_of_fit(samples, wrong.log_prob(samples))
    with pytest.raises(AssertionError, match="p ="):
        assert_follows_cdf(samples, wrong.cdf)
