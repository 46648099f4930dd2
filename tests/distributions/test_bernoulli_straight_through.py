import torch
from torch.distributions import kl_divergence

from bayesdrop.distributions import BernoulliStraightThrough
from bayesdrop.testing import assert_mean_close

PROBS = torch.tensor([0.05, 0.5, 0.9], dtype=torch.float64)


def test_samples_are_exact_and_have_the_probability():
    z = BernoulliStraightThrough(PROBS).rsample((20_000,))
    assert bool(((z == 0) | (z == 1)).all())
    assert_mean_close(z, PROBS)
    assert not BernoulliStraightThrough(PROBS.clone().requires_grad_()).sample().requires_grad


def test_the_gradient_of_a_sample_is_that_of_its_probability():
    logits = torch.logit(PROBS).requires_grad_()
    weights = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    z = BernoulliStraightThrough(logits=logits).rsample((7,))
    (z @ weights).sum().backward()
    torch.testing.assert_close(logits.grad, 7 * weights * PROBS * (1 - PROBS))


def test_law_and_divergence_are_the_bernoulli_s():
    ours, plain = BernoulliStraightThrough(PROBS), torch.distributions.Bernoulli(PROBS)
    z = ours.to_event(1).expand((4,)).rsample((2,))
    assert z.shape == (2, 4, 3)
    torch.testing.assert_close(ours.to_event(1).log_prob(z), plain.log_prob(z).sum(-1))
    other = BernoulliStraightThrough(PROBS.flip(0))
    torch.testing.assert_close(
        kl_divergence(ours, other),
        kl_divergence(plain, torch.distributions.Bernoulli(other.probs)),
    )
