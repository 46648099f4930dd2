import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from pyro.distributions import Beta
from scipy.integrate import quad
from scipy.stats import kstest
from torch.distributions import kl_divergence

from bayesdrop.distributions import Kumaraswamy
from bayesdrop.distributions.kumaraswamy import expected_log1m
from bayesdrop.ops.stable import log1mexp
from bayesdrop.testing import TEST_FAILURE_RATE, assert_mean_close
from tests.distributions import laws

PARAMETERS = [(0.3133, 1.0), (0.5, 0.5), (2.0, 3.0), (5.0, 0.7), (20.0, 30.0)]
CONCENTRATIONS = [1e-3, 1e-2, 0.1, 1.0, 10.0, 1e2, 1e3]
CORNERS = torch.tensor(list(itertools.product(CONCENTRATIONS, repeat=2))).T


def make(a, b):
    return Kumaraswamy(torch.as_tensor(a), torch.as_tensor(b))


def quantiles(fn):
    return [float(fn.icdf(torch.tensor(u))) for u in (1e-4, 0.01, 0.3, 0.7, 0.99, 0.9999)]


def expectation(fn, function):
    """E f(x) by quadrature over the quantile function, which has no singular density."""
    value = quad(lambda u: float(function(fn.icdf(torch.tensor(u)))), 0, 1, limit=400)
    return value[0]


def test_shapes():
    laws.check_shapes(Kumaraswamy)


def test_expand():
    laws.check_expand(Kumaraswamy)


def test_mask_silences_the_density():
    laws.check_mask_silences(Kumaraswamy)


def test_dtype_is_that_of_the_concentrations():
    laws.check_keeps_dtype(Kumaraswamy, ["mean", "variance"])


def test_numbers_become_tensors():
    assert Kumaraswamy(2, 3.0).rsample().shape == ()


