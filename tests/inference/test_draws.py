import copy
import math

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesdrop as bd
from bayesdrop.errors import ConfigError, DataError, DivergenceError, ShapeError
from bayesdrop.inference.draws import (
    draw_posterior,
    draw_prior,
    evaluate_draws,
    log_densities,
    provides,
    stack_draws,
)
from bayesdrop.testing import assert_mean_close, assert_means_equal

KEYS = list(bd.nn.registered(bd.BayesianDropout))


def bayesian(key="beta-bernoulli", likelihood=None, **options):
    net = nn.Sequential(
        bd.nn.make(key, 4, **options), nn.Linear(4, 3), bd.nn.make(key, 3, **options)
    )
    return bd.BayesianNetwork(net, likelihood or bd.Categorical(), num_data=7).eval()


def data(rows=7):
    return torch.randn(rows, 4), torch.arange(rows) % 3


@pytest.mark.parametrize("key", KEYS)
def test_densities_are_those_of_the_model_and_of_the_guide(key):
    bnn = bayesian(key, kl_scale=3.0)
    draws = draw_posterior(bnn, 5)
    densities = log_densities(draws)
    if not any(owner.posterior() for _, owner in bnn.named_owners()):
        assert [density.tolist() for density in densities] == [5 * [0.0]] * 2
        return
    for index, draw in enumerate(draws):
        values = {f"{p}.{n}": v for p, o in bnn.named_owners() for n, v in draw[o].items()}
        for program, density in zip((bnn.model, bnn.guide), densities, strict=True):
            trace = poutine.trace(poutine.condition(program, values)).get_trace(data()[0])
            terms = [trace.nodes[name]["fn"].log_prob(value) for name, value in values.items()]
            torch.testing.assert_close(density[index], torch.stack(terms).sum())


@pytest.mark.parametrize("key", KEYS)
def test_prior_draws_have_the_shapes_of_posterior_draws(key):
    bnn = bayesian(key)
    prior, posterior = draw_prior(bnn, 6), stack_draws(draw_posterior(bnn, 6))
    if key == "normal-jeffreys":  # which is improper
        assert not prior
        return
    assert prior.keys() == posterior.keys()
    for owner, latents in posterior.items():
        assert {n: v.shape for n, v in latents.items()} == {
            n: v.shape for n, v in prior[owner].items()
        }


def test_averaging_over_masks_gives_the_marginal_likelihood():
    # One unit of weight 1: y is N(1, 1) where it is kept and N(0, 1) where it is not.
    net = nn.Sequential(bd.BetaBernoulliDropout(1), nn.Linear(1, 1, bias=False))
    nn.init.ones_(net[1].weight)
    bnn = bd.BayesianNetwork(net, bd.Gaussian(1.0), num_data=1).eval()
    x, y, keep = torch.ones(1, 1), torch.tensor([[2.0]]), 0.3
    draws = [{net[0]: {"pi": torch.tensor([keep])}}] * 2000
    density = dist.Normal(torch.tensor([1.0, 0.0]), 1.0).log_prob(y[0]).exp()
    exact = keep * density[0] + (1 - keep) * density[1]
    one, four = (
        next(evaluate_draws(bnn, (x, y), draws, num_masks=m)).log_likelihood.exp() for m in (1, 4)
    )
    for likelihood in (one, four):
        assert_means_equal(likelihood, exact.expand(2, 1) + torch.zeros(2, 1))
    ratio = float(one.var() / four.var())
    assert 3.0 < ratio < 5.3  # 4, within 5 standard errors of a ratio of variances of 2000 draws


def test_common_noise_leaves_the_latents_as_the_only_difference():
    bnn = bayesian()
    draws = draw_posterior(bnn, 1) * 3
    same = next(evaluate_draws(bnn, data(), draws, noise_seed=1)).log_likelihood
    assert torch.equal(same[0], same[1]) and torch.equal(same[0], same[2])
    fresh = next(evaluate_draws(bnn, data(), draws)).log_likelihood
    assert not torch.equal(fresh[0], fresh[1])


def test_an_example_is_simulated_from_its_own_output_however_many_masks_it_has():
    net = nn.Sequential(bd.BetaBernoulliDropout(1), nn.Linear(1, 1, bias=False))
    net[0].set_posterior(1e5)
    nn.init.ones_(net[1].weight)
    bnn = bd.BayesianNetwork(net, bd.Gaussian(1e-3), num_data=5).eval()
    x = torch.arange(1.0, 6.0)[:, None]
    (part,) = evaluate_draws(bnn, x, draw_posterior(bnn, 3), num_masks=4)
    torch.testing.assert_close(part.observations, x.expand(3, 5, 1), rtol=0, atol=0.01)


def test_common_noise_is_another_for_each_batch():
    bnn, alike = bayesian(), (torch.ones(6, 4), torch.zeros(6).long())
    draws = draw_posterior(bnn, 1)
    first, second = evaluate_draws(bnn, alike, draws, noise_seed=1, batch_size=3)
    assert not torch.equal(first.log_likelihood, second.log_likelihood)


@pytest.mark.parametrize("kind", ["pair", "dataset", "loader", "small batches"])
def test_every_kind_of_data_gives_every_example_once(kind):
    x, y = data()
    source = {
        "pair": (x, y),
        "small batches": (x, y),
        "dataset": TensorDataset(x, y),
        "loader": DataLoader(TensorDataset(x, y), batch_size=3),
    }[kind]
    bnn = bayesian()
    parts = list(
        evaluate_draws(
            bnn, source, draw_posterior(bnn, 2), batch_size=2 if "small" in kind else None
        )
    )
    assert torch.equal(torch.cat([part.x for part in parts]), x)
    assert torch.equal(torch.cat([part.y for part in parts]), y)
    assert torch.cat([part.log_likelihood for part in parts], 1).shape == (2, 7)
    assert torch.cat([part.observations for part in parts], 1).shape == (2, 7)


