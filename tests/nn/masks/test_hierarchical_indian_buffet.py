import copy
import math

import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.distributions import kl_divergence
from torch.nn.functional import cross_entropy

import bayesdrop as bd
from bayesdrop import BetaBernoulliDropout, HierarchicalIndianBuffetDropout
from bayesdrop.errors import ConfigError, TruncationWarning
from bayesdrop.nn import IndianBuffetSticks
from bayesdrop.testing import assert_mean_close, assert_means_equal

NUM_DATA = 40


def shared(**options):
    """Three layers of six, five and four units around the same nine sticks."""
    sticks = IndianBuffetSticks(9, concentration=2.0, **options)

    def layer(num_units):
        return HierarchicalIndianBuffetDropout(num_units, sticks=sticks)

    net = nn.Sequential(
        layer(6), nn.Linear(6, 5), nn.Tanh(), layer(5), nn.Linear(5, 4), layer(4), nn.Linear(4, 3)
    )
    return bd.BayesianNetwork(net, bd.Categorical(), num_data=NUM_DATA)


def batch():
    return torch.randn(10, 6), torch.randint(3, (10,))


def sites(program, *args):
    nodes = poutine.trace(program).get_trace(*args).nodes
    return {name: node for name, node in nodes.items() if node["type"] == "sample"}


GLOBAL = ["0.sticks.v", "0.pi", "3.pi", "5.pi"]


# -- one vector of sticks -------------------------------------------------------------------------


def test_the_shared_sticks_are_one_site_in_model_and_guide():
    bnn, (x, y) = shared(), batch()
    for program in (bnn.model, bnn.guide):
        names = [name for name in sites(program, x, y) if name.endswith((".v", ".pi"))]
        assert names == GLOBAL
    assert [path for path, _ in bnn.named_owners()] == ["0.sticks", "0", "3", "5"]


def test_one_draw_of_the_sticks_serves_all_layers_of_a_divergence(monkeypatch):
    bnn, given = shared(), []
    inner = HierarchicalIndianBuffetDropout.prior_given

    def prior_given(layer, latents):
        given.append(latents["v"])
        return inner(layer, latents)

    monkeypatch.setattr(HierarchicalIndianBuffetDropout, "prior_given", prior_given)
    for _ in range(2):
        given.clear()
        bd.kl_divergence(bnn.network)
        assert len(given) == 3 and all(v is given[0] for v in given)


def test_layers_that_are_drawn_together_have_the_sticks_they_are_given():
    bnn = shared()
    layers = [layer for _, layer in bnn.named_dropout_layers()]
    given = {"v": layers[0].sticks.prior()["v"].sample()}
    joint = HierarchicalIndianBuffetDropout.draw_jointly(
        layers, drawn={layers[0].sticks: given}, rows=10
    )
    expected = sum(
        kl_divergence(layer.posterior()["pi"], layer.prior_given(given)["pi"]) for layer in layers
    )
    torch.testing.assert_close(joint.kl, expected)


def test_the_sticks_have_one_set_of_parameters():
    bnn = shared()
    names = [name for name, _ in bnn.named_parameters() if "sticks" in name]
    assert names == [
        "network.0.sticks.location",
        "network.0.sticks.log_shape",
    ]


def test_the_priors_of_the_layers_use_the_same_first_sticks():
    bnn, data = shared(), batch()
    nodes = sites(bnn.model, *data)
    pi0 = nodes["0.sticks.v"]["value"].cumprod(-1)
    for name, width in (("0.pi", 6), ("3.pi", 5), ("5.pi", 4)):
        fn = nodes[name]["fn"].base_dist
        torch.testing.assert_close(fn.mean, pi0[:width])
        torch.testing.assert_close(
            fn.concentration1 + fn.concentration0, torch.full((width,), 4.0)
        )


def test_the_kl_of_the_sticks_counts_once(same_noise):
    bnn = shared()
    sticks = bnn.network[0].sticks
    given = sticks.draw_latents()
    layers = [layer for _, layer in bnn.named_dropout_layers()]
    expected = sticks.kl_divergence() + sum(
        layer.kl_divergence(prior=layer.prior_given(given)) for layer in layers
    )
    torch.testing.assert_close(bd.kl_divergence(bnn), expected)
    torch.testing.assert_close(bnn.loss(*batch()).kl, expected)


def test_the_kl_of_the_sticks_has_its_own_scale(same_noise):
    plain, scaled = shared(), shared(kl_scale=3.0)
    extra = bd.kl_divergence(scaled) - bd.kl_divergence(plain)
    torch.testing.assert_close(extra, 2 * plain.network[0].sticks.kl_divergence())
    nodes = sites(scaled.model, *batch())
    assert [nodes[name]["scale"] for name in GLOBAL] == [3.0, 1.0, 1.0, 1.0]


# -- the contracts, with sharing ------------------------------------------------------------------


