import math

import numpy as np
import pytest
import torch
from pyro.distributions import Independent
from scipy.integrate import quad
from scipy.stats import truncnorm
from torch.distributions import kl_divergence

from bayesdrop.distributions import TruncatedLogNormal, TruncatedLogUniform
from bayesdrop.testing import assert_follows_cdf, assert_goodness_of_fit, assert_mean_close
from tests.distributions import laws

LOWER = -20.0
# loc, log scale, KL to the log-uniform prior: golden values of the specification.
KLS = [
    (0.0, -5.0, 7.2699), (0.0, 0.0, 2.2699), (-1.0, -1.0, 2.5936), (-5.0, 1.0, 0.6802),
    (-3.0, 0.5, 1.1836), (2.0, 0.0, 2.9868), (-10.0, 2.0, 0.0325),
]  # fmt: skip
MOMENTS = [
    (0.0, 0.0, 0.52316, 2.0924), (-5.0, 1.0, 0.05318, 0.4085), (-10.0, 2.0, 0.03128, 0.2705),
    (0.0, -5.0, 0.99465, 246.70),
]  # fmt: skip
PARAMETERS = [(0.0, 1.0), (-1.0, 0.3), (-4.0, 2.0), (1.5, 0.5), (3.0, 0.05), (-10.0, 30.0)]


def make(loc, scale):
    return TruncatedLogNormal(loc, scale, LOWER, 0.0)


def prior(*shape):
    return TruncatedLogUniform(torch.tensor(LOWER), torch.zeros(shape))


def fixed(loc, scale):
    return make(torch.tensor(loc), torch.tensor(scale))


# -- laws of both families ------------------------------------------------------------------------

FAMILIES = [make, lambda a, b: TruncatedLogUniform(-4 * a, b)]


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_expand_and_mask(family):
    laws.check_shapes(family)
    laws.check_expand(family)
    laws.check_mask_silences(family)


@pytest.mark.parametrize("family", FAMILIES)
def test_dtype_is_that_of_the_parameters(family):
    laws.check_keeps_dtype(family, ["mean", "variance"])


def test_the_ratio_has_the_dtype_too():
    assert make(torch.zeros(2, dtype=torch.float32), 1.0).snr.dtype == torch.float32


@pytest.mark.parametrize(("loc", "scale"), PARAMETERS)
def test_samples_fit_the_density_and_the_distribution_function(loc, scale):
    fn = fixed(loc, scale)
    samples = fn.rsample((20_000,))
    # Of the logarithm: a histogram of the noise itself has its mass in one bin.
    assert_goodness_of_fit(samples.log(), fn.log_prob(samples) + samples.log())
    assert_follows_cdf(samples, fn.cdf)


def test_log_uniform_samples_fit_their_density():
    fn = TruncatedLogUniform(torch.tensor(-3.0), torch.tensor(0.5))
    samples = fn.rsample((20_000,))
    assert_goodness_of_fit(samples.log(), fn.log_prob(samples) + samples.log())
    assert_follows_cdf(samples, fn.cdf)
    assert_mean_close(samples, fn.mean)
    assert_mean_close((samples - fn.mean).square(), fn.variance)


@pytest.mark.parametrize(("loc", "scale"), PARAMETERS)
def test_log_prob_and_cdf_equal_scipy(loc, scale):
    reference = truncnorm((LOWER - loc) / scale, -loc / scale, loc, scale)
    log_x = torch.linspace(max(LOWER, min(loc, 0.0) - 3 * scale), -1e-3, 15)
    fn, x = fixed(loc, scale), log_x.exp()
    expected = reference.logpdf(log_x.numpy()) - log_x.numpy()
    np.testing.assert_allclose(fn.log_prob(x).numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(fn.cdf(x).numpy(), reference.cdf(log_x.numpy()), 1e-6, 1e-12)


@pytest.mark.parametrize(("loc", "scale"), PARAMETERS)
def test_cdf_and_icdf_are_inverse(loc, scale):
    fn = fixed(loc, scale)
    u = torch.linspace(0.01, 0.99, 25)
    torch.testing.assert_close(fn.cdf(fn.icdf(u)), u, rtol=1e-9, atol=1e-10)


def test_pathwise_gradient_equals_finite_differences():
    laws.check_pathwise_gradient(make, [-1.0, 0.8])


# -- moments --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loc", "log_scale", "mean", "snr"), MOMENTS)
def test_moments_are_the_golden_values(loc, log_scale, mean, snr):
    fn = fixed(loc, math.exp(log_scale))
    np.testing.assert_allclose(fn.mean.item(), mean, atol=6e-6)
    np.testing.assert_allclose(fn.snr.item(), snr, rtol=5e-5)


@pytest.mark.parametrize(("loc", "scale"), PARAMETERS)
def test_moments_equal_quadrature(loc, scale):
    fn = fixed(loc, scale)
    density = truncnorm((LOWER - loc) / scale, -loc / scale, loc, scale).pdf
    start = max(LOWER, min(loc, 0.0) - 12 * scale)
    mean, square = (
        quad(lambda t, n=n: math.exp(n * t) * density(t), start, 0.0, epsrel=1e-12, limit=500)[0]
        for n in (1, 2)
    )
    np.testing.assert_allclose(fn.mean.item(), mean, rtol=1e-8)
    np.testing.assert_allclose(fn.variance.item(), square - mean**2, rtol=1e-5)
    np.testing.assert_allclose(fn.snr.item(), mean / math.sqrt(square - mean**2), rtol=1e-5)


@pytest.mark.parametrize("log_scale", [6.0, 8.0, 12.0])
def test_the_limit_of_large_scale_is_the_log_uniform(log_scale):
    q, p = fixed(-3.0, math.exp(log_scale)), prior()
    np.testing.assert_allclose(q.mean.item(), p.mean.item(), rtol=5e-4)
    np.testing.assert_allclose(p.mean.item(), 0.05, rtol=1e-6)
    np.testing.assert_allclose(q.snr.item(), 1 / 3, rtol=5e-4)
    assert abs(kl_divergence(q, p).item()) < 1e-5


def test_the_limit_of_small_scale_has_no_noise():
    fn = fixed(-1.0, 1e-6)
    np.testing.assert_allclose(fn.mean.item(), math.exp(-1), rtol=1e-9)
    np.testing.assert_allclose(fn.snr.item(), 1e6, rtol=1e-3)


# -- KL -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loc", "log_scale", "expected"), KLS)
def test_kl_is_the_golden_value(loc, log_scale, expected):
    kl = kl_divergence(fixed(loc, math.exp(log_scale)), prior())
    np.testing.assert_allclose(kl.item(), expected, atol=6e-5)


def test_kl_is_registered_plain_and_under_to_event_and_equals_monte_carlo():
    loc, scale = torch.tensor(PARAMETERS).T
    q, p = make(loc, scale), prior(len(PARAMETERS))
    kl = kl_divergence(q, p)
    assert isinstance(q.to_event(1), Independent)
    torch.testing.assert_close(kl_divergence(q.to_event(1), p.to_event(1)), kl.sum())
    x = q.rsample((20_000,))
    assert_mean_close(q.log_prob(x) - p.log_prob(x), kl)


def test_kl_gradient_equals_finite_differences():
    loc, scale = (p.clone().requires_grad_() for p in torch.tensor(PARAMETERS).T)
    p = prior(len(PARAMETERS))
    gradients = torch.autograd.grad(kl_divergence(make(loc, scale), p).sum(), (loc, scale))
    step = 1e-6
    with torch.no_grad():
        for gradient, shift in zip(gradients, ((step, 0.0), (0.0, step)), strict=True):
            up, down = (
                kl_divergence(make(loc + s * shift[0], scale + s * shift[1]), p) for s in (1, -1)
            )
            expected = (up - down) / (2 * step)
            torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)


