import math

import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.distributions import LogNormal
from bayesdrop.errors import ConfigError
from bayesdrop.nn import GroupHorseshoeDropout
from bayesdrop.testing import assert_mean_close, assert_means_equal

LAWS = {
    "unit_a": scipy.stats.gamma(0.5),
    "unit_b": scipy.stats.invgamma(0.5),
    "layer_a": scipy.stats.gamma(0.5, scale=0.01**2),
    "layer_b": scipy.stats.invgamma(0.5),
}


def layer(num_units=3, spread=0.5, **options):
    result = GroupHorseshoeDropout(num_units, **options)
    for parameter in result.parameters():
        nn.init.normal_(parameter, std=spread)
    return result


@pytest.mark.parametrize("site", LAWS)
@pytest.mark.parametrize(("loc", "log_variance"), [(0.3, -1.0), (-2.0, 0.7)])
def test_the_divergence_of_each_log_normal_is_its_integral(site, loc, log_variance):
    gates = GroupHorseshoeDropout(2, global_scale=0.01)
    std = math.exp(log_variance / 2)
    q = LogNormal(torch.full((1,), loc), torch.full((1,), std)).to_event(1)
    prior = gates.prior()[site]
    q = q if site.startswith("layer") else q.base_dist.expand([2]).to_event(1)
    law = scipy.stats.lognorm(std, scale=math.exp(loc))

    def integrand(t):  # over log x
        x = math.exp(t)
        return law.pdf(x) * x * (law.logpdf(x) - LAWS[site].logpdf(x))

    value = scipy.integrate.quad(integrand, loc - 9 * std, loc + 9 * std)[0]
    kl = torch.distributions.kl_divergence(q, prior).item()
    torch.testing.assert_close(kl / q.event_shape.numel(), value, rtol=1e-6, atol=1e-6)


def test_the_divergences_are_those_of_the_paper():
    gates, theta = layer(global_scale=0.02), 0.02**2
    m, v = gates.layer_loc_a, gates.layer_log_variance_a.exp()
    expected = {"layer_a": -m / 2 - (2 * math.e * v).log() / 2 + math.log(theta) / 2}
    expected["layer_a"] = expected["layer_a"] + (m + v / 2).exp() / theta
    m, v = gates.loc_b, gates.log_variance_b.exp()
    expected["unit_b"] = m / 2 - (2 * math.e * v).log() / 2 + (-m + v / 2).exp()
    posterior, prior = gates.posterior(), gates.prior()
    for site, value in expected.items():
        kl = torch.distributions.kl_divergence(posterior[site], prior[site])
        torch.testing.assert_close(kl, value.sum())


def test_the_root_of_the_four_is_a_half_cauchy_of_the_layer_s_half_cauchy():
    gates, scale = GroupHorseshoeDropout(1, global_scale=0.3), 0.3
    torch.manual_seed(0)
    drawn = {name: p.expand([5000]).sample().squeeze() for name, p in gates.prior().items()}
    units = (drawn["unit_a"] * drawn["unit_b"]).sqrt()
    whole = (drawn["layer_a"] * drawn["layer_b"]).sqrt()
    for values, width in ((units, 1.0), (whole, scale)):
        p = scipy.stats.kstest(values.numpy(), scipy.stats.halfcauchy(scale=width).cdf).pvalue
        assert p > 2e-5
    torch.testing.assert_close(gates.scale(drawn), whole * units)


def test_the_scale_is_log_normal_with_the_mean_of_evaluation_mode():
    gates = layer(spread=0.3, threshold=0.0)
    latents = {name: q.rsample((20_000,)).detach() for name, q in gates.posterior().items()}
    loc, variance = gates.log_scale_moments()
    z = gates.scale(latents)
    assert gates.scale(gates.draw_latents()).shape == (3,)
    assert_mean_close(z.log(), loc.detach())
    assert_mean_close((z.log() - loc.detach()).square(), variance.detach())
    assert_mean_close(z, gates.mean_mask().detach())


def test_scales_start_at_one_where_the_layer_s_is_tiny():
    gates = GroupHorseshoeDropout(5).float()
    torch.testing.assert_close(gates.mean_mask().double(), torch.ones(5), rtol=0, atol=1e-3)
    # The tail of a half-Cauchy costs the logarithm of how far out it is.
    wide = GroupHorseshoeDropout(5, global_scale=1.0).float()
    more = (gates.kl_divergence() - wide.kl_divergence()).item()
    assert 0.0 < more < 1.1 * math.log(1e5)


def test_a_unit_under_its_prior_alone_is_pruned():
    gates = layer(spread=0.0)
    with torch.no_grad():  # the log-normals nearest to the prior have a variance of 2
        gates.log_variance_a.fill_(math.log(2.0)), gates.log_variance_b.fill_(math.log(2.0))
        gates.layer_log_variance_a.fill_(-9.0), gates.layer_log_variance_b.fill_(-9.0)
        gates.loc_a.fill_(math.log(0.5) - 1.0), gates.loc_b.fill_(1.0 + math.log(2.0))
    unit = [gates.loc_a, gates.loc_b, gates.log_variance_a, gates.log_variance_b]
    for gradient in torch.autograd.grad(gates.kl_divergence(), unit):
        torch.testing.assert_close(gradient, torch.zeros(3), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        gates.keep_prob(), torch.full((3,), math.exp(-1.0)), rtol=0, atol=1e-3
    )
    assert not bool(gates.kept().any())


def test_limit_of_no_noise_is_a_constant():
    gates = GroupHorseshoeDropout(3, init_log_variance=-80.0)
    torch.testing.assert_close(gates(torch.ones(5, 3)), torch.ones(5, 3))


def test_scales_for_each_example_have_the_same_divergence_and_law():
    x, y = torch.randn(30, 3), torch.randn(30, 1)
    terms = []
    for shared_by in ("batch", "example"):
        torch.manual_seed(0)
        net = nn.Sequential(layer(spread=0.3, shared_by=shared_by), nn.Linear(3, 1))
        bnn = bd.BayesianNetwork(net, bd.Gaussian(2.0), num_data=30)
        terms.append([bnn.loss(x, y) for _ in range(120)])
    torch.testing.assert_close(terms[0][0].kl, terms[1][0].kl)
    assert_means_equal(*(torch.stack([t.loss for t in ts]).detach().log() for ts in terms))


def test_only_the_layer_s_scale_is_global_where_examples_have_their_own():
    gates = layer(shared_by="example")
    assert gates.posterior().keys() == gates.prior().keys() == {"layer_a", "layer_b"}
    rows = gates.draw_mask(gates.draw_latents(), torch.ones(50, 3))
    assert rows.shape == (50, 3) and bool((rows.std(0) > 0).all())


@pytest.mark.parametrize("scale", [0.0, 1e-20, math.nan])
def test_bad_options_raise(scale):
    with pytest.raises(ConfigError, match="GroupHorseshoeDropout: expected 1e-15 <= global_scale"):
        GroupHorseshoeDropout(3, global_scale=scale)
