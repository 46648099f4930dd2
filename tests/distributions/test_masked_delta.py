import math

import pytest
import torch
from torch.distributions import kl_divergence

from bayesdrop.distributions import MaskedDelta
from bayesdrop.testing import assert_mean_close

PROBS = torch.tensor([0.0, 0.3, 1.0])


def test_samples_are_the_value_or_zero_with_the_stated_moments():
    law = MaskedDelta(torch.tensor([2.0, -1.5, 0.5]), PROBS)
    drawn = law.sample((20_000,))
    assert bool(((drawn == 0) | (drawn == law.value)).all())
    assert_mean_close((drawn != 0).double(), PROBS)
    assert_mean_close(drawn, law.mean)
    assert_mean_close((drawn - law.mean).square(), law.variance)


def test_the_gradient_goes_through_what_is_kept_alone():
    value = torch.ones(1000, requires_grad=True)
    drawn = MaskedDelta(value, torch.tensor(0.4)).rsample()
    (gradient,) = torch.autograd.grad(drawn.sum(), value)
    assert torch.equal(gradient, (drawn != 0).to(gradient.dtype))


def test_log_prob_is_that_of_both_atoms():
    law = MaskedDelta(torch.tensor([2.0, 2.0, 0.0]), torch.tensor([0.3, 0.3, 0.3]))
    found = law.log_prob(torch.tensor([2.0, 0.0, 0.0])).exp()
    torch.testing.assert_close(found, torch.tensor([0.3, 0.7, 1.0]))
    assert float(law.log_prob(torch.tensor(1.0))[0]) == -math.inf


def test_the_divergence_is_that_of_bernoulli_and_infinite_between_other_points():
    q, p = MaskedDelta(2.0, torch.tensor(0.3)), MaskedDelta(2.0, torch.tensor(0.6))
    expected = 0.3 * math.log(0.3 / 0.6) + 0.7 * math.log(0.7 / 0.4)
    assert float(kl_divergence(q, p)) == pytest.approx(expected)
    assert kl_divergence(MaskedDelta(2.0, PROBS), MaskedDelta(2.0, PROBS)).tolist() == [0.0] * 3
    assert float(kl_divergence(q, MaskedDelta(1.0, torch.tensor(0.3)))) == math.inf
    assert (
        float(kl_divergence(MaskedDelta(0.0, torch.tensor(0.3)), MaskedDelta(0.0, PROBS[1]))) == 0
    )
    never = MaskedDelta(2.0, torch.tensor(0.0))
    assert float(kl_divergence(never, MaskedDelta(1.0, torch.tensor(0.4)))) == pytest.approx(
        -math.log(0.6)
    )


def test_expanding_and_events_keep_the_law():
    law = (
        MaskedDelta(torch.tensor([2.0, 1.0]), torch.tensor([0.3, 0.6])).expand((4, 2)).to_event(1)
    )
    assert law.batch_shape == (4,) and law.event_shape == (2,)
    assert law.log_prob(torch.tensor([2.0, 0.0])).exp().tolist() == pytest.approx([0.12] * 4)
