"""The contracts of the architecture, for every registered dropout.

A new prior gets all of this by registration. Its noise must come from ``bayesdrop.ops.noise``.
"""

import copy
import io
import math

import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.util import site_is_subsample
from torch import nn
from torch.nn.functional import cross_entropy

import bayesdrop as bd
from bayesdrop.nn import make, named_dropout_layers, named_shared
from bayesdrop.testing import assert_mean_close, assert_means_equal

NUM_DATA, BATCH = 40, 10
ELBOS = [Trace_ELBO, TraceMeanField_ELBO]
POINT_ESTIMATES = {"slope"}  # parameters of layers that no KL divergence depends on

pytestmark = pytest.mark.parametrize("key", list(bd.nn.registered(bd.BayesianDropout)))


class Counted(nn.Sequential):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


def dense(key, **options):
    return Counted(
        make(key, 6, **options),
        nn.Linear(6, 5),
        nn.Tanh(),
        make(key, 5, **options),
        nn.Linear(5, 3),
    )


def bayesian(key, **options):
    return bd.BayesianNetwork(dense(key), bd.Categorical(), num_data=NUM_DATA, **options)


def batch(rows=BATCH):
    return torch.randn(rows, 6), torch.randint(3, (rows,))


def sites(program, *args):
    nodes = poutine.trace(program).get_trace(*args).nodes
    return {name: node for name, node in nodes.items() if node["type"] == "sample"}


def global_sites(program, *args):
    """The latent sample sites outside any plate; a plate's choice of rows is not one."""
    return {
        name: node
        for name, node in sites(program, *args).items()
        if not (node["is_observed"] or node["cond_indep_stack"] or site_is_subsample(node))
    }


def gradients(loss, bnn):
    names, parameters = zip(*bnn.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


# -- 1. stock Pyro --------------------------------------------------------------------------------


@pytest.mark.parametrize("elbo", ELBOS)
@pytest.mark.parametrize("options", [{}, {"num_particles": 3}, {"num_particles": 3, "v": True}])
def test_svi_trains_every_parameter(key, elbo, options):
    bnn, data = bayesian(key), batch()
    before = {name: p.detach().clone() for name, p in bnn.named_parameters()}
    options = {"vectorize_particles" if k == "v" else k: v for k, v in options.items()}
    svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 0.01}), elbo(**options))
    losses = [svi.step(*data) for _ in range(3)]
    assert all(map(math.isfinite, losses))
    unchanged = [name for name, p in bnn.named_parameters() if torch.equal(p, before[name])]
    assert unchanged == []


def test_both_elbos_agree_in_expectation(key):
    bnn, data = bayesian(key), batch()

    def loss(elbo, seed):
        torch.manual_seed(seed)
        return elbo().loss(bnn.model, bnn.guide, *data)

    differences = [loss(Trace_ELBO, s) - loss(TraceMeanField_ELBO, s) for s in range(200)]
    assert_mean_close(torch.tensor(differences), 0.0)


def test_vectorised_particles_have_the_same_expectation(key):
    bnn, data = bayesian(key), batch()

    def losses(count, **options):
        elbo = TraceMeanField_ELBO(**options)
        return torch.tensor([elbo.loss(bnn.model, bnn.guide, *data) for _ in range(count)])

    vectorised = losses(60, num_particles=10, vectorize_particles=True)
    assert_means_equal(losses(200), vectorised)


def test_elbo_module_trains_with_torch_and_leaves_the_store_empty(key):
    bnn, data = bayesian(key), batch()
    with pyro.settings.context(module_local_params=True):
        loss_module = TraceMeanField_ELBO()(bnn.model, bnn.guide)
        assert set(loss_module.parameters()) == set(bnn.parameters())
        optimiser = torch.optim.Adam(loss_module.parameters())
        before = [p.detach().clone() for p in bnn.parameters()]
        for _ in range(2):
            optimiser.zero_grad()
            loss_module(*data).backward()
            optimiser.step()
    assert not any(map(torch.equal, bnn.parameters(), before))
    assert len(list(pyro.get_param_store().keys())) == 0