def test_plain_loop_and_svi_step_agree_under_the_same_noise(same_noise):
    bnn, (x, y) = shared(), batch()
    parameters = list(bnn.parameters())
    stock = TraceMeanField_ELBO().differentiable_loss(bnn.model, bnn.guide, x, y)
    expected = torch.autograd.grad(stock, parameters)
    plain = cross_entropy(bnn.network(x), y) + bd.kl_divergence(bnn.network) / NUM_DATA
    for loss in (bnn.loss(x, y).loss, NUM_DATA * plain):
        torch.testing.assert_close(loss, stock)
        torch.testing.assert_close(torch.autograd.grad(loss, parameters), expected)


def test_both_elbos_and_the_closed_objective_agree_in_expectation():
    bnn, data = shared(), batch()

    @torch.no_grad()
    def losses(loss):
        return torch.tensor([float(loss()) for _ in range(100)])

    exact = losses(lambda: TraceMeanField_ELBO().loss(bnn.model, bnn.guide, *data))
    assert_means_equal(exact, losses(lambda: Trace_ELBO().loss(bnn.model, bnn.guide, *data)))
    assert_means_equal(exact, losses(lambda: bnn.loss(*data).loss))


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("vectorised", [False, True])
def test_svi_trains_every_parameter(elbo, vectorised):
    bnn, data = shared(), batch()
    before = {name: p.detach().clone() for name, p in bnn.named_parameters()}
    loss = elbo(num_particles=3, vectorize_particles=vectorised)
    svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 0.01}), loss)
    assert all(math.isfinite(svi.step(*data)) for _ in range(3))
    assert [name for name, p in bnn.named_parameters() if torch.equal(p, before[name])] == []


def test_vectorised_particles_have_the_same_expectation():
    bnn, data = shared(), batch()

    def losses(count, **options):
        elbo = TraceMeanField_ELBO(**options)
        return torch.tensor([elbo.loss(bnn.model, bnn.guide, *data) for _ in range(count)])

    assert_means_equal(losses(100), losses(20, num_particles=10, vectorize_particles=True))


@pytest.mark.parametrize("parallel", [False, True])
def test_predictive_draws_all_sites(parallel):
    bnn, (x, _) = shared().eval(), batch()
    predictive = Predictive(bnn.model, guide=bnn.guide, num_samples=200, parallel=parallel)
    samples = predictive(x)
    assert samples["obs"].shape == (200, 10)
    assert samples["0.sticks.v"].reshape(200, -1).shape == (200, 9)
    for name, layer in bnn.named_dropout_layers():
        assert_mean_close(samples[f"{name}.pi"].reshape(200, -1), layer.keep_prob())


def test_copies_and_checkpoints_share_their_sticks(tmp_path):
    bnn, (x, y) = shared(), batch()
    twin = copy.deepcopy(bnn)
    assert len({id(layer.sticks) for _, layer in twin.named_dropout_layers()}) == 1
    assert twin.network[0].sticks is not bnn.network[0].sticks
    SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 0.1}), TraceMeanField_ELBO()).step(x, y)
    assert not torch.equal(bnn.network[0].sticks.keep_prob(), twin.network[0].sticks.keep_prob())
    bd.save(bnn, tmp_path / "model.pt")
    bd.load(twin, tmp_path / "model.pt")
    torch.testing.assert_close(twin.state_dict(), bnn.state_dict(), rtol=0, atol=0)


def test_convert_gives_all_layers_the_sticks_it_is_given():
    sticks = IndianBuffetSticks(784)
    net = bd.convert(bd.networks.lenet_500_300(), "hierarchical-indian-buffet", sticks=sticks)
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=10)
    layers = [layer for _, layer in bnn.named_dropout_layers()]
    assert [layer.num_units for layer in layers] == [784, 500, 300]
    assert all(layer.sticks is sticks for layer in layers)
    assert sticks.path == "fc1_dropout.sticks"


def test_convert_lets_layers_without_given_sticks_share():
    net = bd.convert(
        bd.networks.lenet_500_300().double(), "hierarchical-indian-buffet", concentration=20.0
    )
    layers = [layer for layer in net.children() if isinstance(layer, bd.BayesianDropout)]
    sticks = layers[0].sticks
    assert all(layer.sticks is sticks for layer in layers)
    assert (sticks.num_sticks, float(sticks.concentration)) == (784, 20.0)
    assert sticks.location.dtype == torch.float64
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=10)
    assert [path for path, _ in bnn.named_owners()][0] == "fc1_dropout.sticks"
    assert sum("sticks" in path for path, _ in bnn.named_owners()) == 1


def test_layers_of_one_concentration_share():
    net = bd.convert(
        bd.networks.lenet5_caffe(),
        "hierarchical-indian-buffet",
        overrides={"conv*": {"concentration": 5.0}},
    )
    conv1, conv2, fc1, fc2 = (m for m in net.children() if isinstance(m, bd.BayesianDropout))
    assert conv1.sticks is conv2.sticks
    assert fc1.sticks is fc2.sticks
    assert [conv1.sticks.num_sticks, fc1.sticks.num_sticks] == [50, 800]
    assert [float(layer.sticks.concentration) for layer in (conv1, fc1)] == [5.0, 10.0]


