"""Statistical assertions with one failure rate for the whole suite."""

import math
from unittest import mock

import torch
from pyro.distributions.testing import gof
from scipy.stats import chi2, kstest, norm

TEST_FAILURE_RATE = 2e-5
"""Probability that one statistical assertion fails on correct code."""

_ROUNDING = 1e-12  # of a mean in float64, relative: what never varies has no other error


def _critical_value(comparisons):
    # Two-sided, Bonferroni over the elements compared.
    return float(norm.ppf(1 - TEST_FAILURE_RATE / 2 / max(1, comparisons)))


def assert_mean_close(samples, target):
    """Fail if the mean of ``samples`` over dimension 0 is not ``target``.

    Choose the number of samples so that ``z * sd / sqrt(n)`` is at most half the error to catch.
    """
    samples = torch.as_tensor(samples).detach().double()
    target = torch.as_tensor(target).detach().double()
    error = samples.mean(0) - target
    standard_error = samples.std(0) / math.sqrt(samples.shape[0])
    z = _critical_value(error.numel())
    rounding = _ROUNDING * samples.abs().amax(0).clamp(min=1.0)
    bound = z * standard_error + rounding
    assert torch.all(error.abs() <= bound), f"error / SE = {error / standard_error}"


def assert_means_equal(samples, others):
    """Fail if two sets of samples (over dimension 0) do not have the same mean."""
    samples, others = (torch.as_tensor(s).detach().double() for s in (samples, others))
    error = samples.mean(0) - others.mean(0)
    variance = samples.var(0) / samples.shape[0] + others.var(0) / others.shape[0]
    z = _critical_value(error.numel())
    bound = z * variance.sqrt() + _ROUNDING * samples.abs().amax(0).clamp(min=1.0)
    assert torch.all(error.abs() <= bound), f"error / SE = {error / variance.sqrt()}"


def assert_goodness_of_fit(samples, log_density):
    """Fail if continuous ``samples`` do not have the density that they claim."""
    # Pyro's own chi2sf returns values near 1 for large statistics: with it, samples whose scale is
    # wrong by a factor of 1.5 pass with p = 0.9999999997.
    with mock.patch.object(gof, "chi2sf", chi2.sf):
        p_value = gof.auto_goodness_of_fit(samples.detach(), log_density.detach().exp())
    assert p_value > TEST_FAILURE_RATE, f"p = {p_value:.2g}"


def assert_follows_cdf(samples, cdf):
    """Fail if ``samples`` do not have the distribution function ``cdf`` (Kolmogorov-Smirnov)."""
    p_value = kstest(samples.detach().numpy(), lambda x: cdf(torch.as_tensor(x)).numpy()).pvalue
    assert p_value > TEST_FAILURE_RATE, f"p = {p_value:.2g}"