def test_predictive_sequential_and_parallel_agree(key):
    bnn, (x, _) = bayesian(key), batch(4)
    draws = [
        Predictive(bnn.model, guide=bnn.guide, num_samples=400, parallel=parallel)(x)
        for parallel in (False, True)
    ]
    frequencies = []
    for samples in draws:
        assert samples["obs"].shape == (400, 4)
        masks = {f"{path}.z" for path, _ in bnn.named_dropout_layers()}
        assert samples.keys() == {"obs", *masks, *global_sites(bnn.guide, x)}
        frequencies.append(nn.functional.one_hot(samples["obs"], 3).double())
        for name, node in global_sites(bnn.guide, x).items():
            value = samples[name].reshape(400, *node["value"].shape)
            assert_mean_close(value, node["fn"].mean)
    assert_means_equal(*frequencies)


def test_condition_imposes_a_latent(key):
    bnn, data = bayesian(key), batch()
    for name, node in global_sites(bnn.guide, *data).items():
        conditioned = sites(poutine.condition(bnn.model, {name: node["value"].detach()}), *data)
        assert conditioned[name]["is_observed"]
        torch.testing.assert_close(conditioned[name]["value"], node["value"])


@pytest.mark.parametrize("shape", [(1,), (BATCH, 1)], ids=["shared", "per example"])
def test_condition_imposes_a_mask(key, shape):
    bnn, (x, y) = bayesian(key), batch()
    masks = {
        path: torch.bernoulli(torch.full((*shape[:-1], layer.num_units), 0.5))
        for path, layer in bnn.named_dropout_layers()
    }
    model = poutine.condition(bnn.model, {f"{path}.z": mask for path, mask in masks.items()})
    with bd.impose_masks(bnn.network, masks):
        expected = bnn(x)
    torch.testing.assert_close(model(x, y), expected)
    torch.testing.assert_close(model(x), expected)


def test_replay_and_block(key):
    bnn, data = bayesian(key), batch()
    guide_trace = poutine.trace(bnn.guide).get_trace(*data)
    names = list(global_sites(bnn.guide, *data))
    replayed = sites(poutine.replay(bnn.model, trace=guide_trace), *data)
    for name in names:
        assert replayed[name]["value"] is guide_trace.nodes[name]["value"]
    assert not set(names) & set(sites(poutine.block(bnn.model, hide=names), *data))


@pytest.mark.parametrize("elbo", ELBOS)
def test_the_network_runs_once_per_step(key, elbo):
    bnn, data = bayesian(key), batch()
    SVI(bnn.model, bnn.guide, pyro.optim.Adam({}), elbo()).step(*data)
    assert bnn.network.calls == 1


def test_maps_work_in_model_and_predictive(key):
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.Tanh(),
        make(key, 4, unit_dim=-3),
        nn.Flatten(),
        make(key, 16),
        nn.Linear(16, 3),
    )
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=NUM_DATA)
    x, y = torch.randn(5, 1, 4, 4), torch.randint(3, (5,))
    for options in ({}, {"num_particles": 2, "vectorize_particles": True}):
        elbo = TraceMeanField_ELBO(**options)
        assert math.isfinite(elbo.loss_and_grads(bnn.model, bnn.guide, x, y))
    predictive = Predictive(bnn.model, guide=bnn.guide, num_samples=7, parallel=True)
    assert predictive(x)["obs"].shape == (7, 5)


def test_float32_stays_float32(key):
    torch.set_default_dtype(torch.float32)
    bnn, data = bayesian(key), batch()
    for mode in (True, False):
        bnn.train(mode)
        assert bnn(data[0]).dtype == torch.float32
    svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({}), TraceMeanField_ELBO())
    assert math.isfinite(svi.step(*data))
    assert {p.dtype for p in bnn.parameters()} == {torch.float32}


# -- 2. global latents ----------------------------------------------------------------------------


def test_model_and_guide_have_the_same_global_sites(key):
    bnn, data = bayesian(key), batch()
    guide, model = global_sites(bnn.guide, *data), global_sites(bnn.model, *data)
    assert guide.keys() == model.keys()
    assert guide.keys() == {
        f"{path}.{name}" for path, owner in bnn.named_owners() for name in owner.prior()
    }
    for name in guide:
        assert guide[name]["fn"].event_shape == model[name]["fn"].event_shape
        assert guide[name]["fn"].batch_shape == model[name]["fn"].batch_shape == ()


