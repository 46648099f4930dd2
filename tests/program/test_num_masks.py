"""Laws of the objective with several masks of an example inside the logarithm."""

import copy
import itertools
import math

import numpy as np
import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError
from bayesdrop.nn import SparseVariational, TrainingPass, make
from bayesdrop.testing import assert_mean_close, assert_means_equal, gradients, sites

DROPOUTS = list(bd.nn.registered(bd.BayesianDropout))
SUMMABLE = ["beta-bernoulli", "dependent-beta-bernoulli", "indian-buffet"]


def network(key="beta-bernoulli", width=4, **options):
    return nn.Sequential(make(key, width, **options), nn.Linear(width, 3))


def bayesian(key="beta-bernoulli", **options):
    return bd.BayesianNetwork(network(key, **options), bd.Categorical(), num_data=40)


def batch(rows=8, width=4):
    y = torch.randint(3, (rows,))
    y[0] = -100
    return torch.randn(rows, width), y


# -- one unit, by hand ----------------------------------------------------------------------------
#
# y_n ~ N(2 z_n, 1), z_n ~ Bernoulli(pi), pi ~ Kumaraswamy(1, 1) = Beta(1, 1): there is no KL
# divergence, and the mask is exact, so that every expectation is a sum and an integral over pi.

Y = torch.tensor([[2.3], [-0.4], [1.9], [0.7]], dtype=torch.float64)
NODES = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000


def one_unit(**options):
    layer = bd.BetaBernoulliDropout(
        1,
        prior_concentration1=1.0,
        init_concentration1=1.0,
        **{"relaxation": "straight-through", **options},
    )
    last = nn.Linear(1, 1, bias=False)
    nn.init.constant_(last.weight, 2.0).requires_grad_(False)
    return bd.BayesianNetwork(nn.Sequential(layer, last), bd.Gaussian(1.0), num_data=len(Y))


def normal(y, mean):
    return torch.exp(-0.5 * (y - mean) ** 2) / math.sqrt(2 * math.pi)


def expected_nll(num_masks):
    total = 0.0
    for y in Y.flatten():
        if num_masks == "exact":
            term = (NODES * normal(y, 2.0) + (1 - NODES) * normal(y, 0.0)).log()
        else:
            term = 0.0
            for kept in range(num_masks + 1):
                chance = math.comb(num_masks, kept) * NODES**kept
                chance = chance * (1 - NODES) ** (num_masks - kept)
                share = kept / num_masks
                value = share * normal(y, 2.0) + (1 - share) * normal(y, 0.0)
                term = term + chance * value.log()
        total -= float(term.mean())
    return total


@pytest.mark.parametrize("num_masks", [1, 2, 4, "exact"])
def test_expected_loss_is_that_by_hand(num_masks):
    bnn, x = one_unit(), torch.ones(len(Y), 1)
    with torch.no_grad():
        losses = torch.stack([bnn.loss(x, Y, num_masks=num_masks).nll for _ in range(500)])
    assert_mean_close(losses, torch.tensor(expected_nll(num_masks)))


def test_more_masks_decrease_the_expected_loss_towards_the_exact_one():
    """Jensen's inequality; the test above ties both sides to ``bnn.loss``."""
    values = [expected_nll(num_masks) for num_masks in (1, 2, 4, 8, 16, 64)]
    exact = expected_nll("exact")
    assert all(first > second + 1e-3 for first, second in itertools.pairwise(values[:5]))
    assert exact < values[-1] < exact + 0.03 < values[0] - 1.0


def test_exact_loss_given_the_rate_is_the_sum_over_masks(same_noise):
    """Two layers' worth of nothing random: 2^3 masks, weighted by their probabilities."""
    bnn = bayesian(width=3)
    (x, y), layer = batch(width=3), bnn.network[0]
    pi = layer.draw_latents()["pi"]
    likelihood = 0.0
    for mask in itertools.product((0.0, 1.0), repeat=3):
        z = torch.tensor(mask)
        chance = torch.where(z == 1, pi, 1 - pi).prod()
        likelihood = likelihood + chance * bnn.likelihood.log_prob(bnn.network[1](x * z), y).exp()
    expected = -likelihood.log().sum() * 40 / len(x)
    torch.testing.assert_close(bnn.loss(x, y, num_masks="exact").nll, expected)


