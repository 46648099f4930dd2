"""The contracts of the architecture, for every registered layer of random weights.

A new family gets all of this by registration. Its noise must come from ``bayesdrop.ops.noise``.
"""

import copy
import io
import math
from typing import get_args

import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.nn.functional import cross_entropy

import bayesdrop as bd
from bayesdrop.nn import BayesianWeights, Noise, make, registered
from bayesdrop.testing import assert_mean_close, assert_means_equal
from bayesdrop.typing import SharedBy
from tests.test_contract import global_sites, gradients, sites

NUM_DATA, BATCH = 40, 10

pytestmark = pytest.mark.parametrize("key", list(registered(BayesianWeights)))


def randomised(key, layer, **options):
    """A layer whose means and noise, where it is learned, are of the same order."""
    new = make(key, layer, **options)
    for parameter in new.variational_parameters():
        parameter.data.normal_(-3.0)
    return new


def network(key, **options):
    """A convolution and a Linear, both random."""
    return nn.Sequential(
        randomised(key, nn.Conv2d(1, 3, 2), **options), nn.Tanh(), nn.Flatten(),
        randomised(key, nn.Linear(12, 3), **options),
    )  # fmt: skip


def bayesian(key, **options):
    return bd.BayesianNetwork(network(key, **options), bd.Categorical(), NUM_DATA)


def batch(rows=BATCH):
    return torch.randn(rows, 1, 3, 3), torch.randint(3, (rows,))


# -- stock Pyro -----------------------------------------------------------------------------------


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("vectorised", [False, True])
def test_svi_trains_every_parameter(key, elbo, vectorised):
    bnn, data = bayesian(key), batch()
    before = {name: p.detach().clone() for name, p in bnn.named_parameters()}
    particles = {"num_particles": 3, "vectorize_particles": vectorised}
    svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 0.01}), elbo(**particles))
    assert all(math.isfinite(svi.step(*data)) for _ in range(3))
    assert [n for n, p in bnn.named_parameters() if torch.equal(p, before[n])] == []


def test_both_elbos_agree_in_expectation(key):
    bnn, data = bayesian(key), batch()

    def loss(elbo, seed):
        torch.manual_seed(seed)
        return elbo().loss(bnn.model, bnn.guide, *data)

    differences = [loss(Trace_ELBO, s) - loss(TraceMeanField_ELBO, s) for s in range(200)]
    if bool(bd.kl_divergence(bnn.network) == 0):  # then they agree in every draw
        torch.testing.assert_close(differences, [0.0] * 200)
    else:
        assert_mean_close(torch.tensor(differences), 0.0)


@torch.no_grad()
def test_the_plain_loss_has_the_expectation_of_the_svi_loss(key):
    # A single layer: local noise has the weights' law for each output by itself only.
    net = nn.Sequential(randomised(key, nn.Linear(4, 2)))
    bnn = bd.BayesianNetwork(net, bd.Bernoulli(), NUM_DATA)
    data = torch.randn(6, 4), torch.rand(6, 2).round()
    elbo = TraceMeanField_ELBO(num_particles=50, vectorize_particles=True)
    stock = [elbo.loss(bnn.model, bnn.guide, *data) for _ in range(40)]
    ours = torch.stack([bnn.loss(*data).loss for _ in range(500)])
    assert_means_equal(ours, torch.tensor(stock))


def test_vectorised_particles_have_the_same_expectation(key):
    bnn, data = bayesian(key), batch()

    def losses(count, **options):
        elbo = TraceMeanField_ELBO(**options)
        return torch.tensor([elbo.loss(bnn.model, bnn.guide, *data) for _ in range(count)])

    vectorised = losses(60, num_particles=10, vectorize_particles=True)
    assert_means_equal(losses(300), vectorised)


