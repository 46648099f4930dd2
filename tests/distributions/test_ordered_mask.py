import math

import pytest
import torch
from torch.distributions import kl_divergence

from bayesdrop.distributions import (
    OrderedMask,
    OrderedMaskInterpolated,
    OrderedMaskStraightThrough,
)
from bayesdrop.errors import ConfigError
from bayesdrop.testing import assert_mean_close

BETA = torch.tensor([0.9, 0.3, 0.7])
PI = torch.tensor([0.5, 0.8, 0.6])
PUBLISHED = torch.full((30,), 3.0)  # logits at the start, with D = 30


def straight_through(temperature=2.0, beta=BETA):
    return OrderedMaskStraightThrough(temperature, logits=beta.double().logit())


def ordered(z):
    return bool(((z == 0) | (z == 1)).all() and (z.diff(dim=-1) <= 0).all())


def test_tail_probabilities_are_those_of_the_chain():
    b1, b2, b3 = BETA.double().tolist()
    expected = [1 - b1, b1 * (1 - b2), b1 * b2 * (1 - b3), b1 * b2 * b3]
    for fn in (OrderedMask(BETA.double()), straight_through()):
        torch.testing.assert_close(fn.tail_probs, torch.tensor(expected))
        torch.testing.assert_close(fn.mean, BETA.double().cumprod(-1))
        torch.testing.assert_close(fn.entropy(), -(fn.tail_probs * fn.tail_probs.log()).sum())


@pytest.mark.parametrize(("pi", "mean"), [(0.95, 14.9), (0.9, 8.6), (0.8, 4.0)])
def test_prior_mean_of_open_groups_is_the_published_one(pi, mean):
    assert float(OrderedMask(torch.full((30,), pi)).mean.sum()) == pytest.approx(mean, abs=0.05)


def test_published_initial_posterior():
    q = OrderedMask(logits=PUBLISHED)
    assert float(q.mean.sum()) == pytest.approx(15.41, abs=0.005)
    assert float(q.tail_probs[-1]) == pytest.approx(0.233, abs=0.0005)
    kl = kl_divergence(q, OrderedMask(torch.full((30,), 0.95)))
    assert float(kl) == pytest.approx(0.00115, abs=5e-6)


@pytest.mark.parametrize("make", [OrderedMask, lambda p: straight_through(1.0, p)])
def test_samples_follow_the_law(make):
    fn = make(BETA.double())
    z = fn.sample((20_000,))
    assert ordered(z)
    tails = torch.nn.functional.one_hot(z.sum(-1).long(), 4).double()
    assert_mean_close(tails, fn.tail_probs)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 2.0])
def test_law_of_hard_samples_does_not_depend_on_the_temperature(temperature):
    fn = OrderedMaskStraightThrough(temperature, logits=PUBLISHED)
    z = fn.rsample((4000,)).detach()
    assert ordered(z)
    assert_mean_close(z.sum(-1), 15.41 + 0 * z[0, 0])
    torch.manual_seed(3)
    first = fn.rsample((50,))
    torch.manual_seed(3)
    assert torch.equal(first, OrderedMaskStraightThrough(0.5, logits=PUBLISHED).rsample((50,)))


def test_gradient_is_that_of_the_relaxed_mask():
    logits = BETA.double().logit().requires_grad_()
    torch.manual_seed(1)
    z = OrderedMaskStraightThrough(0.7, logits=logits).rsample((8,))
    (gradient,) = torch.autograd.grad((z * torch.arange(3)).sum(), logits)

    def relaxed(values):
        from bayesdrop.distributions import Downhill

        torch.manual_seed(1)
        return float((Downhill(0.7, logits=values).rsample((8,)) * torch.arange(3)).sum())

    for k in range(3):
        step = torch.zeros(3).index_fill_(0, torch.tensor(k), 1e-6)
        difference = relaxed(logits.detach() + step) - relaxed(logits.detach() - step)
        assert float(gradient[k]) == pytest.approx(difference / 2e-6, rel=1e-5, abs=1e-7)


