import pytest
import torch
from pyro.distributions import Categorical, MixtureSameFamily, Normal
from scipy.stats import binomtest

from bayesdrop.distributions import Mixture, log_mixture
from bayesdrop.testing import assert_mean_close


def components():
    return Normal(torch.randn(4, 3, 2), torch.rand(4, 3, 2) + 0.5).to_event(1)


@pytest.mark.parametrize("even", [True, False])
def test_log_prob_is_that_of_torchs_mixture(even):
    parts, y = components(), torch.randn(4, 2)
    weights = torch.zeros(4, 3).log_softmax(-1) if even else torch.randn(4, 3).log_softmax(-1)
    expected = MixtureSameFamily(Categorical(logits=weights), parts).log_prob(y)
    torch.testing.assert_close(Mixture(parts, None if even else weights).log_prob(y), expected)


def test_samples_have_the_moments_of_the_mixture():
    weights = torch.tensor([0.5, 0.2, 0.3])
    parts = components()
    draws = Mixture(parts, weights.log()).sample((20_000,))
    assert draws.shape == (20_000, 4, 2)
    assert_mean_close(draws, (weights[:, None] * parts.mean).sum(1))
    square = parts.mean.square() + parts.variance
    assert_mean_close(draws.square(), (weights[:, None] * square).sum(1))


def test_components_are_drawn_evenly_without_weights():
    parts = Normal(torch.tensor([-50.0, 50.0]), 1.0)
    first = int((Mixture(parts).sample((5000,)) < 0).sum())
    assert binomtest(first, 5000, 0.5).pvalue > 2e-5


def test_shapes_expand():
    fn = Mixture(components(), torch.tensor([0.5, 0.2, 0.3]).log())
    assert fn.batch_shape == (4,) and fn.event_shape == (2,)
    wide = fn.expand((5, 4))
    assert wide.batch_shape == (5, 4) and wide.sample().shape == (5, 4, 2)
    y = torch.randn(4, 2)
    torch.testing.assert_close(wide.log_prob(y), fn.log_prob(y).expand(5, 4))


def test_one_component_is_itself_and_equal_ones_make_no_difference():
    value = torch.randn(6)
    torch.testing.assert_close(log_mixture(value[:, None]), value)
    torch.testing.assert_close(log_mixture(value[:, None].expand(6, 9)), value)