def test_kl_is_infinite_where_the_prior_has_no_mass():
    kl = kl_divergence(fixed(0.0, 1.0), TruncatedLogUniform(torch.tensor(-5.0), torch.tensor(0.0)))
    assert kl.item() == math.inf


# -- corners --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_corners_are_finite(dtype):
    grid = torch.cartesian_prod(
        torch.tensor([-20.0, -10.0, -1.0, 0.0, 0.5, 5.0]), torch.tensor([-20.0, -5.0, 0.0, 5.0])
    )
    loc, log_scale = (p.to(dtype).clone().requires_grad_() for p in grid.T)
    fn = make(loc, log_scale.exp())
    x = fn.rsample((100,))
    assert x.dtype == dtype
    assert bool(fn.support.check(x).all())
    kl = kl_divergence(fn, TruncatedLogUniform(LOWER, torch.zeros_like(loc)))
    assert bool((kl > 0).all())
    for output in (x, kl, fn.mean, fn.snr.log(), fn.log_prob(x.detach())):
        assert bool(output.isfinite().all())
        grads = torch.autograd.grad(output.sum(), (loc, log_scale), retain_graph=True)
        assert all(bool(gradient.isfinite().all()) for gradient in grads)


def test_bad_parameters_and_values_raise():
    with pytest.raises(ValueError, match="scale .*to satisfy the constraint"):
        make(torch.zeros(2), torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="expected lower < upper"):
        TruncatedLogNormal(torch.zeros(2), 1.0, 0.0, -1.0)
    with pytest.raises(ValueError, match="expected lower < upper"):
        TruncatedLogUniform(torch.zeros(2), 0.0)
    for fn in (fixed(0.0, 1.0), prior()):
        with pytest.raises(ValueError, match="support"):
            fn.log_prob(torch.tensor(1.5))


GRID = [
    (-30.0, 3.0),
    (-12.0, 0.5),
    (-3.0, 0.01),
    (-0.1, 2.0),
    (0.0, 1e-3),
    (3.0, 0.2),
    (5.0, 148.0),
]


@pytest.mark.parametrize("p", GRID)
@pytest.mark.parametrize("q", GRID)
def test_kl_from_another_of_the_same_interval_equals_quadrature(q, p):
    q, p = fixed(*q), fixed(*p)
    # The midpoint rule over quantiles; its error is that of a logarithm at the ends.
    x = q.icdf((torch.arange(20_000) + 0.5) / 20_000)
    expected = float((q.log_prob(x) - p.log_prob(x)).mean())
    assert float(kl_divergence(q, p)) == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_kl_from_itself_is_zero_with_a_finite_gradient_however_far_out():
    loc = torch.tensor([-20.0, -1.0, 0.0, 5.0, 5.0], requires_grad=True)
    log_scale = torch.tensor([-20.0, 0.0, -20.0, -20.0, 5.0], requires_grad=True)
    q = TruncatedLogNormal(loc, log_scale.exp(), LOWER, torch.zeros_like(loc))
    p = TruncatedLogNormal(loc.detach(), log_scale.detach().exp(), LOWER, torch.zeros_like(loc))
    kl = kl_divergence(q, p)
    torch.testing.assert_close(kl, torch.zeros_like(kl), rtol=0, atol=1e-8)
    for gradient in torch.autograd.grad(kl.sum(), (loc, log_scale)):
        assert bool(gradient.isfinite().all())


def test_kl_from_another_is_infinite_where_it_has_no_mass():
    narrow = TruncatedLogNormal(0.0, 1.0, -5.0, torch.tensor(0.0))
    assert kl_divergence(fixed(0.0, 1.0), narrow).item() == math.inf
