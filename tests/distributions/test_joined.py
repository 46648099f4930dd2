"""Units with one law beside units with another."""

import torch
from pyro.distributions import Beta
from torch.distributions import kl_divergence

from bayesdrop.distributions import Joined, Kumaraswamy
from bayesdrop.testing import assert_mean_close

LAWS = Beta(torch.tensor([2.0, 0.5]), 3.0), Kumaraswamy(torch.tensor([1.5, 2.0, 0.3]), 2.0)


def test_it_is_its_parts_one_beside_the_other():
    fn = Joined(LAWS)
    value = fn.rsample((7,))
    assert value.shape == (7, 5)
    terms = [law.log_prob(x) for law, x in zip(LAWS, value.split([2, 3], -1), strict=True)]
    torch.testing.assert_close(fn.log_prob(value), torch.cat(terms, -1))
    torch.testing.assert_close(fn.to_event(1).log_prob(value), torch.cat(terms, -1).sum(-1))
    torch.testing.assert_close(fn.mean, torch.cat([law.mean for law in LAWS]))
    torch.testing.assert_close(fn.variance, torch.cat([law.variance for law in LAWS]))
    assert fn.expand((4, 5)).rsample().shape == (4, 5)
    assert bool(fn.support.check(value).all())


def test_the_divergence_of_kumaraswamys_is_that_from_each_part():
    q, fn = Kumaraswamy(torch.linspace(0.5, 3.0, 5), 1.5), Joined(LAWS)
    value = q.rsample((20_000,))
    kl = kl_divergence(q, fn)
    assert_mean_close(q.log_prob(value) - fn.log_prob(value), kl)
    torch.testing.assert_close(kl_divergence(q.to_event(1), fn.to_event(1)), kl.sum())
