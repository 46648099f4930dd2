import math

import numpy as np
import pytest
import torch
from pyro.distributions import Normal as PyroNormal
from pyro.infer.autoguide.initialization import InitMessenger, init_to_sample
from scipy.integrate import quad
from scipy.special import dawsn
from torch.distributions import kl_divergence

import bayesdrop as bd
from bayesdrop.distributions import LogUniform, Normal
from bayesdrop.distributions.log_uniform import exact_kl, summed_kl
from bayesdrop.errors import ConfigError
from bayesdrop.testing import assert_mean_close

LOG_ALPHA = [-8.0, -6.0, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 5.0]
EXACT = [
    4.635014, 3.633937, 2.625755, 1.544155, 0.914531, 0.426686, 0.173194, 0.066168, 0.024688,
    0.003365,
]  # fmt: skip
FIT = [
    4.635899, 3.636446, 2.634208, 1.540533, 0.913872, 0.431239, 0.177970, 0.068417, 0.025420,
    0.003415,
]  # fmt: skip
SLOPE = [
    -0.50017, -0.50125, -0.50971, -0.61123, -0.59970, -0.36239, -0.16296, -0.06470, -0.02448,
    -0.00336,
]  # fmt: skip


def divergence(log_alpha, how="exact"):
    """The divergence of a normal of mean 0.7 from its noise-to-signal ratio."""
    mean = torch.full_like(log_alpha, 0.7)
    scale = 0.7 * (0.5 * log_alpha).exp()
    return kl_divergence(Normal(mean, scale), LogUniform(divergence=how))


@pytest.mark.parametrize(("how", "values"), [("exact", EXACT), ("fit", FIT)])
def test_divergence_has_the_golden_values(how, values):
    found = divergence(torch.tensor(LOG_ALPHA), how)
    torch.testing.assert_close(found, torch.tensor(values), rtol=0, atol=1e-6)


def test_gradient_has_the_golden_values():
    log_alpha = torch.tensor(LOG_ALPHA, requires_grad=True)
    (slope,) = torch.autograd.grad(divergence(log_alpha).sum(), log_alpha)
    torch.testing.assert_close(slope, torch.tensor(SLOPE), rtol=0, atol=6e-6)


def test_the_exact_divergence_is_the_integral_of_dawson():
    log_alpha = torch.linspace(-14.0, 12.0, 40)
    u = (-log_alpha).exp() / 2
    value, derivative = exact_kl(u)
    integral = [quad(lambda s: 2 * dawsn(s), 0, math.sqrt(v), limit=500)[0] for v in u[10:]]
    np.testing.assert_allclose(value[10:], integral, rtol=1e-7)
    root = u.sqrt().numpy()
    np.testing.assert_allclose(derivative, dawsn(root) / root, rtol=1e-10)
    torch.testing.assert_close(divergence(log_alpha), value, rtol=1e-7, atol=1e-9)


def test_small_alpha_follows_the_published_series():
    log_alpha = torch.tensor([-20.0, -12.0, -7.0, -4.0])
    u = (-log_alpha).exp() / 2
    series = 0.5 * torch.log(2 * u) + (np.euler_gamma + math.log(2)) / 2 - 1 / (4 * u)
    series = series - 3 / (16 * u**2)
    torch.testing.assert_close(divergence(log_alpha), series, rtol=0, atol=2e-5)


@pytest.mark.parametrize("how", ["exact", "fit"])
def test_gradients_in_mean_and_scale_match_finite_differences(how):
    mean = torch.tensor([0.0, 1e-3, 0.4, -2.0, 5.0], requires_grad=True)
    scale = torch.tensor([0.3, 0.2, 0.9, 0.5, 1e-3], requires_grad=True)

    def total(mean, scale):
        return kl_divergence(Normal(mean, scale), LogUniform(divergence=how)).sum()

    assert torch.autograd.gradcheck(total, (mean, scale), eps=1e-7, atol=2e-6, rtol=1e-4)


def test_the_density_and_the_exact_divergence_agree():
    # Only because the improper density's constant is the one that the divergence has.
    q = Normal(torch.tensor([0.0, 0.3, -1.0, 2.0]), torch.tensor([0.1, 1.0, 0.4, 0.02]))
    prior = LogUniform((4,))
    value = q.rsample((200_000,))
    assert_mean_close(q.log_prob(value) - prior.log_prob(value), kl_divergence(q, prior))


def test_the_density_is_uniform_in_the_logarithm():
    prior = LogUniform()
    value = torch.tensor([0.1, 1.0, -10.0])
    torch.testing.assert_close(
        prior.log_prob(value) + value.abs().log(), prior.log_prob(value[1:2]).expand(3)
    )
    assert bool(prior.log_prob(torch.zeros(2)).isfinite().all())


def test_the_divergence_vanishes_for_pure_noise_and_is_positive():
    for how in ("exact", "fit"):
        zero = kl_divergence(Normal(torch.zeros(1), torch.ones(1)), LogUniform(divergence=how))
        assert float(zero) == 0.0
    assert bool((divergence(torch.linspace(-18.0, 18.0, 200)) > 0).all())


def test_the_fit_is_as_close_as_published():
    log_alpha = torch.linspace(-8.0, 8.0, 1601)
    error = (divergence(log_alpha, "fit") - divergence(log_alpha)).abs()
    assert 0.0093 < float(error.max()) < 0.0095
    assert abs(float(log_alpha[error.argmax()]) + 3.5) < 0.05


