"""Functions with a written-out gradient, beside their forms for torch's transforms."""

import math

import pytest
import scipy.special
import torch
from torch.distributions import Beta, Normal, kl_divergence

from bayesdrop.distributions import (
    BinaryConcrete,
    BinaryConcreteStraightThrough,
    Kumaraswamy,
    LogUniform,
    TruncatedLogNormal,
    TruncatedLogUniform,
)
from bayesdrop.distributions.kumaraswamy import expected_log1m
from bayesdrop.nn.weight import local_sample
from bayesdrop.ops import noise
from bayesdrop.ops.stable import clamp_inward, exp_open_unit, log1mexp
from bayesdrop.ops.truncated_normal import mills_gap, mills_ratio

# torch's own forward mode scripts its decompositions when it is first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")

WIDE = torch.logspace(-3, 3, 13, dtype=torch.float64)
PAIRS = tuple(x.flatten() for x in torch.meshgrid(WIDE, WIDE, indexing="ij"))


def kl_to_beta(c, d):
    return lambda a, b: kl_divergence(Kumaraswamy(a, b), Beta(torch.tensor(c), torch.tensor(d)))


def kl_to_truncated(loc, scale):
    q = TruncatedLogNormal(loc, scale, lower=-20.0, upper=0.0)
    return kl_divergence(q, TruncatedLogUniform(-20.0, 0.0))


def sample_of_noise(mean, variance):
    return local_sample(mean, variance, mean.shape)


FUNCTIONS = {
    "log1mexp": (log1mexp, (-WIDE,)),
    "exp_open_unit": (exp_open_unit, (-WIDE,)),
    "mills_ratio": (mills_ratio, (WIDE,)),
    "mills_gap": (mills_gap, (WIDE,)),
    "local_sample": (sample_of_noise, PAIRS),
    "log of a Kumaraswamy sample": (lambda a, b: Kumaraswamy(a, b).rsample_log(), PAIRS),
    "Kumaraswamy to Beta(.5, 1)": (kl_to_beta(0.5, 1.0), PAIRS),
    "Kumaraswamy to Beta(.5, 2)": (kl_to_beta(0.5, 2.0), PAIRS),
    "expected_log1m": (expected_log1m, PAIRS),
    "normal to log-uniform": (
        lambda loc, scale: kl_divergence(Normal(loc, scale), LogUniform()),
        PAIRS,
    ),
    "binary concrete sample": (
        lambda logits, temperature: BinaryConcrete(temperature, logits=logits).rsample(),
        (PAIRS[0].log(), PAIRS[1].clamp(0.1, 2.0)),
    ),
    "straight-through sample": (
        lambda logits: BinaryConcreteStraightThrough(0.5, logits=logits).rsample(),
        (WIDE.log(),),
    ),
    "truncated log-normal sample": (
        lambda loc, scale: TruncatedLogNormal(loc, scale, lower=-20.0, upper=0.0).rsample(),
        ((PAIRS[0].log() * 2 - 5), PAIRS[1].clamp(0.05, 5.0)),
    ),
    "truncated log-normal to log-uniform": (
        kl_to_truncated,
        ((PAIRS[0].log() * 2 - 5), PAIRS[1].clamp(0.05, 5.0)),
    ),
}


@pytest.fixture(autouse=True)
def fixed_noise(monkeypatch):
    monkeypatch.setattr(noise, "uniform", lambda shape, like: torch.full(shape, 0.3).to(like))
    monkeypatch.setattr(noise, "normal", lambda shape, like: torch.full(shape, -0.7).to(like))


def written(function, arguments):
    arguments = [x.clone().requires_grad_() for x in arguments]
    value = function(*arguments)
    return value.detach(), torch.autograd.grad(value.sum(), arguments)


def transformed(function, arguments):
    value, pull = torch.func.vjp(function, *arguments)
    return value, pull(torch.ones_like(value))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_both_forms_have_the_same_value_and_gradient(name):
    function, arguments = FUNCTIONS[name]
    value, found = written(function, arguments)
    assert bool(value.isfinite().all())
    other, gradients = transformed(function, arguments)
    torch.testing.assert_close(other, value, rtol=1e-9, atol=1e-11)
    for gradient, expected in zip(gradients, found, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_both_forms_are_finite_in_float32(name):
    function, arguments = FUNCTIONS[name]
    for of in (written, transformed):
        value, gradients = of(function, [x.float() for x in arguments])
        assert bool(value.isfinite().all())
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n != "straight-through sample"])
def test_second_derivatives_are_right_where_nothing_is_held_at_a_bound(name):
    function, arguments = FUNCTIONS[name]
    inside = [torch.tensor([x.sign()[0] * 1.3, x.sign()[0] * 0.4]) for x in arguments]
    if name.startswith("truncated"):
        inside[0] = torch.tensor([-3.0, -1.0])
    inside = [x.requires_grad_() for x in inside]
    assert torch.autograd.gradgradcheck(function, inside, atol=2e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_forward_and_backward_modes_have_the_same_hessian(name):
    function, arguments = FUNCTIONS[name]
    inside = torch.stack([x[2] for x in arguments])

    def total(values):
        return function(*values.unbind()).sum()

    forward = torch.func.hessian(total)(inside)
    backward = torch.autograd.functional.hessian(total, inside)
    torch.testing.assert_close(forward, backward, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("concentration0", "expected"),
    [
        (1.0, [[-0.0208, -0.0355], [-0.0355, 0.0230]]),
        (2.0, [[-0.1095, -0.0600], [-0.0600, 0.1118]]),
    ],
)
def test_hessian_of_the_divergence_to_a_beta_is_that_of_finite_differences(
    concentration0, expected
):
    # Computed by second differences of the divergence, itself tested against quadrature.
    def kl(values):
        return kl_to_beta(0.5, concentration0)(*values)

    for hessian in (torch.autograd.functional.hessian, lambda f, x: torch.func.hessian(f)(x)):
        found = hessian(kl, torch.tensor([2.0, 3.0]))
        torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=6e-5)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.7, 12.0])
def test_curvature_of_the_divergence_to_a_log_uniform_is_that_of_dawsons_integral(ratio):
    # d KL / d r = sqrt(2) D(r / sqrt(2)), and D' = 1 - 2 x D. Cubics between exact slopes a
    # distance h = 1/64 apart have a second derivative that is right to order h^2.
    x = ratio / math.sqrt(2)
    expected = torch.tensor(1 - 2 * x * float(scipy.special.dawsn(x)))

    def kl(loc):
        return kl_divergence(Normal(loc, torch.tensor(1.0)), LogUniform())

    found = torch.autograd.functional.hessian(kl, torch.tensor(ratio))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


def test_a_parameter_beyond_its_bound_has_the_same_gradient_under_a_transform():
    x = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0])
    for sign in (1.0, -1.0):
        expected = written(lambda x, sign=sign: sign * clamp_inward(x, -1.0, 1.0), [x])[1][0]
        found = torch.func.vmap(torch.func.grad(lambda x, s: s * clamp_inward(x, -1.0, 1.0)))(
            x, torch.full((5,), sign)
        )
        assert torch.equal(found, expected)
    _, tangent = torch.func.jvp(lambda x: clamp_inward(x, -1.0, 1.0), (x,), (torch.ones(5),))
    assert tangent.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