def test_predictive_sequential_and_parallel_agree(key):
    bnn, (x, _) = bayesian(key), batch(4)
    nodes = global_sites(bnn.guide, x)
    frequencies = []
    for parallel in (False, True):
        samples = Predictive(bnn.model, guide=bnn.guide, num_samples=400, parallel=parallel)(x)
        assert samples.keys() == {"obs", *nodes}
        assert samples["obs"].shape == (400, 4)
        frequencies.append(nn.functional.one_hot(samples["obs"], 3).double())
        for name, node in nodes.items():
            assert_mean_close(samples[name].reshape(400, *node["value"].shape), node["fn"].mean)
    assert_means_equal(*frequencies)


@torch.no_grad()
def test_predictive_and_predict_agree(key):
    bnn, (x, _) = bayesian(key), batch(4)
    stock = Predictive(bnn.model, guide=bnn.guide, num_samples=2000, parallel=True)(x)["obs"]
    ours = bd.predict(bnn, x, num_samples=2000)
    assert ours.num_samples == 2000
    assert bool((ours.mutual_information > 0).all())
    assert_means_equal(nn.functional.one_hot(stock, 3).double(), ours.samples)


def test_condition_imposes_weights(key):
    bnn, (x, y) = bayesian(key), batch()
    values = {n: s["value"].detach() for n, s in global_sites(bnn.guide, x).items()}
    plain = bd.without_dropout(bnn)
    for name, value in values.items():
        plain.get_submodule(name.rpartition(".")[0]).weight.data = value
    model = poutine.condition(bnn.model, values)
    for args in ((x, y), (x,)):
        torch.testing.assert_close(model(*args), plain(x))


def test_model_and_guide_have_the_same_sites_outside_the_plate(key):
    bnn, data = bayesian(key, kl_scale=3.0), batch()
    bnn.kl_weight = 0.5
    guide_trace = poutine.trace(bnn.guide).get_trace(*data)
    guide = global_sites(bnn.guide, *data)
    model = global_sites(poutine.replay(bnn.model, trace=guide_trace), *data)
    assert guide.keys() == model.keys()
    assert guide.keys() == {f"{path}.weight" for path, _ in bnn.named_weight_layers()}
    for name in guide:
        assert guide[name]["fn"].event_shape == model[name]["fn"].event_shape
        assert guide[name]["fn"].batch_shape == model[name]["fn"].batch_shape == ()
        assert guide[name]["scale"] == model[name]["scale"] == 1.5
    torch.testing.assert_close(bnn.loss(*data).kl, 0.5 * bd.kl_divergence(bnn.network))
    obs = sites(poutine.replay(bnn.model, trace=guide_trace), *data)["obs"]
    assert obs["scale"] == NUM_DATA / BATCH


# -- KL divergence --------------------------------------------------------------------------------


def test_kl_is_registered_plain_and_under_to_event(key):
    layer = network(key)[3]
    q, p = layer.posterior()["weight"], layer.prior()["weight"]
    kl = torch.distributions.kl_divergence(q, p)
    plain = torch.distributions.kl_divergence(q.base_dist, p.base_dist)
    torch.testing.assert_close(plain.sum(), kl)
    torch.testing.assert_close(layer.kl_divergence(), kl)


def test_kl_equals_monte_carlo(key):
    layer = network(key)[3]
    q, p = layer.posterior()["weight"], layer.prior()["weight"]
    value = q.rsample((20_000,))
    ratio = q.log_prob(value) - p.log_prob(value)
    if bool((ratio == 0).all()):
        assert bool(torch.distributions.kl_divergence(q, p) == 0)
    else:
        assert_mean_close(ratio, torch.distributions.kl_divergence(q, p))


def test_the_laws_of_the_elbo_hold(key):
    table = bd.check_elbo(bayesian(key), *batch(), num_samples=3000, num_repeats=30)
    assert table.passed, table


# -- plain torch ----------------------------------------------------------------------------------


