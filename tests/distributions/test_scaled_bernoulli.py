import pytest
import torch
from torch.distributions import kl_divergence

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
        ScaledBernoulli(PROBS, validate_args=True).log_prob(torch.full((3,), torch.nan))


# -- times a number -----------------------------------------------------------------------------

LOC = torch.tensor([-2.0, 0.5, 0.0], dtype=torch.float64)
PROB = torch.tensor(0.3, dtype=torch.float64)


def test_moments_are_those_of_the_number_and_its_noise():
    fn = ScaledBernoulli(PROB, LOC)
    w = fn.rsample((40_000,))
    assert_mean_close(w, fn.mean)
    assert_mean_close((w - LOC).square(), fn.variance)
    assert bool(((w == 0) | torch.isclose(w, LOC / PROB)).all())


def test_log_prob_of_a_number_is_that_of_its_mask():
    fn = ScaledBernoulli(PROB, LOC)
    expected = torch.stack([PROB.log(), PROB.log(), torch.zeros(())])
    torch.testing.assert_close(fn.log_prob(LOC / PROB), expected)
    expected = torch.stack([torch.log1p(-PROB)] * 2 + [torch.zeros(())])
    torch.testing.assert_close(fn.log_prob(torch.zeros(3)), expected)
    assert bool((fn.log_prob(torch.full((3,), 0.1)) == -torch.inf).all())


@pytest.mark.parametrize("size", [1e-6, 1e-9, 1e-30])
def test_a_tiny_number_is_told_from_none(size):
    fn = ScaledBernoulli(PROB, torch.tensor(size))
    torch.testing.assert_close(fn.log_prob(torch.zeros(())), torch.log1p(-PROB))
    torch.testing.assert_close(fn.log_prob(size / PROB), PROB.log())


def test_kl_is_registered_plain_and_under_to_event():
    """It is zero or infinite: two of them have no value but zero in common, or all."""
    q = ScaledBernoulli(PROB, LOC)
    assert float(kl_divergence(q, q).abs().max()) == 0.0
    assert float(kl_divergence(q.to_event(1), q.to_event(1))) == 0.0
    assert bool(kl_divergence(q, ScaledBernoulli(PROB, LOC + 1)).isinf().all())
    other = ScaledBernoulli(PROB + 0.4, LOC)
    assert kl_divergence(q, other).tolist() == [torch.inf, torch.inf, 0.0]
    w = q.rsample((100,))
    log_ratio = (q.log_prob(w) - other.log_prob(w)).sum(0)
    assert log_ratio.tolist() == [torch.inf, torch.inf, 0.0]


def test_the_gradient_is_the_mask_and_none_is_in_the_probability():
    loc, prob = LOC.clone().requires_grad_(), PROB.clone().requires_grad_()
    w = ScaledBernoulli(prob, loc).rsample((2000,))
    w.sum(0).sum().backward()
    torch.testing.assert_close(loc.grad[:2], (w / LOC)[:, :2].sum(0))
    assert prob.grad is None
