import pytest
import torch
from torch.distributions import kl_divergence

from bayesdrop.distributions import DroppedWeight
from bayesdrop.testing import assert_mean_close

LOC = torch.tensor([-2.0, 0.5, 0.0], dtype=torch.float64)
PROBS = torch.tensor(0.3, dtype=torch.float64)


def test_moments():
    fn = DroppedWeight(LOC, PROBS)
    w = fn.rsample((40_000,))
    assert_mean_close(w, fn.mean)
    assert_mean_close((w - LOC).square(), fn.variance)
    assert bool(((w == 0) | torch.isclose(w, LOC / PROBS)).all())


def test_log_prob_is_that_of_the_mask():
    fn = DroppedWeight(LOC, PROBS)
    expected = torch.stack([PROBS.log(), PROBS.log(), torch.zeros(())])
    torch.testing.assert_close(fn.log_prob(LOC / PROBS), expected)
    expected = torch.stack([torch.log1p(-PROBS)] * 2 + [torch.zeros(())])
    torch.testing.assert_close(fn.log_prob(torch.zeros(3)), expected)
    assert bool((fn.log_prob(torch.full((3,), 0.1)) == -torch.inf).all())


def test_kl_is_registered_plain_and_under_to_event():
    """It is zero or infinite: two of them have no value but zero in common, or all."""
    q = DroppedWeight(LOC, PROBS)
    assert float(kl_divergence(q, q).abs().max()) == 0.0
    assert float(kl_divergence(q.to_event(1), q.to_event(1))) == 0.0
    assert bool(kl_divergence(q, DroppedWeight(LOC + 1, PROBS)).isinf().all())
    other = DroppedWeight(LOC, PROBS + 0.4)
    assert kl_divergence(q, other).tolist() == [torch.inf, torch.inf, 0.0]
    w = q.rsample((100,))
    log_ratio = (q.log_prob(w) - other.log_prob(w)).sum(0)
    assert log_ratio.tolist() == [torch.inf, torch.inf, 0.0]


def test_the_gradient_is_the_mask():
    loc = LOC.clone().requires_grad_()
    w = DroppedWeight(loc, PROBS).rsample((2000,))
    w.sum(0).sum().backward()
    torch.testing.assert_close(loc.grad[:2], (w / LOC)[:, :2].sum(0))


def test_expand_and_bad_arguments():
    assert DroppedWeight(LOC, PROBS).expand((4, 3)).rsample((2,)).shape == (2, 4, 3)
    with pytest.raises(ValueError, match="probs"):
        DroppedWeight(LOC, PROBS + 1, validate_args=True)
