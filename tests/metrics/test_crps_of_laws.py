"""CRPS of counts and of Student's t against closed forms and the definition."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

import bayesdrop as bd
from bayesdrop.likelihoods import NegativeBinomial, Poisson, StudentT
from bayesdrop.metrics.crps_of_laws import crps_of_counts, crps_of_student_t


def one(values):
    return torch.tensor([[float(v)] for v in np.atleast_1d(values)])


def poisson(y, rate):
    """Wei and Held (2014): the closed form of one law."""
    law = scipy.stats.poisson(rate)
    bessel = scipy.special.ive(0, 2 * rate) + scipy.special.ive(1, 2 * rate)
    return (y - rate) * (2 * law.cdf(y) - 1) + 2 * rate * law.pmf(y) - rate * bessel


def student(z, df):
    law = scipy.stats.t(df)
    ratio = scipy.special.beta(0.5, df - 0.5) / scipy.special.beta(0.5, df / 2) ** 2
    known = z * (2 * law.cdf(z) - 1) + 2 * law.pdf(z) * (df + z * z) / (df - 1)
    return known - 2 * math.sqrt(df) / (df - 1) * ratio


@pytest.mark.parametrize(
    ("rate", "y", "golden"),
    # To 15 digits from the sum of (F(k) - [k >= y])^2 in 40 digits of mpmath.
    [(5.0, 5, 0.509193604939086), (0.3, 1, 0.550188954577011), (1500.0, 1500, 9.05016133743601)],
)
def test_a_poisson_law_has_its_closed_form(rate, y, golden):
    found = float(crps_of_counts(one(rate), one(rate), torch.tensor([y])))
    assert found == pytest.approx(golden, rel=1e-10)
    assert golden == pytest.approx(poisson(y, rate), rel=1e-9)


@pytest.mark.parametrize("rate", [0.0, 0.3, 60.0, 5000.0])
@pytest.mark.parametrize("factor", [0.0, 1.0, 4.0])
def test_far_and_near_targets_of_small_and_large_rates(rate, factor):
    y = float(round(factor * rate) + (factor > 1))
    expected = poisson(y, rate) if rate else y
    found = float(crps_of_counts(one(rate), one(rate), torch.tensor([y])))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("dispersion", [0.01, 0.5, 3.0])
@pytest.mark.parametrize("mean", [0.1, 40.0, 3000.0])
def test_a_mixture_of_counts_is_the_sum(mean, dispersion):
    means = torch.tensor([[mean], [1.5 * mean], [0.8 * mean]])
    variances = means + dispersion * means.square()
    variances[2] = means[2]  # one of them a Poisson law
    y = round(mean)
    k = np.arange(12 * (1 + 3 * dispersion) * (mean + 20))
    n = 1 / dispersion
    parts = [scipy.stats.nbinom.cdf(k, n, n / (n + float(m))) for m in means[:2]]
    cdf = (parts[0] + parts[1] + scipy.stats.poisson.cdf(k, float(means[2]))) / 3
    found = float(crps_of_counts(means, variances, torch.tensor([y])))
    # Summed where counts are small, integrated beyond; with a shape of 1/3 to a part of 10,000.
    rel = 1e-9 if mean < 1000 else 1e-5
    assert found == pytest.approx(((cdf - (k >= y)) ** 2).sum(), rel=rel)


@pytest.mark.parametrize(
    ("df", "z", "golden"),
    # To 15 digits from the closed form in 40 digits of mpmath.
    [(3.0, 0.0, 0.275664447710896), (6.0, 1.0, 0.603103978770387)],
)
def test_a_student_law_has_its_closed_form(df, z, golden):
    found = crps_of_student_t(one(1.0), one(4.0 * df / (df - 2)), df, torch.tensor([1 + 2 * z]))
    assert float(found) == pytest.approx(2 * golden, rel=1e-7)
    assert golden == pytest.approx(student(z, df), rel=1e-9)


def test_with_many_degrees_of_freedom_a_mixture_is_normal():
    means, scales, y = 2 * torch.randn(7, 20), 0.3 + torch.rand(7, 20), torch.randn(20)
    expected = bd.metrics.continuous_ranked_probability_score(means, y, scales.square())
    found = crps_of_student_t(means, scales.square(), 1e7, y).mean()
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_a_mixture_of_student_laws_is_the_integral():
    means, scale, df, y = np.array([[-2.0], [0.5], [8.0]]), 0.7, 2.5, 6.0
    below, above = (np.linspace(a, b, 200_001) for a, b in ((-400.0, y), (y, 400.0)))
    cdfs = [scipy.stats.t.cdf((x - means) / scale, df).mean(0) for x in (below, above)]
    expected = np.trapezoid(cdfs[0] ** 2, below) + np.trapezoid((1 - cdfs[1]) ** 2, above)
    variance = scale**2 * df / (df - 2)
    found = crps_of_student_t(
        torch.tensor(means), torch.full((3, 1), variance), df, torch.tensor([y])
    )
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "likelihood", [Poisson(), NegativeBinomial(0.5), StudentT(1.0, df=5.0)], ids=repr
)
def test_evaluation_reports_it(likelihood):
    net = torch.nn.Sequential(bd.BetaBernoulliDropout(4), torch.nn.Linear(4, 2))
    bnn = bd.BayesianNetwork(net, likelihood, num_data=30)
    data = torch.randn(30, 4), torch.poisson(torch.ones(30, 2))
    result = bd.evaluate(bnn, data, num_samples=5, keep_samples=True, seed=0)
    samples, variances = result.prediction.samples, result.prediction.sample_variances
    draws = 8_000 // len(samples)
    if isinstance(likelihood, Poisson):
        law = torch.distributions.Poisson(samples)
    elif isinstance(likelihood, NegativeBinomial):
        law = torch.distributions.NegativeBinomial(2.0, samples / (samples + 2.0))
    else:
        law = torch.distributions.StudentT(5.0, samples, 1.0)
    drawn = law.sample((draws,)).flatten(0, 1)
    torch.testing.assert_close(
        variances, law.variance.expand_as(samples), rtol=1e-5, atol=0.0, check_dtype=False
    )
    # Draws are their own empirical law; its error falls with their number.
    expected = bd.metrics.continuous_ranked_probability_score(drawn, data[1])
    assert result.crps == pytest.approx(expected, rel=0.02)
    assert result.width is None
    assert bd.evaluate(bnn, data, num_samples=5, seed=0).crps is None
