import pytest
import torch
from pyro.distributions import RelaxedOneHotCategorical

from bayesdrop.distributions import Downhill, OrderedMask
from bayesdrop.errors import ConfigError
from bayesdrop.testing import assert_mean_close

BETA = torch.tensor([0.7, 0.4], dtype=torch.float64)


def steps(v):
    one, zero = torch.ones_like(v[..., :1]), torch.zeros_like(v[..., :1])
    return torch.cat([one, v], -1) - torch.cat([v, zero], -1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_density_is_the_concrete_one_of_the_steps(temperature):
    fn = Downhill(temperature, probs=BETA)
    v = fn.rsample((100,))
    concrete = RelaxedOneHotCategorical(
        torch.tensor(temperature), probs=OrderedMask(BETA).tail_probs
    )
    torch.testing.assert_close(fn.log_prob(v), concrete.log_prob(steps(v)))


@pytest.mark.parametrize("temperature", [0.8, 2.0])
def test_density_integrates_to_one_and_matches_a_histogram(temperature):
    fn = Downhill(temperature, probs=BETA)
    n = 1200
    # Steps on a grid that is fine near the edges, where the density may grow.
    u = (torch.arange(n) + 0.5) / n
    x, w = u * u * (3 - 2 * u), 6 * u * (1 - u) / n
    v1, share = torch.meshgrid(x, x, indexing="ij")
    v = torch.stack([v1, v1 * share], -1)
    mass = fn.log_prob(v).exp() * v1 * w[:, None] * w[None, :]
    assert float(mass.sum()) == pytest.approx(1.0, abs=2e-3)
    samples = fn.rsample((20_000,))
    for low, high in ((0.0, 0.3), (0.3, 0.6), (0.6, 0.9)):
        inside = ((v1 > low) & (v1 <= high) & (v[..., 1] > 0.15)).double()
        drawn = (samples[:, 0] > low) & (samples[:, 0] <= high) & (samples[:, 1] > 0.15)
        expected = float((mass * inside).sum())
        share_drawn = drawn.double()
        # The grid's own error is far below the statistical one.
        assert_mean_close(share_drawn, expected)


def test_samples_fall_and_tend_to_the_ordered_mask():
    v = Downhill(1.0, probs=BETA).rsample((500,))
    assert bool((v.diff(dim=-1) <= 0).all() and (v <= 1).all() and (v >= 0).all())
    cold = Downhill(1e-3, probs=BETA).rsample((20_000,))
    middle = ((cold > 0.01) & (cold < 0.99)).double().mean()
    assert float(middle) < 0.01
    tails = torch.nn.functional.one_hot(cold.round().sum(-1).long(), 3).double()
    assert_mean_close(tails, OrderedMask(BETA).tail_probs)


@pytest.mark.parametrize(
    ("temperature", "mean"), [(0.1, 15.36), (0.5, 15.10), (1.0, 14.49), (2.0, 14.29)]
)
def test_mean_of_the_relaxed_mask_depends_on_the_temperature(temperature, mean):
    v = Downhill(temperature, logits=torch.full((30,), 3.0)).rsample((20_000,)).sum(-1)
    standard_error = float(v.std()) / len(v) ** 0.5
    # The published figures are Monte Carlo estimates of two decimals themselves.
    assert abs(float(v.mean()) - mean) < 4.3 * standard_error + 0.03


def test_pathwise_gradient_equals_differences():
    def sample(logits):
        torch.manual_seed(2)
        return Downhill(0.8, logits=logits).rsample((4,))

    assert torch.autograd.gradcheck(sample, BETA.logit().requires_grad_())


def test_shapes_and_arguments():
    fn = Downhill(1.0, probs=BETA.expand(3, 2)).expand([4, 3])
    assert fn.rsample((5,)).shape == (5, 4, 3, 2)
    assert fn.log_prob(fn.rsample()).shape == (4, 3)
    assert Downhill(1.0, probs=BETA.float()).rsample().dtype == torch.float32
    with pytest.raises(ConfigError, match="temperature > 0"):
        Downhill(0.0, probs=BETA)
    with pytest.raises(ValueError, match="support"):
        Downhill(1.0, probs=BETA).log_prob(torch.tensor([0.2, 0.5]))
