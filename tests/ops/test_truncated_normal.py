"""Constants, moments and quantiles of a truncated normal, against 60-digit arithmetic."""

import mpmath
import numpy as np
import pytest
import torch

from bayesdrop.ops.truncated_normal import mills_gap, mills_ratio, sample_log, truncation

INTERVALS = [
    (-1.0, 2.0), (-0.13, 0.0), (-0.13, -1e-3), (0.1, 0.2), (-5.0, -3.0), (-60.0, -50.0),
    (50.0, 60.0), (50.0, 50.01), (99.0, 120.0), (101.0, 120.0), (-2e4, -1e4), (-3e9, -2.4e9),
    (-1e10, 1e10), (0.0, 1e9), (-4e9, 0.0),
]  # fmt: skip


def upper_tail(x):
    return mpmath.erfc(x / mpmath.sqrt(2)) / 2


def mass(lower, upper):
    if lower > 0:
        return upper_tail(lower) - upper_tail(upper)
    return upper_tail(-upper) - upper_tail(-lower)


def constants(lower, upper):
    largest = mpmath.npdf(min(max(lower, 0), upper))
    z = mass(lower, upper)
    slope = lower * mpmath.npdf(lower) - upper * mpmath.npdf(upper)
    return mpmath.log(z / largest), -mpmath.log(z) - slope / (2 * z)


@pytest.mark.parametrize("interval", INTERVALS)
def test_constants_and_gradients_equal_90_digit_arithmetic(interval):
    ends = [torch.tensor(end, requires_grad=True) for end in interval]
    with mpmath.workdps(90):
        exact = [mpmath.mpf(end) for end in interval]
        expected = constants(*exact)
        step = mpmath.mpf(10) ** -25
        slopes = []
        for i in range(2):
            up, down = list(exact), list(exact)
            up[i], down[i] = up[i] + step, down[i] - step
            pairs = zip(constants(*up), constants(*down), strict=True)
            slopes.append([float((a - b) / (2 * step)) for a, b in pairs])
        expected = [float(value) for value in expected]
    actual = truncation(*ends)
    np.testing.assert_allclose([v.item() for v in actual], expected, rtol=1e-11, atol=1e-11)
    # The mass is relative to the density at an end that moves, hence only the entropy's slopes.
    gradients = torch.autograd.grad(actual.neg_entropy, ends)
    np.testing.assert_allclose(
        [g.item() for g in gradients], [slope[1] for slope in slopes], rtol=1e-7, atol=1e-12
    )


@pytest.mark.parametrize("x", [0.0, 1e-3, 1.0, 30.0, 99.0, 101.0, 1e4, 1e9])
def test_mills_ratio_and_its_gap(x):
    with mpmath.workdps(60):
        ratio = mpmath.sqrt(mpmath.pi / 2) * mpmath.exp(mpmath.mpf(x) ** 2 / 2)
        ratio = ratio * mpmath.erfc(x / mpmath.sqrt(2)) if x < 1e3 else None
        gap = 1 - x * ratio if ratio is not None else mpmath.mpf(x) ** -2 * (1 - 3 / x**2)
        ratio = (1 - gap) / x if ratio is None else ratio
        expected = float(ratio), float(gap)
    actual = mills_ratio(torch.tensor(x)).item(), mills_gap(torch.tensor(x)).item()
    np.testing.assert_allclose(actual, expected, rtol=1e-11)


QUANTILE_CASES = [
    # loc, scale on [-20, 0]: inside, at an end, some and many scales outside, nearly uniform
    (-3.0, 0.5), (0.0, 1.0), (0.0, 0.01), (0.5, 0.1), (2.0, 0.1), (4.0, 0.1), (5.0, 0.01),
    (-20.5, 0.1), (-25.0, 0.1), (-10.0, 100.0), (-60.0, 1e3),
]  # fmt: skip


@pytest.mark.parametrize(("loc", "scale"), QUANTILE_CASES)
def test_quantiles_invert_the_distribution_function(loc, scale):
    v = torch.tensor([1e-9, 0.03, 0.4, 0.9, 1 - 1e-6])
    parameters = [torch.tensor(p).expand(5) for p in (loc, scale, -20.0, 0.0)]
    with mpmath.workdps(60):
        low, high = (-20 - mpmath.mpf(loc)) / scale, -mpmath.mpf(loc) / scale
        z = [(mpmath.mpf(float(s)) - loc) / scale for s in sample_log(*parameters, v)]
        actual = [float(mass(low, point) / mass(low, high)) for point in z]
    # What rounding of a value near an end of the interval, 20, does to a steep distribution.
    steepest = max(1.0, abs(loc + 10) - 10) / scale**2
    np.testing.assert_allclose(actual, v.numpy(), rtol=1e-8, atol=20 * 2**-51 * steepest + 1e-12)


@pytest.mark.parametrize(("loc", "scale"), QUANTILE_CASES)
def test_quantiles_are_differentiable(loc, scale):
    v = torch.tensor([0.03, 0.4, 0.9])
    values = [loc, scale, -20.0, 0.0]
    leaves = [torch.full((3,), p, requires_grad=True) for p in values]
    gradients = torch.autograd.grad(sample_log(*leaves, v).sum(), leaves)
    for i, gradient in enumerate(gradients):
        step = 1e-5 * (scale if i < 2 else min(scale, 1.0))
        up, down = list(values), list(values)
        up[i], down[i] = up[i] + step, down[i] - step
        ends = [sample_log(*(torch.full((3,), p) for p in ps), v) for ps in (up, down)]
        expected = (ends[0] - ends[1]) / (2 * step)
        # Rounding of a sample of size up to 20, divided by the step.
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=2e-14 / step + 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_everything_is_finite_at_the_extremes(dtype):
    loc = torch.tensor([-20.0, -10.0, 0.0, 5.0], dtype=dtype)
    scale = torch.tensor([-20.0, -5.0, 0.0, 5.0], dtype=dtype).exp()
    grid = torch.cartesian_prod(loc, scale).T
    leaves = [p.clone().double().requires_grad_() for p in grid]
    ends = [torch.full((16,), e, dtype=torch.float64) for e in (-20.0, 0.0)]
    for v in (torch.finfo(dtype).tiny, 0.5, 1 - torch.finfo(dtype).eps):
        sample = sample_log(*leaves, *ends, torch.full((16,), v, dtype=torch.float64))
        constants = truncation(*((end - leaves[0]) / leaves[1] for end in ends))
        for output in (sample, *constants):
            assert bool(output.isfinite().all())
            for gradient in torch.autograd.grad(output.sum(), leaves, retain_graph=True):
                assert bool(gradient.isfinite().all())