def test_joining_leaves_given_sticks_alone():
    sticks = IndianBuffetSticks(5)
    given = HierarchicalIndianBuffetDropout(3, sticks=sticks)
    own = HierarchicalIndianBuffetDropout(3)
    HierarchicalIndianBuffetDropout.share([given, own])
    assert given.sticks is sticks
    assert own.sticks is not sticks


def test_sticks_have_their_concentration():
    with pytest.raises(ConfigError, match="expected either sticks or their concentration, got bo"):
        HierarchicalIndianBuffetDropout(3, sticks=IndianBuffetSticks(3), concentration=2.0)


def test_layers_made_by_hand_share_none():
    first, second = HierarchicalIndianBuffetDropout(3), HierarchicalIndianBuffetDropout(3)
    assert first.sticks is not second.sticks
    assert first.parent is first.sticks


# -- laws -----------------------------------------------------------------------------------------


def test_a_large_layer_concentration_fixes_pi_at_the_shared_one():
    sticks = IndianBuffetSticks(4, concentration=2.0)
    layer = HierarchicalIndianBuffetDropout(4, sticks=sticks, layer_concentration=1e8)
    v = sticks.draw_latents()
    pi = layer.prior_given(v)["pi"].sample()
    torch.testing.assert_close(pi, v["v"].cumprod(-1), rtol=0, atol=1e-3)


def test_fixed_sticks_make_it_beta_bernoulli_dropout():
    """With pi0 = 1/2 and c = 4 the layer's prior is Beta(2, 2)."""
    options = {"init_concentration1": 2.5, "init_concentration0": 0.7}
    ours = HierarchicalIndianBuffetDropout(1, **options)
    theirs = BetaBernoulliDropout(1, prior_concentration1=2.0, prior_concentration0=2.0, **options)
    torch.testing.assert_close(ours.keep_prob(), theirs.keep_prob())
    torch.testing.assert_close(
        ours.kl_divergence(prior=ours.prior_given({"v": torch.tensor([0.5])})),
        theirs.kl_divergence(),
    )
    for mode in (True, False):
        ours.train(mode), theirs.train(mode)
        torch.manual_seed(1)
        mask = ours.draw_mask(ours.draw_latents(), torch.ones(50, 1))
        torch.manual_seed(1)
        torch.testing.assert_close(
            mask, theirs.draw_mask(theirs.draw_latents(), torch.ones(50, 1))
        )


def test_a_layers_kl_estimates_its_expectation_over_the_sticks():
    layer = shared().network[3]
    v = layer.sticks.posterior()["v"].rsample((2_000,))
    q, p = layer.posterior()["pi"], layer.prior_given({"v": v})["pi"]
    pi = q.rsample((2_000,))
    with torch.no_grad():
        estimates = torch.stack([layer.kl_divergence() for _ in range(400)])
    assert_means_equal(estimates, q.log_prob(pi) - p.log_prob(pi))


def test_rank_units_orders_the_prior_of_the_units():
    layer = HierarchicalIndianBuffetDropout(3)
    layer.rank_units([0.1, 5.0, 2.0])
    v = torch.tensor([0.5, 0.5, 0.5])
    prior = layer.prior_given({"v": v})["pi"].base_dist
    torch.testing.assert_close(prior.mean, torch.tensor([0.125, 0.5, 0.25]))


@pytest.mark.parametrize("init", [0.01, 20.0, 1e6])
def test_784_shared_sticks_are_finite_in_float32(init):
    torch.set_default_dtype(torch.float32)
    sticks = IndianBuffetSticks(784, init_concentration1=init)
    layer = HierarchicalIndianBuffetDropout(784, sticks=sticks)
    loss = layer(torch.ones(20, 784)).sum() + 6e4 * bd.kl_divergence(layer)
    loss.backward()
    assert bool(loss.isfinite())
    for parameter in layer.parameters():
        assert bool(parameter.grad.isfinite().all())


def test_open_last_units_warn():
    with pytest.warns(TruncationWarning, match="IndianBuffetDropout: expected the last of its 3 "):
        HierarchicalIndianBuffetDropout(3).check_posterior()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sticks": 2}, "expected at least 3 sticks, one for each unit, got 2. Make as many"),
        (
            {"layer_concentration": 0.0},
            "expected layer_concentration > 0 and finite, got layer_co",
        ),
        ({"concentration": 0.0}, "expected concentration > 0 and finite, got concentration=0.0"),
        ({"init_concentration1": math.nan}, "expected init_concentration1 > 0"),
        ({"init_concentration0": -1.0}, "expected init_concentration0 > 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_options_raise(options, message):
    if "sticks" in options:
        options = {"sticks": IndianBuffetSticks(options["sticks"])}
    with pytest.raises(ConfigError, match=f"HierarchicalIndianBuffetDropout: {message}"):
        HierarchicalIndianBuffetDropout(3, **options)
