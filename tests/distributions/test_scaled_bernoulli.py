import pytest
import torch

from bayesdrop.distributions import ScaledBernoulli
from bayesdrop.testing import assert_mean_close

PROBS = torch.tensor([0.05, 0.5, 0.9], dtype=torch.float64)


def test_samples_are_zero_or_the_inverse_probability():
    z = ScaledBernoulli(PROBS).sample((1000,))
    assert bool(((z == 0) | (z == 1 / PROBS)).all())


def test_moments_are_those_of_inverted_scaling():
    fn = ScaledBernoulli(PROBS)
    z = fn.sample((40_000,))
    assert_mean_close(z, fn.mean)
    assert_mean_close((z - 1).square(), fn.variance)
    assert_mean_close((z != 0).double(), PROBS)
    torch.testing.assert_close(fn.variance, (1 - PROBS) / PROBS)


def test_log_prob_is_that_of_the_bernoulli_behind_it():
    fn, plain = ScaledBernoulli(PROBS), torch.distributions.Bernoulli(PROBS)
    for kept in (torch.zeros(3), torch.ones(3)):
        torch.testing.assert_close(fn.log_prob(kept / PROBS), plain.log_prob(kept))
    assert bool((fn.log_prob(torch.full((3,), 0.3)) == -torch.inf).all())


def test_shapes_expand_and_to_event():
    fn = ScaledBernoulli(PROBS).expand((4, 3))
    assert fn.batch_shape == (4, 3) and fn.sample((2,)).shape == (2, 4, 3)
    event = ScaledBernoulli(PROBS).to_event(1)
    z = event.sample((5,))
    torch.testing.assert_close(event.log_prob(z), ScaledBernoulli(PROBS).log_prob(z).sum(-1))


def test_probability_one_is_the_constant_one():
    fn = ScaledBernoulli(torch.ones(3))
    assert bool((fn.sample((100,)) == 1).all()) and bool((fn.variance == 0).all())
    assert bool((fn.log_prob(torch.ones(3)) == 0).all())


def test_float32_corners_are_finite():
    probs = torch.tensor([torch.finfo(torch.float32).eps, 1 - 1e-7], dtype=torch.float32)
    z = ScaledBernoulli(probs).sample((100,))
    assert z.dtype == torch.float32 and bool(z.isfinite().all())


def test_bad_arguments_raise():
    with pytest.raises(ValueError, match="probs"):
        ScaledBernoulli(torch.tensor([1.5]), validate_args=True)
    with pytest.raises(ValueError, match="support"):
        ScaledBernoulli(PROBS, validate_args=True).log_prob(-torch.ones(3))