# -- one mask -------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", DROPOUTS)
def test_one_mask_is_the_loss_of_before_to_the_bit(key):
    bnn, (x, y) = bayesian(key), batch()

    def terms(of):
        torch.manual_seed(5)
        return of(copy.deepcopy(bnn))  # running statistics move

    def before(bnn):
        draws = TrainingPass(len(x))
        draws.draw_jointly(bnn.network)
        with draws:
            nll = bnn.likelihood.nll(bnn.network(x), y) * (40 / len(x))
        own = draws.divergence_by_example().sum()
        return nll, draws.kl_divergence(bnn.network) + (40 / len(x)) * own

    expected = terms(before)
    for found in (
        terms(lambda bnn: bnn.loss(x, y)),
        terms(lambda bnn: bnn.loss(x, y, num_masks=1)),
    ):
        assert torch.equal(found.nll, expected[0])
        assert torch.equal(found.kl, expected[1])


def test_in_evaluation_mode_the_masks_are_the_means():
    bnn, (x, y) = bayesian().eval(), batch()
    for num_masks in (3, "exact"):
        assert torch.equal(bnn.loss(x, y, num_masks=num_masks).loss, bnn.loss(x, y).loss)


# -- the Pyro pair --------------------------------------------------------------------------------


@pytest.mark.parametrize("key", DROPOUTS)
def test_program_with_several_masks_has_the_loss_and_its_gradient(key, same_noise):
    bnn, (x, y) = bayesian(key), batch()
    bnn.loss(x, y, num_masks=3)  # from here on running statistics stand still
    for layer in bnn.modules():
        if hasattr(layer, "momentum"):
            layer.momentum = 0.0
    ours = bnn.loss(x, y, num_masks=3).loss
    stock = TraceMeanField_ELBO().differentiable_loss(bnn.model, bnn.guide, x, y, num_masks=3)
    torch.testing.assert_close(ours, stock)
    torch.testing.assert_close(gradients(ours, bnn), gradients(stock, bnn))


@pytest.mark.parametrize("key", SUMMABLE)
def test_program_with_all_masks_has_the_loss_and_its_gradient(key, same_noise):
    bnn, (x, y) = bayesian(key), batch()
    bnn.loss(x, y, num_masks="exact")
    for layer in bnn.modules():
        if hasattr(layer, "momentum"):
            layer.momentum = 0.0
    ours = bnn.loss(x, y, num_masks="exact").loss
    elbo = TraceMeanField_ELBO()
    stock = elbo.differentiable_loss(bnn.model, bnn.guide, x, y, num_masks="exact")
    torch.testing.assert_close(ours, stock)
    torch.testing.assert_close(gradients(ours, bnn), gradients(stock, bnn))


LIKELIHOODS = {
    "gaussian": (bd.Gaussian("learned", num_outputs=3), lambda: torch.randn(8, 3)),
    "heteroscedastic": (bd.Gaussian("heteroscedastic"), lambda: torch.randn(8, 2)),
    "bernoulli": (bd.Bernoulli(), lambda: torch.randint(2, (8, 4)).double()),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("num_masks", [2, "exact"])
def test_any_likelihood_has_several_masks(name, num_masks, same_noise):
    likelihood, target = LIKELIHOODS[name]
    outputs = 3 if name == "gaussian" else 4
    net = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, outputs))
    bnn = bd.BayesianNetwork(net, likelihood, num_data=40)
    x, y = torch.randn(8, 4), target()
    stock = TraceMeanField_ELBO().differentiable_loss(
        bnn.model, bnn.guide, x, y, num_masks=num_masks
    )
    torch.testing.assert_close(bnn.loss(x, y, num_masks=num_masks).loss, stock)


def test_pixels_of_an_example_share_its_masks(same_noise):
    """An example's pixels are summed inside the logarithm, missing ones left out."""
    net = nn.Sequential(bd.BetaBernoulliDropout(4, unit_dim=-3), nn.Conv2d(4, 3, 1))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=10)
    x, y = torch.randn(5, 4, 2, 2), torch.randint(3, (5, 2, 2))
    y[:, 0] = -100
    draws = TrainingPass(10)
    with draws:
        output = net(x.repeat_interleave(2, 0))
    log_probs = output.log_softmax(1).gather(1, y.clamp(min=0).repeat_interleave(2, 0)[:, None])
    terms = log_probs[:, 0, 1].sum(-1).reshape(5, 2)
    expected = -2 * (terms.logsumexp(1) - math.log(2)).sum()
    torch.testing.assert_close(bnn.loss(x, y, num_masks=2).nll, expected)
    stock = TraceMeanField_ELBO().differentiable_loss(bnn.model, bnn.guide, x, y, num_masks=2)
    torch.testing.assert_close(bnn.loss(x, y, num_masks=2).loss, stock)