@pytest.mark.parametrize(("kl_scale", "kl_weight"), [(1.0, 1.0), (16.0, 0.25)])
def test_global_sites_are_outside_the_plate_with_the_layers_scale(
    key, kl_scale, kl_weight, same_noise
):
    network = dense(key, kl_scale=kl_scale)
    bnn = bd.BayesianNetwork(network, bd.Categorical(), NUM_DATA, kl_weight=kl_weight)
    data = batch()
    for program in (bnn.model, bnn.guide):
        nodes = global_sites(program, *data)
        for path, owner in bnn.named_owners():
            scale = kl_scale if isinstance(owner, bd.BayesianDropout) else 1.0
            for name in owner.prior():
                assert nodes[f"{path}.{name}"]["scale"] == scale * kl_weight
    torch.testing.assert_close(bnn.loss(*data).kl, kl_weight * bd.kl_divergence(network))


def test_observations_are_scaled_to_the_whole_data_set(key):
    bnn, data = bayesian(key), batch()
    assert sites(bnn.model, *data)["obs"]["scale"] == NUM_DATA / BATCH


def test_kl_is_registered_plain_and_under_to_event(key):
    layer = make(key, 4)
    prior, posterior = layer.prior(), layer.posterior()
    assert prior.keys() == posterior.keys()
    for name, q in posterior.items():
        kl = torch.distributions.kl_divergence(q, prior[name])
        assert kl.shape == ()
        if isinstance(q, torch.distributions.Independent):
            plain = torch.distributions.kl_divergence(q.base_dist, prior[name].base_dist)
            torch.testing.assert_close(plain.sum(), kl)


def test_kl_equals_monte_carlo(key):
    layer = make(key, 4)
    prior = layer.prior()
    log_ratio = 0.0
    for name, q in layer.posterior().items():
        value = q.rsample((20_000,))
        log_ratio = log_ratio + q.log_prob(value) - prior[name].log_prob(value)
    if not layer.posterior():
        pytest.skip("no global latents")
    penalty = layer.penalty()
    kl = layer.kl_divergence(prior=prior)
    assert_mean_close(log_ratio, kl if penalty is None else kl - penalty)


def test_kl_of_a_network_counts_each_layer_once(key, same_noise):
    layer = make(key, 4)
    if list(named_shared(nn.Sequential(layer))):
        pytest.skip("what the layers share has a divergence of its own")
    net = nn.Sequential(layer, nn.Linear(4, 3))
    torch.testing.assert_close(bd.kl_divergence(net), layer.kl_divergence())


# -- 3. masks -------------------------------------------------------------------------------------


def test_masks_add_nothing_to_the_loss(key):
    bnn, data = bayesian(key), batch()
    trace = poutine.trace(bnn.model).get_trace(*data)
    trace.compute_log_prob()
    for path, layer in bnn.named_dropout_layers():
        node = trace.nodes[f"{path}.z"]
        assert node["value"].shape == (BATCH, layer.num_units)
        assert float(node["log_prob_sum"]) == 0
        assert in_range(layer, node["value"])


RANGES = {"gate": (0.0, 1.0), "scaled": (0.0, math.inf), "noise": (-math.inf, math.inf)}


def in_range(layer, mask):
    low, high = RANGES[layer.mask_kind]
    return bool((mask.isfinite() & (mask >= low) & (mask <= high)).all())


@pytest.mark.parametrize("training", [True, False])
def test_masks_lie_in_their_range(key, training):
    layer = make(key, 50).train(training)
    assert in_range(layer, layer(torch.ones(20, 50)))


def test_keep_prob_is_the_probability_of_an_exact_mask(key):
    layer = make(key, 4).eval()
    x = torch.randn(1, 4)
    masks = torch.stack([layer.draw_mask(layer.draw_latents(), x)[0] for _ in range(2000)])
    keep = layer.keep_prob().detach()
    if layer.input_dependent:
        pytest.skip("the keep probability of an input-dependent mask is an average over inputs")
    if layer.mask_kind == "noise":
        first, second = masks.chunk(2)
        squares = (first.square() + second.square()) / 2
        assert_mean_close(first * second - keep * squares, 0.0)  # E[z]^2 / E[z^2]
        return
    assert_mean_close((masks != 0).double(), keep)


# -- 4. plain torch -------------------------------------------------------------------------------


def test_plain_loop_and_svi_step_agree_under_the_same_noise(key, same_noise):
    bnn, (x, y) = bayesian(key), batch()
    stock = TraceMeanField_ELBO().differentiable_loss(bnn.model, bnn.guide, x, y)
    ours = bnn.loss(x, y).loss
    plain = cross_entropy(bnn.network(x), y) + bd.kl_divergence(bnn.network) / NUM_DATA
    expected = gradients(stock, bnn)
    for loss in (ours, NUM_DATA * plain):
        torch.testing.assert_close(loss, stock)
        torch.testing.assert_close(gradients(loss, bnn), expected)