@pytest.mark.parametrize(("a", "b"), PARAMETERS)
def test_log_prob_equals_the_formula(a, b):
    x = np.linspace(0.01, 0.99, 21)
    expected = np.log(a * b) + (a - 1) * np.log(x) + (b - 1) * np.log1p(-(x**a))
    actual = make(a, b).log_prob(torch.as_tensor(x))
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(("a", "b"), PARAMETERS)
def test_log_prob_equals_that_of_torch(a, b):
    x = torch.linspace(0.4, 0.95, 21)  # where torch's is finite
    reference = torch.distributions.Kumaraswamy(torch.tensor(a), torch.tensor(b))
    torch.testing.assert_close(make(a, b).log_prob(x), reference.log_prob(x), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(make(a, b).mean, reference.mean)
    torch.testing.assert_close(make(a, b).variance, reference.variance)


@pytest.mark.parametrize(("a", "b"), [(2.0, 3.0), (5.0, 1.7), (20.0, 30.0)])
def test_density_integrates_to_one(a, b):
    fn = make(a, b)
    laws.check_density_integrates_to_one(fn, quantiles(fn))


@pytest.mark.parametrize(("a", "b"), PARAMETERS)
def test_samples_fit_the_density(a, b):
    laws.check_fits_its_density(make(a, b))


@pytest.mark.parametrize(("a", "b"), PARAMETERS)
def test_cdf_and_icdf_are_inverse(a, b):
    laws.check_cdf_inverse(make(a, b))


@pytest.mark.parametrize(("a", "b"), [(2.0, 3.0), (5.0, 1.7), (20.0, 30.0)])
def test_cdf_is_the_integral_of_the_density(a, b):
    fn = make(a, b)
    laws.check_cdf_is_the_integral(fn, fn.icdf(torch.tensor(0.4)))


@pytest.mark.parametrize(("a", "b"), PARAMETERS)
def test_moments_equal_quadrature(a, b):
    fn = make(a, b)
    mean = expectation(fn, lambda x: x)
    variance = expectation(fn, lambda x: (x - mean) ** 2)
    np.testing.assert_allclose(float(fn.mean), mean, rtol=1e-6)
    np.testing.assert_allclose(float(fn.variance), variance, rtol=1e-6)


def test_mean_golden():
    torch.testing.assert_close(make(3.0, 2.0).mean, torch.tensor(0.642857), rtol=0, atol=5e-7)


def test_log_mean_is_accurate_near_one_and_below_the_smallest_float():
    # E x = a / (a + 1) for b = 1.
    a = torch.tensor([1e6, 3.0], dtype=torch.float32)
    log_mean = Kumaraswamy(a, 1.0).log_mean
    torch.testing.assert_close(log_mean, -torch.log1p(1 / a), rtol=1e-6, atol=0)
    fn = Kumaraswamy(torch.tensor(1e-3), torch.tensor(2.0))
    # b B(1 + 1/a, b) = 2 / ((1/a + 1) (1/a + 2)).
    torch.testing.assert_close(fn.log_mean.exp(), torch.tensor(2 / (1001 * 1002)))
    tiny = Kumaraswamy(torch.tensor(1e-3, dtype=torch.float32), torch.tensor(1e3)).log_mean
    assert tiny < math.log(torch.finfo(torch.float32).tiny)
    assert bool(tiny.isfinite())


@pytest.mark.parametrize(("a", "b"), PARAMETERS)
def test_mean_equals_that_of_samples(a, b):
    laws.check_mean_equals_samples(make(a, b))


@pytest.mark.parametrize(("a", "b"), PARAMETERS)
def test_entropy_equals_quadrature(a, b):
    fn = make(a, b)
    expected = expectation(fn, lambda x: -fn.log_prob(x))
    np.testing.assert_allclose(float(fn.entropy()), expected, rtol=1e-6)


def test_rsample_log_is_exact_below_the_smallest_float():
    a, b = torch.tensor(1e-3), torch.tensor(1.0)
    log_x = Kumaraswamy(a, b).rsample_log((20_000,))
    assert bool((log_x < math.log(torch.finfo(torch.float64).tiny)).any())
    assert_mean_close(log_x, -1 / a)  # E log x = -(gamma + psi(b + 1)) / a


def test_pathwise_gradient_equals_finite_differences():
    laws.check_pathwise_gradient(Kumaraswamy, [0.8, 1.7])


def test_float32_corners_are_finite():
    laws.check_finite(Kumaraswamy, CORNERS)


@pytest.mark.parametrize("name", ["mean", "variance", "entropy", "kl closed", "kl quadrature"])
def test_float32_corners_of_summaries_are_finite_and_as_in_float64(name):
    summaries = {
        "mean": lambda q: q.mean,
        "variance": lambda q: q.variance,
        "entropy": lambda q: q.entropy(),
        "kl closed": lambda q: kl_divergence(q, Beta(q.mean.new_tensor(1e-4), 1.0)),
        "kl quadrature": lambda q: kl_divergence(q, Beta(q.mean.new_tensor(0.5), 3.0)),
    }
    leaves = [p.float().requires_grad_() for p in CORNERS]
    value = summaries[name](Kumaraswamy(*leaves))
    exact = summaries[name](Kumaraswamy(*(p.detach().double() for p in leaves)))
    assert bool(value.isfinite().all())
    for gradient in torch.autograd.grad(value.sum(), leaves):
        assert bool(gradient.isfinite().all())
    # Terms of size up to |exact| + log(1e6) are added up in float32.
    torch.testing.assert_close(value.double(), exact, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("a", "b"), [(-1.0, 1.0), (1.0, 0.0), (float("nan"), 1.0)])
def test_bad_concentrations_raise(a, b):
    with pytest.raises(ValueError, match="to satisfy the constraint GreaterThan"):
        make(a, b)


def test_values_outside_the_support_raise():
    with pytest.raises(ValueError, match="support"):
        make(1.0, 1.0).log_prob(torch.tensor(1.5))


# -- KL to a Beta ---------------------------------------------------------------------------------

GOLDEN = [
    ((3.0, 2.0), (5.0, 1.0), 0.682322, 5e-7),
    ((0.8, 4.0), (10.0, 1.0), 22.068899, 5e-7),
    ((2.0, 0.5), (4.0, 1.0), 0.227411, 5e-7),
    ((5.0, 1.0), (5.0, 1.0), 0.0, 5e-7),
    ((1.0, 1.0), (1.0, 5.0), 2.391, 5e-4),
    ((0.5, 0.5), (1.0, 5.0), 4.65, 5e-3),
    ((10.0, 0.5), (1.0, 5.0), 16.72, 5e-3),
    ((2.0, 3.0), (1.0, 5.0), 1.399, 5e-4),
]


@pytest.mark.parametrize(("q", "p", "expected", "atol"), GOLDEN)
def test_kl_golden(q, p, expected, atol):
    kl = float(kl_divergence(make(*q), Beta(*map(torch.tensor, p))))
    np.testing.assert_allclose(kl, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("d", [0.5, 1.0, 5.0])
@pytest.mark.parametrize("events", [0, 1, 2])
def test_kl_is_registered_plain_and_under_to_event(events, d):
    q = make([[0.7, 2.0]], [[1.3], [0.4], [5.0]])
    p = Beta(torch.tensor(0.3), torch.tensor(d)).expand([3, 2])
    kl = kl_divergence(q.to_event(events), p.to_event(events))
    assert kl.shape == q.batch_shape[: 2 - events]
    torch.testing.assert_close(kl.sum(), kl_divergence(q, p).sum())


@pytest.mark.parametrize("p", [(0.5, 1.0), (1.0, 5.0), (3.0, 0.5)])
@pytest.mark.parametrize(("a", "b"), PARAMETERS)
def test_kl_equals_monte_carlo(a, b, p):
    q, p = make(a, b), Beta(*map(torch.tensor, p))
    x = q.rsample((100_000,))
    assert_mean_close(q.log_prob(x) - p.log_prob(x), kl_divergence(q, p))


@pytest.mark.parametrize("c", CONCENTRATIONS)
def test_kl_of_equal_distributions_is_zero(c):
    kl = kl_divergence(make(c, 1.0), Beta(torch.tensor(c), 1.0))
    torch.testing.assert_close(kl, torch.tensor(0.0), rtol=0, atol=1e-13)
    # Kumaraswamy(1, d) is Beta(1, d), here by quadrature.
    kl = kl_divergence(make(1.0, c), Beta(1.0, torch.tensor(c)))
    torch.testing.assert_close(kl, torch.tensor(0.0), rtol=0, atol=1e-8)


@pytest.mark.parametrize("c", [0.5, 3.0])
def test_a_prior_that_is_learned_has_its_gradient_at_one_too(c):
    def kl(c, d):
        return kl_divergence(Kumaraswamy(torch.tensor(2.0), torch.tensor(3.0)), Beta(c, d))

    c, d = torch.tensor(c, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    found = torch.autograd.grad(kl(c, d), (c, d))
    step = 1e-5
    expected = (
        (kl(c + step, d) - kl(c - step, d)) / (2 * step),
        (kl(c, d + step) - kl(c, d - step)) / (2 * step),
    )
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_quadrature_meets_the_closed_form_at_one():
    a, b = CORNERS
    near = kl_divergence(make(a, b), Beta(0.3, torch.tensor(1.0 + 1e-12)))
    torch.testing.assert_close(
        near, kl_divergence(make(a, b), Beta(0.3, 1.0)), rtol=1e-9, atol=1e-9
    )


def exact_expected_log1m(a, b):
    with mpmath.workdps(25):
        a, b = mpmath.mpf(a), mpmath.mpf(b)

        def integrand(log_s):
            s = mpmath.exp(log_s)
            t = s / b
            log_x = (mpmath.log1p(-mpmath.exp(-t)) if t > 1 else mpmath.log(-mpmath.expm1(-t))) / a
            far = mpmath.log1p(-mpmath.exp(log_x)) if log_x < -1 else None
            log1m_x = mpmath.log(-mpmath.expm1(log_x)) if far is None else far
            return s * mpmath.exp(-s) * log1m_x

        return float(mpmath.quad(integrand, [-70, -40, -25, -15, -9, -6, -4, -2, 0, 2, 3, 4, 5]))


@pytest.mark.parametrize("b", [1e-3, 0.1, 1.0, 10.0, 1e3])
@pytest.mark.parametrize("a", [1e-3, 0.1, 1.0, 1e3])
def test_expected_log1m_equals_25_digit_quadrature(a, b):
    actual = float(expected_log1m(torch.tensor(a), torch.tensor(b)))
    np.testing.assert_allclose(actual, exact_expected_log1m(a, b), rtol=1e-10, atol=1e-20)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_expected_log1m_and_its_gradient_hold_in_both_precisions(dtype):
    """It is closed for a = 1, where x is Beta(1, b), and for b = 1, where x is Beta(a, 1)."""
    b = torch.logspace(-3, 4, 50, dtype=dtype).requires_grad_()
    a = torch.ones_like(b).requires_grad_()
    value = expected_log1m(a, b)
    value.sum().backward()
    single = dtype == torch.float32
    tolerance = {"rtol": 2e-6 if single else 1e-10, "atol": 0.0}
    of_slope = {"rtol": 2e-5 if single else 1e-9, "atol": 0.0}
    torch.testing.assert_close(value, -1 / b, **tolerance)
    torch.testing.assert_close(b.grad, 1 / b.detach() ** 2, **of_slope)
    a = torch.logspace(-3, 3, 50, dtype=dtype).requires_grad_()
    value = expected_log1m(a, torch.ones_like(a))
    value.sum().backward()
    expected = -torch.digamma(a.detach().double() + 1) - np.euler_gamma
    torch.testing.assert_close(value, expected.to(dtype), **tolerance)
    slope = -torch.polygamma(1, a.detach().double() + 1)
    torch.testing.assert_close(a.grad, slope.to(dtype), **of_slope)


@pytest.mark.parametrize("d", [0.5, 1.0, 5.0])
def test_kl_gradient_equals_finite_differences(d):
    a = torch.tensor([1e-3, 0.1, 1.0, 30.0, 1e3]).requires_grad_()
    b = torch.tensor([1.0, 1e-2, 2.0, 1e3, 0.3]).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: kl_divergence(Kumaraswamy(a.exp(), b.exp()), Beta(0.2, torch.tensor(d))),
        (a.log().detach().requires_grad_(), b.log().detach().requires_grad_()),
        atol=1e-3,
        rtol=1e-4,
    )


@pytest.mark.parametrize("a", [1e-3, 0.5, 30.0, 1e4])
@pytest.mark.parametrize("b", [1e-3, 1.0, 50.0])
def test_log_density_at_log_odds_is_that_at_the_value(a, b):
    q = Kumaraswamy(torch.tensor(a), torch.tensor(b))
    logit = torch.linspace(-30.0, 20.0, 41)
    with mpmath.workdps(60):
        odds = [mpmath.exp(mpmath.mpf(float(value))) for value in logit]
        x = [o / (1 + o) for o in odds]
        rest = [(b - 1) * mpmath.log(1 - v ** mpmath.mpf(a)) for v in x]
        power = [mpmath.log(a * b) + (a - 1) * mpmath.log(v) for v in x]
    expected = [float(p + r) for p, r in zip(power, rest, strict=True)]
    got = q.log_prob_at_logit(logit)
    torch.testing.assert_close(got, torch.tensor(expected), rtol=1e-9, atol=1e-9)
    far = torch.tensor([-1e6, 1e4])  # 1 - x^a is 1, and a (1 - x)
    edge = [math.log(a * b) - (a - 1) * 1e6, math.log(a * b) + (b - 1) * (math.log(a) - 1e4)]
    torch.testing.assert_close(q.log_prob_at_logit(far), torch.tensor(edge))


@pytest.mark.parametrize(("a", "b"), [(1e-3, 1.0), (2.0, 1e-3), (0.5, 0.5), (1e4, 3.0)])
def test_log_odds_have_the_law_of_the_samples(a, b):
    # x^a is 1 - exp(-t) with t exponential of rate b.
    logit = Kumaraswamy(torch.tensor(a), torch.tensor(b)).sample_logit((2000,))
    assert torch.isfinite(logit).all()
    log_x = -torch.nn.functional.softplus(-logit)
    minus_t = torch.where(logit > 100, math.log(a) - logit, log1mexp(a * log_x))
    assert kstest((-b * minus_t).numpy(), "expon").pvalue > TEST_FAILURE_RATE


@pytest.mark.parametrize(("c", "d"), PARAMETERS)
@pytest.mark.parametrize(("a", "b"), PARAMETERS)
def test_kl_from_another_kumaraswamy_equals_quadrature(a, b, c, d):
    q, p = make(a, b), make(c, d)
    kl = float(kl_divergence(q, p))
    by_quadrature = expectation(q, lambda x: q.log_prob(x) - p.log_prob(x))
    assert kl == pytest.approx(by_quadrature, rel=1e-5, abs=1e-6)


def test_kl_from_a_power_law_is_that_from_its_beta_and_from_itself_zero():
    a, b = CORNERS.double()
    q = Kumaraswamy(a, b)
    torch.testing.assert_close(kl_divergence(q, q), torch.zeros_like(a), rtol=0, atol=1e-8)
    power = Kumaraswamy(b, torch.ones_like(b))
    beta = kl_divergence(q, Beta(b, torch.ones_like(b)))
    torch.testing.assert_close(kl_divergence(q, power), beta)
    event = kl_divergence(q.to_event(1), power.to_event(1))
    torch.testing.assert_close(event, beta.sum())