def test_plain_loop_and_svi_step_agree_under_the_same_noise(key, same_noise):
    bnn, (x, y) = bayesian(key, noise="weights"), batch()
    stock = TraceMeanField_ELBO().differentiable_loss(bnn.model, bnn.guide, x, y)
    ours = bnn.loss(x, y).loss
    plain = cross_entropy(bnn.network(x), y) + bd.kl_divergence(bnn.network) / NUM_DATA
    expected = gradients(stock, bnn)
    for loss in (ours, NUM_DATA * plain):
        torch.testing.assert_close(loss, stock)
        torch.testing.assert_close(gradients(loss, bnn), expected)


@pytest.mark.parametrize("noise", get_args(Noise))
@pytest.mark.parametrize("by", get_args(SharedBy))
def test_every_parameter_gets_a_finite_gradient(key, noise, by):
    bnn, (x, y) = bayesian(key, noise=noise, shared_by=by), batch()
    x[0] = 0.0  # no variance at all
    for name, gradient in gradients(bnn.loss(x, y).loss, bnn).items():
        assert bool(gradient.isfinite().all()), name
        assert bool((gradient != 0).any()), name


def test_evaluation_mode_has_the_mean_weights(key):
    bnn, (x, _) = bayesian(key), batch()
    bnn.eval()
    layer = bnn.network[3]
    assert torch.equal(layer.mean_weight(), torch.where(layer.kept(), layer.weight, 0.0))
    features = torch.randn(4, 12)
    expected = nn.functional.linear(features, layer.mean_weight(), layer.bias)
    torch.testing.assert_close(layer(features), expected)
    assert torch.equal(bnn(x), bnn(x))


@torch.no_grad()
def test_compact_is_the_mean_weight_network(key):
    bnn, (x, _) = bayesian(key), batch()
    small = bd.compact(bnn, x)
    torch.testing.assert_close(small(x), bnn.eval()(x), rtol=0, atol=1e-6)
    assert type(small.get_submodule("3")) is nn.Linear
    assert not any(type(module).__module__.startswith("bayesdrop") for module in small.modules())


def test_state_dict_is_exact(key):
    bnn, (x, y) = bayesian(key), batch()
    SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 0.1}), TraceMeanField_ELBO()).step(x, y)
    file = io.BytesIO()
    torch.save(bnn.state_dict(), file)
    file.seek(0)
    other = bayesian(key)
    other.load_state_dict(torch.load(file, weights_only=True))
    for mode in (True, False):
        outputs = []
        for net in (bnn.train(mode), other.train(mode)):
            torch.manual_seed(5)
            outputs.append(net(x))
        assert torch.equal(*outputs)


def test_a_copy_trains_apart_from_its_original(key):
    bnn, data = bayesian(key), batch()
    twin = copy.deepcopy(bnn)
    before = {name: p.detach().clone() for name, p in bnn.named_parameters()}
    SVI(twin.model, twin.guide, pyro.optim.Adam({"lr": 0.1}), TraceMeanField_ELBO()).step(*data)
    assert all(torch.equal(p, before[n]) for n, p in bnn.named_parameters())
    assert not any(torch.equal(p, before[n]) for n, p in twin.named_parameters())


def test_float32_stays_float32(key):
    torch.set_default_dtype(torch.float32)
    bnn, data = bayesian(key), batch()
    for mode in (True, False):
        assert bnn.train(mode)(data[0]).dtype == torch.float32
    svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({}), TraceMeanField_ELBO())
    assert math.isfinite(svi.step(*data))
    assert {p.dtype for p in bnn.parameters()} == {torch.float32}
    assert bd.compact(bnn, data[0])(data[0]).dtype == torch.float32


def test_convert_keeps_the_weights_and_copies(key):
    net = bd.networks.lenet_300_100(dropout=0.5)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    converted = bd.convert(net, key)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    assert all(torch.equal(converted.state_dict()[name], value) for name, value in before.items())
    assert not any(isinstance(module, nn.Dropout) for module in converted.modules())
    plain = bd.without_dropout(converted)
    assert type(plain.fc1) is nn.Linear
    assert plain.state_dict().keys() == before.keys()
    x = torch.rand(2, 784)
    torch.testing.assert_close(plain.eval()(x), net.eval()(x))