def test_every_parameter_gets_a_finite_gradient(key):
    bnn, data = bayesian(key), batch()
    for name, gradient in gradients(bnn.loss(*data).loss, bnn).items():
        assert bool(gradient.isfinite().all()), name
        assert bool((gradient != 0).any()), name
    for name, gradient in gradients(bd.kl_divergence(bnn) + 0.0 * bnn(data[0]).sum(), bnn).items():
        if any(name.startswith(f"network.{path}.") for path, _ in bnn.named_dropout_layers()):
            if name.rpartition(".")[2] not in POINT_ESTIMATES:
                assert bool((gradient != 0).all()), name


def test_evaluation_mode_multiplies_by_the_mean_mask(key):
    net, (x, _) = dense(key).eval(), batch()
    layer = net[0]
    torch.testing.assert_close(layer(x), x * layer.mean_mask(x))
    assert torch.equal(net(x), net(x))


def test_loss_does_not_depend_on_the_batch_size_in_expectation(key):
    bnn, (x, y) = bayesian(key), batch(NUM_DATA)

    @torch.no_grad()
    def losses(size):
        rows = (torch.randperm(NUM_DATA)[:size] for _ in range(600))
        return torch.stack([bnn.loss(x[i], y[i]).loss for i in rows])

    assert_means_equal(losses(NUM_DATA), losses(3))


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
        for network in (bnn.train(mode), other.train(mode)):
            torch.manual_seed(5)
            outputs.append(network(x))
        assert torch.equal(*outputs)


def step(bnn, data):
    SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 0.1}), TraceMeanField_ELBO()).step(*data)


def test_a_copy_trains_apart_from_its_original(key):
    bnn, data = bayesian(key), batch()
    step(bnn, data)
    twin = copy.deepcopy(bnn)
    assert twin.store_name != bnn.store_name
    assert twin.model.bnn is twin
    before = copy.deepcopy(bnn.state_dict())
    started = copy.deepcopy(twin.state_dict())
    step(twin, data)
    torch.testing.assert_close(bnn.state_dict(), before, rtol=0, atol=0)
    assert not any(torch.equal(p, started[name]) for name, p in twin.named_parameters())


def test_two_models_do_not_meet_in_the_store(key):
    data = batch()
    first, second = bayesian(key), bayesian(key)
    step(first, data)
    before = copy.deepcopy(first.state_dict())
    step(second, data)
    torch.testing.assert_close(first.state_dict(), before, rtol=0, atol=0)
    store = pyro.get_param_store()
    assert len(list(store.keys())) == 2 * len(list(first.parameters()))
    assert {id(store[k]) for k in store.keys()} == {
        id(p) for bnn in (first, second) for p in bnn.parameters()
    }


# -- 5. compact networks --------------------------------------------------------------------------


def test_compact_network_equals_the_masked_network(key):
    if not hasattr(bd, "compact"):
        pytest.skip("this build has no compact")
    if bd.nn.registered(bd.BayesianDropout)[key].input_dependent:
        pytest.skip("an input-dependent mask cannot be folded into weights")
    net = dense(key)
    for _, layer in named_dropout_layers(net):
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
        layer.threshold = layer.keep_prob().median().item()
        # A rate that all units share prunes all or none.
        fewest_kept = layer.num_units if layer.keep_prob().unique().numel() == 1 else 1
        assert fewest_kept <= layer.kept().sum() < layer.num_units + (fewest_kept > 1)
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=NUM_DATA).eval()
    x, _ = batch()
    small = bd.compact(bnn, example_input=x)
    widths = [m.in_features for m in small.modules() if isinstance(m, nn.Linear)]
    assert widths == bnn.units()
    torch.testing.assert_close(small(x), bnn(x), rtol=1e-6, atol=1e-6)
    assert not list(named_dropout_layers(small))


# -- 6 and 8. nothing is mutated ------------------------------------------------------------------


def test_a_program_changes_no_global_state(key):
    bnn, data = bayesian(key), batch()
    settings, dtype = pyro.settings.get(), torch.get_default_dtype()
    bnn.model(*data)
    bnn.guide(*data)
    bnn.loss(*data)
    assert pyro.settings.get() == settings
    assert torch.get_default_dtype() == dtype
    assert bnn.training
