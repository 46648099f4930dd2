import mpmath
import numpy as np
import pytest
import torch

from bayesdrop.ops.stable import (
    clamp_inward,
    clamp_open_unit,
    inverse_softplus,
    log1mexp,
    wide,
)


@pytest.mark.parametrize("x", [-1e-300, -1e-20, -1e-3, -0.5, -0.7, -2.0, -40.0, -700.0])
def test_log1mexp_equals_50_digit_arithmetic(x):
    with mpmath.workdps(350):
        expected = float(mpmath.log(1 - mpmath.exp(mpmath.mpf(x))))
    np.testing.assert_allclose(float(log1mexp(torch.tensor(x))), expected, rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log1mexp_gradient_is_finite(dtype):
    x = -torch.logspace(-30, 2, 50, dtype=dtype).requires_grad_()
    (gradient,) = torch.autograd.grad(log1mexp(x).sum(), x)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("y", [1e-10, 0.3133, 1.0, 20.0, 1e3])
def test_inverse_softplus_inverts(y):
    x = torch.tensor(inverse_softplus(y))
    np.testing.assert_allclose(float(torch.nn.functional.softplus(x)), y, rtol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clamp_open_unit_excludes_both_ends(dtype):
    x = clamp_open_unit(torch.tensor([0.0, 0.5, 1.0], dtype=dtype))
    assert x.dtype == dtype
    assert bool((x.log().isfinite() & torch.log1p(-x).isfinite()).all())


def test_wide_is_float64_on_the_cpu():
    assert wide(torch.zeros(2, dtype=torch.float32)).dtype == torch.float64


def test_clamp_inward_cuts_only_gradients_that_lead_further_out():
    x = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0], requires_grad=True)
    y = clamp_inward(x, -1.0, 1.0)
    assert torch.equal(y, torch.tensor([-1.0, -1.0, 0.0, 1.0, 1.0]))
    (up,) = torch.autograd.grad(y.sum(), x, retain_graph=True)  # descent goes down
    (down,) = torch.autograd.grad(-y.sum(), x)
    assert up.tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]
    assert down.tolist() == [-1.0, -1.0, -1.0, 0.0, 0.0]