def test_rows_of_a_pass_shrink_with_the_memory_limit_and_with_the_number_of_masks():
    bnn, sizes = bayesian(), []
    bnn.network.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    list(evaluate_draws(bnn, data(), draw_posterior(bnn, 1), num_masks=5, memory_limit=2000))
    # One example to look at its masks, one to measure, one to look for local latents.
    assert sum(sizes) == 7 * 5 + 3
    assert max(sizes) <= 10


def test_bad_inputs_and_outputs_are_named():
    bnn = bayesian()
    draws = draw_posterior(bnn, 1)
    x, y = data()
    x[3, 0] = math.nan
    with pytest.raises(DataError, match="nan or infinity in input row 3"):
        list(evaluate_draws(bnn, (x, y), draws))
    with torch.no_grad():
        bnn.network[1].bias.fill_(math.inf)
    with pytest.raises(DivergenceError, match="finite predictions"):
        list(evaluate_draws(bnn, data(), draws, simulate=False))
    empty = DataLoader(TensorDataset(*data(2)), batch_size=3, drop_last=True)
    with pytest.raises(DataError, match="expected at least one batch, got none"):
        list(evaluate_draws(bnn, empty, draws))


def test_latents_of_an_example_are_refused():
    vae = bd.VariationalAutoencoder(
        nn.Linear(4, 6),
        nn.Linear(2, 4),
        bd.Gaussian(1.0),
        num_data=7,
        latent_dropout=bd.IndianBuffetDropout(2),
    ).eval()
    store = dict(pyro.get_param_store().items())
    with pytest.raises(ConfigError, match="VariationalAutoencoder: expected examples without"):
        list(evaluate_draws(vae, data()[0], draw_posterior(vae, 1)))
    assert dict(pyro.get_param_store().items()) == store


def test_what_a_distribution_provides_is_seen_through_independent():
    normal = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    assert all(provides(normal, name) for name in ("sample", "log_prob", "mean"))

    class Improper(dist.TorchDistribution):
        arg_constraints = {}
        support = dist.constraints.real

    improper = Improper(torch.Size((2,))).to_event(1)
    assert not any(provides(improper, name) for name in ("sample", "log_prob", "mean"))


def concentrated(key, a, b):
    """A float32 layer of 50 units whose guide sticks at an end of the unit interval."""
    options = {"prior_concentration1": 1e-4} if "beta" in key else {}
    layer = bd.nn.make(key, 50, init_concentration1=a, init_concentration0=b, **options)
    return layer.float()


@pytest.mark.parametrize(("a", "b"), [(0.3, 1.0), (0.01, 1.0), (0.001, 1.0), (5.0, 0.02)])
@pytest.mark.parametrize("key", ["beta-bernoulli", "dependent-beta-bernoulli", "indian-buffet"])
def test_mean_log_ratio_is_minus_the_kl_in_float32_where_pi_sticks_at_an_end(key, a, b):
    layer = concentrated(key, a, b)
    net = nn.Sequential(layer, nn.Linear(50, 1).float())
    bnn = bd.BayesianNetwork(net, bd.Gaussian(1.0), num_data=1).eval()
    prior, guide = log_densities(draw_posterior(bnn, 700))
    exact = bd.kl_divergence(copy.deepcopy(layer).double())
    assert_mean_close((prior - guide)[:, None], -exact.detach()[None])


def test_values_are_those_of_their_log_odds_and_inside_the_interval():
    bnn = bd.BayesianNetwork(
        nn.Sequential(concentrated("beta-bernoulli", 0.02, 0.1), nn.Linear(50, 1).float()),
        bd.Gaussian(1.0),
        num_data=1,
    ).eval()
    draws = draw_posterior(bnn, 100)
    (logits,), (values,) = (
        next(iter(d.values())).values() for d in (draws.logits, stack_draws(draws))
    )
    assert values.dtype == torch.float32 and logits.dtype == torch.float64
    assert 0.0 < values.min() < 1e-37 and 1 - 2e-7 < values.max() < 1.0
    torch.testing.assert_close(values, logits.sigmoid().float(), rtol=1e-5, atol=2e-7)


def test_only_the_owners_that_vary_differ():
    bnn = bayesian()
    first, second = (owner for _, owner in bnn.named_owners())
    draws = draw_posterior(bnn, 3, [second])
    assert torch.equal(draws[0][first]["pi"], draws[2][first]["pi"])
    assert not torch.equal(draws[0][second]["pi"], draws[2][second]["pi"])
    assert draws.logits[first]["pi"].shape == (3, 4)


class SumOverExamples(nn.Linear):
    def forward(self, x):
        return super().forward(x).sum(0)


def test_an_output_without_a_row_for_each_input_is_refused():
    net = nn.Sequential(bd.BetaBernoulliDropout(3), SumOverExamples(3, 1))
    bnn = bd.BayesianNetwork(net, bd.Gaussian(), num_data=8)
    with pytest.raises(ShapeError, match="one network output for each of 64"):  # under 8 masks
        bd.loo(bnn, (torch.randn(8, 3), torch.randn(8, 1)), num_samples=100)
