import math

import numpy as np
import pytest
import torch
from pyro.distributions import Delta
from torch import nn
from torch.distributions import kl_divergence as torch_kl_divergence

import bayesdrop as bd
from bayesdrop.distributions import TruncatedLogNormal, TruncatedLogUniform
from bayesdrop.errors import ConfigError
from bayesdrop.testing import assert_mean_close, assert_means_equal

NUM_DATA = 30


def layer(loc=(0.0, -5.0, -10.0, 0.0), log_scale=(0.0, 1.0, 2.0, -5.0), **options):
    result = bd.StructuredBayesianPruningDropout(len(loc), **options)
    with torch.no_grad():
        result.loc.copy_(torch.tensor(loc))
        result.log_scale.copy_(torch.tensor(log_scale))
    return result


def regression(**options):
    net = nn.Sequential(layer(**options), nn.Linear(4, 1))
    return bd.BayesianNetwork(net, bd.Gaussian(0.5), num_data=NUM_DATA)


def test_starts_with_hardly_any_noise_and_all_units():
    start = bd.StructuredBayesianPruningDropout(3)
    np.testing.assert_allclose(start.snr().detach(), 246.70, rtol=5e-5)
    np.testing.assert_allclose(bd.kl_divergence(start).item(), 3 * 7.2699, rtol=1e-5)
    assert bool(start.kept().all())


def test_ratio_and_mean_are_the_golden_values():
    np.testing.assert_allclose(layer().snr().detach(), [2.0924, 0.4085, 0.2705, 246.70], rtol=2e-4)
    mean = layer(threshold=0.0).mean_mask().detach()
    np.testing.assert_allclose(mean, [0.52316, 0.05318, 0.03128, 0.99465], rtol=2e-4)


def test_a_threshold_of_one_half_is_a_ratio_of_one():
    gates = layer()
    assert gates.kept().tolist() == (gates.snr() > 1).tolist() == [True, False, False, True]
    assert (gates.mean_mask() != 0).tolist() == gates.kept().tolist()
    ratio = 0.3
    gates.threshold = ratio**2 / (1 + ratio**2)
    assert gates.kept().tolist() == (gates.snr() > ratio).tolist() == [True, True, False, True]


def test_keep_prob_is_that_of_bernoulli_noise_with_the_same_ratio():
    gates = layer()
    keep = gates.keep_prob()
    # Bernoulli noise of any size has the ratio sqrt(keep / (1 - keep)).
    torch.testing.assert_close((keep / (1 - keep)).sqrt(), gates.snr())
    z = gates.posterior()["noise"].rsample((40_000,))
    assert_mean_close(z[::2] * z[1::2] - keep.detach() * (z[::2] ** 2 + z[1::2] ** 2) / 2, 0.0)


def test_the_mask_is_the_noise_of_the_step():
    gates = layer()
    noise = gates.draw_latents()
    mask = gates.mask_distribution(noise)
    assert isinstance(mask, Delta)
    rows = gates.draw_mask(noise, torch.ones(5, 4))
    torch.testing.assert_close(rows, noise["noise"].expand(5, 4))
    assert bool(((rows >= math.exp(-20) * (1 - 1e-12)) & (rows <= 1)).all())


def test_prior_and_posterior_are_those_of_the_paper():
    gates = layer(lower=-15.0)
    q, p = gates.posterior()["noise"].base_dist, gates.prior()["noise"].base_dist
    assert isinstance(q, TruncatedLogNormal)
    assert float(q.lower[0]) == -15.0 and float(q.upper[0]) == 0.0
    torch.testing.assert_close(q.log_prob(q.mean), q.expand([4]).log_prob(q.mean))
    torch.testing.assert_close(p.mean, TruncatedLogUniform(-15.0, torch.zeros(4)).mean)


def test_limit_of_little_noise_is_the_plain_network():
    gates = layer((0.0, -1.0), (-19.0, -19.0))
    expected = torch.tensor([1.0, math.exp(-1.0)])
    torch.testing.assert_close(gates.mean_mask(), expected, rtol=1e-7, atol=1e-7)
    drawn = gates.draw_latents()["noise"]
    torch.testing.assert_close(drawn, expected, rtol=1e-7, atol=1e-7)


def test_limit_of_much_noise_is_the_prior():
    gates = layer((-3.0,), (5.0,))
    np.testing.assert_allclose(gates.snr().item(), 1 / 3, atol=1e-3)
    np.testing.assert_allclose(gates.keep_prob().item(), 0.1, atol=1e-3)
    assert bd.kl_divergence(gates).item() < 1e-4


def test_a_parameter_outside_its_bounds_counts_as_the_bound_and_can_come_back():
    outside = layer((9.0, -30.0), (7.0, -25.0))
    torch.testing.assert_close(outside.keep_prob(), layer((5.0, -20.0), (5.0, -20.0)).keep_prob())
    far = layer((9.0,), (0.0,))
    (gradient,) = torch.autograd.grad(bd.kl_divergence(far), far.loc)
    assert float(gradient) > 0  # descent leads back
    (gradient,) = torch.autograd.grad(-bd.kl_divergence(far), far.loc)
    assert float(gradient) == 0  # and never further out


def test_noise_for_each_example_has_the_same_objective():
    x, y = torch.randn(NUM_DATA, 4), torch.randn(NUM_DATA, 1)
    shared, local = regression(), regression(shared_by="example")
    local.load_state_dict(shared.state_dict())
    terms = [[bnn.loss(x, y) for _ in range(400)] for bnn in (shared, local)]
    torch.testing.assert_close(terms[0][0].kl, terms[1][0].kl)
    losses = [torch.stack([term.loss for term in values]).detach() for values in terms]
    assert_means_equal(*losses)
    assert float(losses[1].var()) < 0.5 * float(losses[0].var())


def test_noise_for_each_example_has_no_global_site_and_a_penalty():
    gates = layer(shared_by="example")
    assert gates.prior() == gates.posterior() == {}
    penalty = gates.penalty()
    reference = layer()
    q, p = reference.posterior()["noise"], reference.prior()["noise"]
    torch.testing.assert_close(penalty, torch_kl_divergence(q, p))
    rows = gates.draw_mask({}, torch.ones(2000, 4))
    assert_mean_close(rows, layer(threshold=0.0).mean_mask())


def test_unneeded_inputs_lose_their_signal_and_needed_ones_keep_it():
    x = torch.randn(200, 4)
    y = (2 * x[:, :1] - x[:, 1:2]) + 0.1 * torch.randn(200, 1)
    net = nn.Sequential(bd.StructuredBayesianPruningDropout(4), nn.Linear(4, 1))
    bnn = bd.BayesianNetwork(net, bd.Gaussian(0.1), num_data=200)
    bd.fit(bnn, (x, y), epochs=600, batch_size=200, learning_rate=0.02,
           variational_learning_rate=0.1, schedule=(), progress=False, seed=0)  # fmt: skip
    assert net[0].kept().tolist() == [True, True, False, False]
    small = bd.compact(bnn, x[:2])
    assert next(m for m in small.modules() if isinstance(m, nn.Linear)).in_features == 2


@pytest.mark.parametrize(
    "options",
    [{"lower": 0.0}, {"lower": -math.inf}, {"init_loc": 6.0}, {"init_loc": -21.0},
     {"init_scale": 0.0}, {"init_scale": 1e3}],
)  # fmt: skip
def test_bad_options_raise(options):
    with pytest.raises(ConfigError, match="PruningDropout: expected a finite lower < 0"):
        bd.StructuredBayesianPruningDropout(3, **options)
