import pytest
import torch
from torch.distributions import Normal, kl_divergence

from bayesdrop.distributions import NestedNormal, OrderedMask, OrderedMaskStraightThrough
from bayesdrop.distributions.nested_normal import open_features
from bayesdrop.errors import ShapeError
from bayesdrop.testing import assert_mean_close

LOC, SCALE = torch.tensor([0.5, -1.0, 2.0, 0.1]), torch.tensor([0.3, 1.2, 0.7, 2.0])
BETA, PI = torch.tensor([0.8, 0.6, 0.3]), torch.tensor([0.5, 0.5, 0.9])


def posterior(loc=LOC, beta=BETA):
    order = OrderedMaskStraightThrough(1.0, logits=beta.double().logit())
    return NestedNormal(loc.double(), SCALE.double(), order)


def prior():
    return NestedNormal(torch.zeros(4), torch.ones(4), OrderedMask(PI.double()))


def test_divergence_weights_each_feature_with_the_probability_that_it_is_open():
    q, p = posterior(), prior()
    open_prob = torch.tensor([1.0, 0.8, 0.48, 0.144])
    torch.testing.assert_close(q.open_prob(), open_prob)
    slabs = kl_divergence(Normal(q.loc, q.scale), Normal(0 * q.loc, 1 + 0 * q.scale))
    expected = kl_divergence(q.order, p.order) + (open_prob * slabs).sum()
    torch.testing.assert_close(kl_divergence(q, p), expected)
    torch.testing.assert_close(
        kl_divergence(q.expand([3]).to_event(1), p.expand([3]).to_event(1)), 3 * expected
    )


def test_kl_equals_monte_carlo_with_and_without_what_a_sample_carries():
    q, p = posterior(), prior()
    code = q.rsample((20_000,)).detach()
    carried = q.rsample((20_000,))
    for value in (code, carried):
        assert_mean_close(q.log_prob(value) - p.log_prob(value), kl_divergence(q, p))
    bare = carried.detach().clone()
    torch.testing.assert_close(q.log_prob(bare), q.log_prob(carried))


def test_moments_and_the_mask_that_is_read_off():
    q = posterior()
    code = q.sample((20_000,))
    mask = open_features(code)
    assert_mean_close(mask, q.open_prob())
    assert_mean_close(code, q.mean)
    assert_mean_close((code - q.mean).square(), q.variance)
    assert bool((code[mask == 0] == 0).all() and (mask.diff(dim=-1) <= 0).all())


def test_pathwise_loss_has_the_gradient_of_the_order():
    beta = BETA.double().clone().requires_grad_()
    q = posterior(beta=beta)
    value = q.rsample((5,))
    (gradient,) = torch.autograd.grad((prior().log_prob(value) - q.log_prob(value)).sum(), beta)
    assert bool((gradient != 0).all() and gradient.isfinite().all())


def test_shapes_and_bad_input():
    q = posterior().expand([2, 3])
    assert q.rsample((5,)).shape == (5, 2, 3, 4)
    assert q.log_prob(q.rsample()).shape == (2, 3)
    with pytest.raises(ShapeError, match="at least 3 features"):
        NestedNormal(torch.zeros(2), torch.ones(2), OrderedMask(PI.double()))