FUNCTIONS = {
    "linear": lambda z: (z * torch.tensor([1.0, 2.0, -1.5])).sum(-1),
    "square": lambda z: (z * torch.tensor([1.0, 2.0, -1.5])).sum(-1).square(),
    "kinked": lambda z: torch.relu(z[..., 0] + 3 * z[..., 1] - 2.5) - z[..., 2] ** 3,
    "saturating": lambda z: torch.sigmoid(8 * z[..., 0] * z[..., 1] - 4) + z[..., 2],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_interpolated_gradient_is_that_of_the_sum_over_exact_masks(name):
    logits, f = BETA.double().logit().requires_grad_(), FUNCTIONS[name]
    exact = OrderedMask(logits=logits)
    (expected,) = torch.autograd.grad(
        (exact.tail_probs * f(exact.enumerate_support())).sum(), logits
    )
    each = logits.detach().expand(20_000, 3).clone().requires_grad_()
    z = OrderedMaskInterpolated(logits=each).rsample()
    (found,) = torch.autograd.grad(f(z).sum(), each)
    assert_mean_close(found, expected)
    if name != "linear":  # which the others' bias would only make smaller
        again = OrderedMaskStraightThrough(2.0, logits=each).rsample()
        (biased,) = torch.autograd.grad(f(again).sum(), each)
        with pytest.raises(AssertionError, match="error / SE"):
            assert_mean_close(biased, expected)


def test_an_interpolated_mask_opens_one_group_in_part_and_keeps_means():
    fn = OrderedMaskInterpolated(logits=BETA.double().logit())
    z = fn.rsample((20_000,))
    inside = (z > 0) & (z < 1)
    assert bool((z.diff(dim=-1) <= 0).all() and (inside.sum(-1) <= 1).all())
    p = fn.tail_probs
    assert_mean_close(inside.double(), torch.minimum(p[1:], p[:-1]))
    assert_mean_close(z, fn.mean)
    # What is linear in the tail's indicators has the mean of exact masks, the divergence too.
    prior = OrderedMask(PI.double(), validate_args=False)
    assert_mean_close(fn.log_prob(z) - prior.log_prob(z), kl_divergence(fn, prior))
    assert ordered(fn.sample((100,)))


def test_log_prob_of_the_support_sums_to_one_and_has_a_gradient_in_the_mask():
    fn = OrderedMask(BETA.double())
    masks = fn.enumerate_support()
    assert ordered(masks) and masks.shape == (4, 3)
    torch.testing.assert_close(fn.log_prob(masks).exp(), fn.tail_probs)
    z = masks[1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(fn.log_prob(z), z)
    torch.testing.assert_close(gradient, fn.log_tail_probs.diff())


def test_shapes_and_expand():
    straight = lambda p: OrderedMaskStraightThrough(1.0, probs=p)  # noqa: E731
    for make in (OrderedMask, OrderedMaskInterpolated, straight):
        fn = make(torch.full((2, 5), 0.5))
        assert (fn.batch_shape, fn.event_shape) == ((2,), (5,))
        assert fn.sample((4,)).shape == (4, 2, 5)
        assert fn.enumerate_support().shape == (6, 2, 5)
        assert fn.enumerate_support(expand=False).shape == (6, 1, 5)
        wide = fn.expand([3, 2])
        assert type(wide) is type(fn)
        assert wide.sample((4,)).shape == (4, 3, 2, 5)
        assert wide.log_prob(wide.sample()).shape == (3, 2)
        torch.testing.assert_close(wide.probs, fn.probs.expand(3, 2, 5))
        assert fn.to_event(1).event_shape == (2, 5)
        assert torch.equal(fn.mask(False).log_prob(fn.sample()), torch.zeros(2))


def test_kl_has_both_forms_and_is_registered_plain_and_under_expand():
    q, p = OrderedMask(BETA.double()), OrderedMask(PI.double())
    by_tail = (q.tail_probs * (q.tail_probs / p.tail_probs).log()).sum()
    torch.testing.assert_close(kl_divergence(q, p), by_tail)
    torch.testing.assert_close(kl_divergence(straight_through(), p), by_tail)
    torch.testing.assert_close(kl_divergence(straight_through(), straight_through()), 0 * by_tail)
    wide = kl_divergence(straight_through().expand([2]), p.expand([2]))
    torch.testing.assert_close(wide, by_tail.expand(2))
    event = kl_divergence(q.expand([2]).to_event(1), p.expand([2]).to_event(1))
    torch.testing.assert_close(event, 2 * by_tail)


def test_kl_equals_monte_carlo():
    q, p = straight_through(), OrderedMask(PI.double())
    z = q.sample((20_000,))
    assert_mean_close(q.log_prob(z) - p.log_prob(z), kl_divergence(q, p))


def test_kl_gradient_equals_differences():
    logits = BETA.double().logit().requires_grad_()
    p = OrderedMask(PI.double())
    assert torch.autograd.gradcheck(lambda x: kl_divergence(OrderedMask(logits=x), p), logits)


@pytest.mark.parametrize("size", [-30.0, 0.0, 30.0])
def test_float32_corners_are_finite(size):
    logits = torch.full((40,), size, dtype=torch.float32, requires_grad=True)
    q = OrderedMaskStraightThrough(0.1, logits=logits)
    p = OrderedMask(logits=-logits.detach())
    between = OrderedMaskInterpolated(logits=logits).rsample((3,)).sum()
    for value in (
        between,
        q.rsample((3,)).sum(),
        q.log_prob(q.sample((3,))).sum(),
        kl_divergence(q, p),
    ):
        assert value.dtype == torch.float32 and math.isfinite(value.item())
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value, logits)
            assert bool(gradient.isfinite().all())


def test_units_that_always_open_cost_nothing():
    q, p = OrderedMask(torch.tensor([1.0, 0.5])), OrderedMask(torch.tensor([1.0, 0.25]))
    expected = 0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75)
    assert float(kl_divergence(q, p)) == pytest.approx(expected)
    assert bool((q.sample((50,))[:, 0] == 1).all())


def test_bad_arguments_are_refused():
    with pytest.raises(ConfigError, match="exactly one of probs and logits"):
        OrderedMask()
    with pytest.raises(ConfigError, match="temperature > 0"):
        OrderedMaskStraightThrough(0.0, probs=BETA)
    with pytest.raises(ValueError, match="probs"):
        OrderedMask(torch.tensor([0.5, 1.5]), validate_args=True)
    with pytest.raises(ValueError, match="support"):
        OrderedMask(BETA.double()).log_prob(torch.tensor([0.0, 1.0, 0.0]))