@pytest.mark.parametrize("num_masks", [3, "exact"])
def test_stock_inference_takes_several_masks(num_masks):
    bnn, (x, y) = bayesian(), batch()
    for elbo in (TraceMeanField_ELBO(num_particles=2, vectorize_particles=True), Trace_ELBO()):
        svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 1e-3}), elbo)
        assert math.isfinite(svi.step(x, y, num_masks=num_masks))
    bnn.eval()
    for parallel in (False, True):
        predictive = Predictive(bnn.model, guide=bnn.guide, num_samples=5, parallel=parallel)
        draws = predictive(x, num_masks=num_masks)
        assert draws["obs"].shape == (5, 8)
        assert ("0.z" in draws) == (num_masks == 3)


@pytest.mark.parametrize("key", SUMMABLE)
def test_all_masks_of_several_particles_are_those_of_each(key):
    bnn, (x, y) = bayesian(key).eval(), batch()
    latents = {name: bnn.network[0].draw_latents() for name in ("first", "second")}

    def log_prob(values, particles=()):
        sites = {f"0.{name}": value for name, value in values.items()}
        model = poutine.condition(bnn.model, sites)
        if particles:
            model = pyro.plate("particles", *particles, dim=-2)(model)
        trace = poutine.trace(model).get_trace(x, y, num_masks="exact")
        trace.compute_log_prob()
        return trace.nodes["obs"]["log_prob"]

    stacked = {
        name: torch.stack([values[name] for values in latents.values()])[:, None]
        for name in latents["first"]
    }
    expected = torch.stack([log_prob(values) for values in latents.values()])
    torch.testing.assert_close(log_prob(stacked, (2,)), expected)


def test_rates_of_zero_and_one_are_one_mask():
    layer = bd.BetaBernoulliDropout(4)
    masks, kept = layer.all_masks(), torch.tensor([1.0, 0.0, 1.0, 1.0])
    chances = layer.log_prob_of_masks(masks, {"pi": kept}).exp()
    torch.testing.assert_close(chances, (masks == kept).all(1).double())


def test_masks_of_an_example_are_one_site():
    bnn, (x, y) = bayesian(), batch()

    def model(x, y):
        return bnn.model(x, y, num_masks=3)

    site = sites(model, x, y)["0.z"]
    assert site["value"].shape == (8, 3, 4) and site["fn"].event_shape == (3, 4)
    masks = torch.zeros(8, 3, 4)
    trace = poutine.trace(poutine.condition(model, {"0.z": masks})).get_trace(x, y)
    bias = bnn.network[1].bias
    torch.testing.assert_close(trace.nodes["_RETURN"]["value"], bias.expand(8, 3, 3))


def test_several_particles_agree_with_the_loss_in_expectation():
    bnn, (x, y) = bayesian().eval(), batch()
    elbo = TraceMeanField_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    bnn.train()
    with torch.no_grad():
        ours = torch.stack([bnn.loss(x, y, num_masks=3).loss for _ in range(800)])
        stock = [elbo.loss(bnn.model, bnn.guide, x, y, num_masks=3) for _ in range(250)]
    assert_means_equal(ours, torch.tensor(stock))


def test_with_all_masks_the_density_is_fixed():
    """What NUTS needs: the same latents have the same density twice, in evaluation mode too."""
    bnn, (x, y) = bayesian().eval(), batch()
    latents = {"0.pi": torch.full((4,), 0.3)}

    def density(num_masks):
        conditioned = poutine.condition(bnn.model, latents)
        return poutine.trace(conditioned).get_trace(x, y, num_masks=num_masks).log_prob_sum()

    assert density("exact") == density("exact")
    once = density(2)
    with pytest.warns(bd.errors.RandomDensityWarning, match="another|same at each evaluation"):
        assert density(2) != once


# -- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_masks", [3, "exact"])
def test_gradient_is_that_of_finite_differences(num_masks, same_noise):
    bnn, (x, y) = bayesian(temperature=0.5), batch()
    analytic = gradients(bnn.loss(x, y, num_masks=num_masks).loss, bnn)
    step = 1e-6
    for name, parameter in bnn.named_parameters():
        for index in range(parameter.numel()):
            flat = parameter.detach().view(-1)
            before, values = float(flat[index]), []
            for sign in (1, -1):
                flat[index] = before + sign * step
                values.append(float(bnn.loss(x, y, num_masks=num_masks).loss.detach()))
            flat[index] = before
            numeric = (values[0] - values[1]) / (2 * step)
            assert float(analytic[name].flatten()[index]) == pytest.approx(
                numeric, rel=1e-4, abs=1e-6
            )


# -- what is refused ------------------------------------------------------------------------------