def test_the_cubic_is_for_small_alpha_only():
    log_alpha = torch.linspace(-8.0, 0.0, 801)
    error = (divergence(log_alpha, "cubic") - divergence(log_alpha)).abs()
    assert float(error.max()) < 0.021
    above = torch.tensor([0.5, 5.0], requires_grad=True)
    value = divergence(above, "cubic")
    torch.testing.assert_close(value, divergence(torch.zeros(2), "cubic"))
    (gradient,) = torch.autograd.grad(value.sum(), above)
    assert bool((gradient == 0).all())


@pytest.mark.parametrize(
    ("log_alpha", "golden"),
    [(-3.0, -1.4458255804819), (-1.0, -0.246815016556983), (0.0, 0.24570927)],
)
def test_the_cubic_has_the_published_coefficients(log_alpha, golden):
    """Kingma et al. (2015), eq. 14: minus the KL but for a constant, at three noise levels."""
    differences = divergence(torch.tensor([log_alpha, 0.0]), "cubic")
    expected = 0.24570927 - golden
    assert (differences[0] - differences[1]).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("how", ["exact", "fit", "cubic"])
def test_divergence_is_registered_plain_and_under_to_event(how):
    for family in (Normal, PyroNormal, torch.distributions.Normal):
        q = family(torch.full((2, 3), 0.5), torch.full((2, 3), 0.1))
        plain = kl_divergence(q, LogUniform((2, 3), divergence=how))
        assert plain.shape == (2, 3)
    event = kl_divergence(
        Normal(torch.full((2, 3), 0.5), torch.full((2, 3), 0.1)).to_event(2),
        LogUniform((2, 3), divergence=how).to_event(2),
    )
    torch.testing.assert_close(event, plain.sum())


@pytest.mark.parametrize("how", ["exact", "fit", "cubic"])
def test_float32_corners_are_finite(how):
    mean = torch.tensor([0.0, 1e-30, 1e-3, 1.0, 1e3, 1e10], dtype=torch.float32).requires_grad_()
    scale = torch.tensor(
        [1e-15, 1.0, 1e-10, 1e-8, 1e4, 1e-5], dtype=torch.float32
    ).requires_grad_()
    kl = kl_divergence(Normal(mean, scale), LogUniform(divergence=how))
    assert kl.dtype == torch.float32
    gradients = torch.autograd.grad(kl.sum(), (mean, scale))
    assert all(bool(value.isfinite().all()) for value in (kl, *gradients))


def test_shapes_and_expand():
    prior = LogUniform((3,), divergence="fit")
    wide = prior.expand([2, 3])
    assert wide.batch_shape == (2, 3)
    assert wide.divergence == "fit"
    assert wide.log_prob(torch.ones(3)).shape == (2, 3)
    assert prior.to_event(1).log_prob(torch.ones(4, 3)).shape == (4,)
    assert torch.equal(prior.mask(False).log_prob(torch.ones(3)), torch.zeros(3))
    assert prior.log_prob(torch.ones(3, dtype=torch.float32)).dtype == torch.float32


def test_it_cannot_be_sampled_and_says_so():
    for call in (LogUniform().sample, LogUniform((2,)).to_event(1).sample, LogUniform().rsample):
        with pytest.raises(ConfigError, match="improper prior.*guide=bnn.guide"):
            call()


def test_initialisers_get_a_value_of_the_right_shape():
    def model():
        import pyro

        return pyro.sample("w", LogUniform((2, 3)).to_event(2))

    assert InitMessenger(init_to_sample)(model)().shape == (2, 3)
    with pytest.raises(ConfigError, match="improper prior"):
        model()


def test_bad_arguments_raise():
    with pytest.raises(ConfigError, match="divergence of LogUniform 'exakt'.*'exact'"):
        LogUniform(divergence="exakt")
    with pytest.raises(ValueError, match="support"):
        LogUniform(validate_args=True).log_prob(torch.tensor(float("nan")))
    assert bd.distributions.LogUniform is LogUniform


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_summed_divergence_is_the_sum_with_its_gradient(dtype):
    mean = torch.randn(300, 250, dtype=dtype).mul_(0.1)
    mean[0, :3] = torch.tensor([0.0, 1e-8, 30.0])
    log_variance = torch.randn_like(mean).sub_(4.0)
    inputs = [x.requires_grad_() for x in (mean.t(), log_variance.t())]  # not contiguous
    fn = Normal(inputs[0], (0.5 * inputs[1]).exp())
    expected = kl_divergence(fn, LogUniform(fn.batch_shape)).sum()
    total = summed_kl(*inputs)
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=0.0)
    gradients = (torch.autograd.grad(value, inputs) for value in (total, expected))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


def test_second_derivatives_of_the_summed_divergence_are_right():
    mean = torch.randn(20, requires_grad=True)
    assert torch.autograd.gradgradcheck(summed_kl, (mean, torch.randn(20, requires_grad=True)))


def test_the_summed_divergence_in_float32_takes_any_number():
    mean = torch.tensor([1e-20, 1.0, 1e10, 1.0], dtype=torch.float32)
    log_variance = torch.tensor([0.0, -100.0, 0.0, -80.0], dtype=torch.float32)
    wide = summed_kl(mean.double(), log_variance.double())
    torch.testing.assert_close(summed_kl(mean, log_variance).double(), wide, rtol=1e-6, atol=0.0)
    assert bool(summed_kl(mean * torch.nan, log_variance).isnan())
