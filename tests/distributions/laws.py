"""Laws that hold for every univariate distribution on the unit interval."""

import numpy as np
import torch
from scipy.integrate import quad

from bayesdrop.testing import assert_follows_cdf, assert_goodness_of_fit, assert_mean_close


def integrate(function, points=()):
    """Adaptive quadrature over the unit interval, split where mass concentrates."""
    edges = [0.0, *points, 1.0]
    pieces = zip(edges[:-1], edges[1:], strict=True)
    return sum(quad(function, lo, hi, limit=200, epsabs=0, epsrel=1e-10)[0] for lo, hi in pieces)


def density(fn):
    return lambda x: float(fn.log_prob(torch.tensor(x)).exp())


def check_shapes(make):
    """``make(*parameters)`` builds the distribution from two tensors that broadcast."""
    fn = make(torch.full((3, 1), 0.7), torch.full((2,), 0.9))
    assert fn.batch_shape == (3, 2)
    assert fn.event_shape == ()
    assert fn.rsample((5,)).shape == (5, 3, 2)
    assert fn.log_prob(torch.full((5, 3, 2), 0.5)).shape == (5, 3, 2)
    event = fn.to_event(1)
    assert event.batch_shape == (3,)
    assert event.event_shape == (2,)
    assert event.log_prob(event.rsample()).shape == (3,)


def check_expand(make):
    fn = make(torch.tensor([0.7, 1.3]), torch.tensor(0.9))
    wide = fn.expand([4, 2])
    assert type(wide) is type(fn)
    assert wide.batch_shape == (4, 2)
    assert wide.rsample().shape == (4, 2)
    value = torch.tensor([0.2, 0.6])
    torch.testing.assert_close(wide.log_prob(value), fn.log_prob(value).expand(4, 2))
    assert fn.expand_by([3]).batch_shape == (3, 2)
    assert wide.expand([5, 4, 2]).batch_shape == (5, 4, 2)


def check_mask_silences(make):
    fn = make(torch.tensor([0.7, 1.3]), torch.tensor(0.9)).mask(False)
    assert torch.equal(fn.log_prob(fn.rsample()), torch.zeros(2))


def check_keeps_dtype(make, properties):
    for dtype in (torch.float32, torch.float64):
        fn = make(torch.tensor([0.7, 1.3], dtype=dtype), torch.tensor(0.9, dtype=dtype))
        value = fn.rsample()
        results = [value, fn.log_prob(value), fn.cdf(value), fn.icdf(value)]
        assert {r.dtype for r in results + [getattr(fn, p) for p in properties]} == {dtype}


def check_fits_its_density(fn, num_samples=20_000):
    samples = fn.rsample((num_samples,))
    assert_goodness_of_fit(samples, fn.log_prob(samples))
    assert_follows_cdf(samples, fn.cdf)


def check_density_integrates_to_one(fn, points):
    np.testing.assert_allclose(integrate(density(fn), points), 1.0, rtol=1e-6)


def check_cdf_inverse(fn):
    u = torch.linspace(0.01, 0.99, 25)
    torch.testing.assert_close(fn.cdf(fn.icdf(u)), u, rtol=1e-9, atol=1e-12)
    edges = fn.cdf(torch.tensor([0.0, 1.0]))
    assert torch.equal(edges, torch.tensor([0.0, 1.0]))


def check_cdf_is_the_integral(fn, value):
    value = float(value)
    expected = quad(density(fn), 0.0, value, limit=200, epsabs=0, epsrel=1e-10)[0]
    np.testing.assert_allclose(float(fn.cdf(torch.tensor(value))), expected, rtol=1e-6)


def check_pathwise_gradient(make, parameters, step=1e-6):
    """Derivatives of a sample in each parameter equal central differences at the same noise."""

    def sample(values):
        torch.manual_seed(7)
        return make(*values).rsample((50,))

    leaves = [torch.tensor(p, requires_grad=True) for p in parameters]
    for i, leaf in enumerate(leaves):
        torch.manual_seed(7)
        (gradient,) = torch.autograd.grad(sample(leaves).sum(), leaf)
        up, down = list(parameters), list(parameters)
        up[i], down[i] = up[i] + step, down[i] - step
        difference = sample([torch.tensor(p) for p in up]) - sample(
            [torch.tensor(p) for p in down]
        )
        torch.testing.assert_close(gradient, difference.sum() / (2 * step), rtol=1e-5, atol=1e-6)


def check_mean_equals_samples(fn, num_samples=20_000):
    assert_mean_close(fn.rsample((num_samples,)), fn.mean)


def check_finite(make, parameters, num_samples=100):
    """Samples, log density and all gradients are finite in float32 at extreme parameters."""
    leaves = [p.float().clone().requires_grad_() for p in parameters]
    fn = make(*leaves)
    value = fn.rsample((num_samples,))
    assert value.dtype == torch.float32
    assert bool(((value > 0) & (value < 1)).all())
    log_prob = fn.log_prob(value)
    assert bool(log_prob.isfinite().all())
    for output in (value.sum(), log_prob.sum(), fn.log_prob(value.detach()).sum()):
        for gradient in torch.autograd.grad(output, leaves, retain_graph=True, allow_unused=True):
            assert gradient is None or bool(gradient.isfinite().all())