def test_numbers_of_numpy_are_taken_as_those_of_python(tmp_path):
    nlls, (x, y) = [], batch()
    for num_masks in (3, np.int64(3)):
        bnn = bayesian()
        bnn.num_data = len(x)
        torch.manual_seed(0)
        options = {"epochs": 1, "seed": 0, "progress": False, "checkpoint_dir": tmp_path}
        nlls.append(bd.fit(bnn, (x, y), num_masks=num_masks, **options).history[-1]["nll"])
    assert nlls[0] == nlls[1], "the second has resumed the first"
    many = torch.randn(100, x.shape[1]), y.repeat(100)[:100]
    bnn.num_data = 100
    bd.check_elbo(bnn, *many, num_samples=np.int64(100), num_repeats=np.int64(10))
    model = bd.networks.vae(100, input_shape=np.int64(16), latent_size=np.int64(5))
    assert model.loss(torch.ones(2, 16)).loss.isfinite()
    with pytest.raises(ConfigError, match="whole numbers, got input_shape=.1.5"):
        bd.networks.vae(100, input_shape=(1.5, 2))


@pytest.mark.parametrize("num_masks", [0, -2, 1.5, True, "all"])
def test_a_number_of_masks_is_positive_or_exact(num_masks):
    bnn, (x, y) = bayesian(), batch()
    for call in (bnn.loss, bnn.model, bnn.guide):
        with pytest.raises(ConfigError, match="num_masks >= 1 or 'exact'"):
            call(x, y, num_masks=num_masks)


@pytest.mark.parametrize(
    "net",
    [
        nn.Linear(4, 3),
        nn.Sequential(bd.BetaBernoulliDropout(11)),
        nn.Sequential(bd.MonteCarloDropout(4)),
        nn.Sequential(bd.BetaBernoulliDropout(4), bd.BetaBernoulliDropout(4)),
    ],
    ids=["none", "wide", "not learned", "two"],
)
def test_masks_that_are_not_few_are_not_summed(net):
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=40)
    with pytest.raises(ConfigError, match="one dropout layer, of at most 10 units"):
        bnn.loss(torch.zeros(2, 4), torch.zeros(2).long(), num_masks="exact")


def test_a_layer_that_runs_twice_is_not_summed():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.masks = bd.BetaBernoulliDropout(3)

        def forward(self, x):
            return self.masks(self.masks(x))

    bnn = bd.BayesianNetwork(Twice(), bd.Categorical(), num_data=40)
    with pytest.raises(ConfigError, match="to run once in a pass"):
        bnn.loss(torch.zeros(2, 3), torch.zeros(2).long(), num_masks="exact")


def test_global_weights_are_not_averaged_inside_the_logarithm(same_noise):
    x, y = batch()
    local = bd.BayesianNetwork(SparseVariational(nn.Linear(4, 3)), bd.Categorical(), num_data=40)
    with pytest.raises(ConfigError, match="drawn once for all examples.*noise='local'"):
        local.loss(x, y, num_masks=2)
    weights = SparseVariational(nn.Linear(4, 3), noise="weights")
    bnn = bd.BayesianNetwork(nn.Sequential(weights), bd.Categorical(), num_data=40)
    torch.testing.assert_close(bnn.loss(x, y, num_masks=2).loss, bnn.loss(x, y).loss)


def test_an_autoencoder_refuses():
    vae = bd.networks.vae(10)
    for call in (vae.loss, vae.model, vae.guide):
        with pytest.raises(ConfigError, match="an example has latents of its own"):
            call(torch.zeros(2, 784), num_masks=2)


# -- the posterior --------------------------------------------------------------------------------


def unit_data():
    torch.manual_seed(1)
    z = (torch.rand(200, 1, dtype=torch.float32) < 0.5).double()
    y = 2 * z + torch.randn(200, 1, dtype=torch.float32)
    return torch.ones(200, 1), y


def exact_moments(y):
    log_q = (NODES * normal(y, 2.0) + (1 - NODES) * normal(y, 0.0)).log().sum(0)
    weight = (log_q - log_q.max()).exp()
    weight = weight / weight.sum()
    mean = float((weight * NODES).sum())
    return mean, float((weight * (NODES - mean) ** 2).sum()) ** 0.5


@pytest.mark.parametrize("num_masks", [1, 16, "exact"])
def test_fit_recovers_the_posterior_of_one_unit_with_more_than_one_mask(num_masks):
    """With one mask the optimum is a vertex, whatever the data say."""
    x, y = unit_data()
    bnn = one_unit(relaxation="concrete")
    bnn.num_data = len(x)
    bd.fit(
        bnn,
        (x, y),
        epochs=300,
        batch_size=len(x),
        variational_learning_rate=0.5,
        num_masks=num_masks,
        seed=0,
        progress=False,
    )
    q = bnn.network[0].posterior()["pi"]
    mean, deviation = exact_moments(y)
    found = float(q.mean.detach())
    assert (mean, deviation) == pytest.approx((0.440, 0.048), abs=1e-3)
    if num_masks == 1:
        assert abs(found - mean) > 3 * deviation
    else:
        assert abs(found - mean) < deviation
