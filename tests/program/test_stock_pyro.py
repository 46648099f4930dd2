"""What stock Pyro and torch do with a program, a law for each row of docs/pyro.md."""

import copy
import math
import warnings

import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.contrib.autoname import scope
from pyro.distributions import Normal
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import (
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoNormal,
)
from pyro.infer.inspect import get_dependencies, get_model_relations, render_model
from pyro.nn import PyroModule, PyroSample
from pyro.nn.module import to_pyro_module_
from torch import nn
from torch.utils.checkpoint import checkpoint

import bayesdrop as bd
from bayesdrop.errors import (
    ConfigError,
    ModeWarning,
    RandomDensityWarning,
    ShapeError,
    UncountedDivergenceWarning,
)
from bayesdrop.nn import make
from bayesdrop.ops import noise
from bayesdrop.testing import assert_mean_close, gradients, sites

MASKS = list(bd.nn.registered(bd.BayesianDropout))
WEIGHTS = list(bd.nn.registered(bd.nn.BayesianWeights))


def network(key="beta-bernoulli", **options):
    layer = make(key, nn.Linear(4, 4) if key in WEIGHTS else 4, **options)
    return nn.Sequential(nn.Linear(4, 4), layer, nn.Linear(4, 3))


def bayesian(key="beta-bernoulli", **options):
    return bd.BayesianNetwork(network(key, **options), bd.Categorical(), num_data=20)


def batch(rows=10):
    return torch.randn(rows, 4), torch.randint(3, (rows,))


def adam(lr=0.01):
    return pyro.optim.Adam({"lr": lr})


# -- tools that look at a program -----------------------------------------------------------------


@pytest.mark.parametrize("key", [*MASKS, *WEIGHTS])
def test_dependencies_of_the_model_are_found_with_trainable_parameters(key):
    bnn, data = bayesian(key), batch()
    drawn = poutine.replay(bnn.model, trace=poutine.trace(bnn.guide).get_trace(*data))
    improper = key in WEIGHTS or key == "normal-jeffreys"
    found = get_dependencies(drawn if improper else bnn.model, data)
    latents = {f"{path}.{name}" for path, owner in bnn.named_owners() for name in owner.prior()}
    assert latents <= set(found["prior_dependencies"])


def test_the_model_is_rendered():
    bnn, data = bayesian(), batch()
    relations = get_model_relations(bnn.model, data)  # what the picture is drawn from
    assert relations["sample_sample"]["obs"] == ["1.z"]
    assert relations["plate_sample"]["data"] == ["1.z", "obs"]
    pytest.importorskip("graphviz")
    source = render_model(bnn.model, model_args=data).source
    assert all(name in source for name in ("1.pi", "1.z", "obs", "data"))


def test_a_lifted_parameter_is_refused():
    bnn, data = bayesian(), batch()
    lifted = poutine.lift(bnn.model, Normal(0.0, 1.0))
    with pytest.raises(ConfigError, match=r"lift or substitute.*PyroSample"):
        lifted(*data)


@pytest.mark.parametrize("key", [*MASKS, *WEIGHTS])
def test_layers_are_pyro_modules(key):
    cls = bd.nn.layers[key]
    layer = PyroModule[cls](nn.Linear(4, 4) if key in WEIGHTS else 4)
    assert isinstance(layer, PyroModule) and isinstance(layer, cls)
    assert layer(torch.ones(2, 4)).shape == (2, 4)

    net = network(key)
    plain = copy.deepcopy(net)
    to_pyro_module_(net)
    assert all(isinstance(module, PyroModule) for module in net.modules())
    losses = []
    for each in (net, plain):
        bnn = bd.BayesianNetwork(each, bd.Categorical(), num_data=20)
        torch.manual_seed(1)
        data = batch()
        svi = SVI(bnn.model, bnn.guide, adam(), TraceMeanField_ELBO())
        losses.append([svi.step(*data) for _ in range(2)])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "cls",
    [bd.nn.LatentOwner, bd.BayesianDropout, bd.nn.BayesianWeights, bd.likelihoods.Likelihood],
)
def test_an_abstract_class_says_what_is_missing(cls):
    with pytest.raises(TypeError, match="abstract method"):
        cls(4)


# -- weights that are sites -----------------------------------------------------------------------


def with_sampled_weights(layer):
    layer.weight = PyroSample(Normal(0.0, 1.0).expand(layer.weight.shape).to_event(2))
    return layer


def test_posterior_of_sampled_weights_is_the_conjugate_one():
    # y = w x + noise of 0.5, w ~ N(0, 1): S = (I + X'X / 0.25)^-1, m = S X'y / 0.25. It is normal,
    # so that Laplace's approximation is exact.
    x = torch.randn(40, 2) @ torch.tensor([[1.0, 0.6], [0.0, 0.8]])
    y = x @ torch.tensor([[0.7], [-1.2]]) + 0.5 * torch.randn(40, 1)
    covariance = torch.linalg.inv(torch.eye(2) + x.T @ x / 0.25)
    net = with_sampled_weights(PyroModule[nn.Linear](2, 1, bias=False))
    bnn = bd.BayesianNetwork(net, bd.Gaussian(0.5), num_data=40)
    guide = AutoLaplaceApproximation(bnn.model)
    for lr in (0.1, 0.01):
        svi = SVI(bnn.model, guide, adam(lr), Trace_ELBO())
        for _ in range(60):
            svi.step(x, y)
    found = guide.laplace_approximation(x, y).get_posterior()
    mean = (covariance @ x.T @ y / 0.25).flatten()
    assert bool(((found.mean - mean).abs() < 0.05 * covariance.diagonal().sqrt()).all())
    torch.testing.assert_close(found.covariance_matrix, covariance, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("auto", [AutoNormal, AutoLowRankMultivariateNormal])
def test_a_guide_over_weights_goes_beside_ours_over_masks(auto):
    net = nn.Sequential(
        bd.BetaBernoulliDropout(4), with_sampled_weights(PyroModule[nn.Linear](4, 3))
    )
    to_pyro_module_(net)
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=20)
    of_weights = auto(poutine.block(bnn.model, expose=["1.weight"]))

    def guide(x, y=None):
        bnn.guide(x, y)
        of_weights(x, y)

    data = batch()
    before = {name: p.detach().clone() for name, p in bnn.named_parameters()}
    svi = SVI(bnn.model, guide, adam(), Trace_ELBO())
    assert all(math.isfinite(svi.step(*data)) for _ in range(3))
    assert not any(torch.equal(p, before[name]) for name, p in bnn.named_parameters())
    drawn = sites(poutine.replay(bnn.model, trace=poutine.trace(guide).get_trace(*data)), *data)
    assert not drawn["1.weight"]["cond_indep_stack"]
    assert drawn["0.z"]["cond_indep_stack"]
    bnn.eval()
    assert Predictive(bnn.model, guide=guide, num_samples=5)(data[0])["obs"].shape == (5, 10)
    with pytest.raises(ConfigError, match=r"1\.weight.*parallel=False"):
        Predictive(bnn.model, guide=guide, num_samples=5, parallel=True)(data[0])


def test_parallel_samples_do_not_lie_along_the_examples():
    # As many samples as examples: each example would meet another sample, in all of them.
    bnn, x = bayesian().eval(), torch.randn(10, 4)
    open_ones = torch.linspace(0, 1, 10).round()[:, None].expand(10, 4)
    with pytest.raises(ShapeError, match=r"'1\.pi'.*got shape \(10, 4\).*unsqueeze\(1\)"):
        Predictive(bnn.model, {"1.pi": open_ones}, parallel=True)(x)
    drawn = Predictive(bnn.model, {"1.pi": open_ones.unsqueeze(1)}, parallel=True)(x)
    assert torch.equal(drawn["1.z"], open_ones.unsqueeze(1).expand(10, 10, 4))
    guide = AutoNormal(poutine.block(bnn.model, expose=["1.pi"]))
    with pytest.raises(ShapeError, match="guide of Pyro's pass parallel=False"):
        Predictive(bnn.model, guide=guide, num_samples=3, parallel=True)(x)


def test_plain_torch_refuses_weights_that_only_pyro_knows():
    bnn = bd.BayesianNetwork(
        with_sampled_weights(PyroModule[nn.Linear](4, 3)), bd.Categorical(), num_data=20
    )
    x, y = batch()
    for run in (lambda: bnn.loss(x, y), lambda: bd.predict(bnn, x)):
        with pytest.raises(ConfigError, match=r"PyroSample.*Predictive"):
            run()


# -- a Pyro model of one's own --------------------------------------------------------------------


def own_model(net, num_data, counted):
    def model(x, y):
        pyro.module("net", net)
        if counted:
            pyro.factor("kl", -bd.kl_divergence(net))
        with pyro.plate("data", num_data, subsample=torch.arange(len(x))):
            pyro.sample("obs", pyro.distributions.Categorical(logits=net(x)), obs=y)

    return model


def test_layers_in_a_model_of_ones_own_say_once_that_their_divergence_is_missing():
    net, data = network(), batch()
    svi = SVI(own_model(net, 20, counted=False), lambda x, y: None, adam(), Trace_ELBO())
    svi.step(*data)
    with pytest.warns(UncountedDivergenceWarning, match=r"BetaBernoulli.*pyro\.factor") as caught:
        svi.step(*data)
    assert len(caught) == 1
    svi.step(*data)


@pytest.mark.parametrize("key", ["beta-bernoulli", "hard-concrete", "sparse-variational"])
def test_with_its_factor_it_has_the_programs_loss_in_expectation(key):
    bnn, data = bayesian(key), batch()
    model = own_model(bnn.network, 20, counted=True)
    with torch.no_grad():
        elbo = Trace_ELBO()
        differences = torch.tensor(
            [elbo.loss(model, lambda x, y: None, *data) - bnn.loss(*data).loss for _ in range(150)]
        )
    assert_mean_close(differences, 0.0)


def test_a_program_called_in_a_model_of_ones_own_brings_its_sites():
    bnn, data = bayesian(), batch()
    nodes = sites(lambda x, y: bnn.model(x, y), *data)
    assert {"1.pi", "1.z", "obs"} <= nodes.keys()
    pair = [scope(lambda x, y, p=p: p.model(x, y), prefix=n) for n, p in (("a", bnn), ("b", bnn))]
    nodes = sites(lambda *batch: [part(*batch) for part in pair], *data)
    assert {"a/1.pi", "b/1.pi", "a/obs", "b/obs"} <= nodes.keys()


# -- densities ------------------------------------------------------------------------------------


def test_nuts_refuses_a_density_that_is_random():
    bnn, data = bayesian(), batch()
    mcmc = MCMC(NUTS(bnn.model), 5, warmup_steps=5, disable_progbar=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RandomDensityWarning)
        with pytest.raises(ConfigError, match=r"num_masks='exact'.*poutine.seed"):
            mcmc.run(*data)
    held = NUTS(poutine.seed(bnn.eval().model, rng_seed=0), max_tree_depth=2)
    MCMC(held, 2, warmup_steps=2, disable_progbar=True).run(*data, num_masks=2)  # as it advises


@pytest.mark.parametrize("layers", [[bd.MonteCarloDropout(4)], [bd.nn.GroupLassoDropout(4)], []])
def test_nuts_refuses_a_network_without_latents(layers):
    network = nn.Sequential(*layers, nn.Linear(4, 3))
    bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=10)
    mcmc = MCMC(NUTS(bnn.eval().model), 2, warmup_steps=1, disable_progbar=True)
    with pytest.raises(ConfigError, match=r"latents.*for MCMC.*bd.predict"):
        mcmc.run(*batch())


@pytest.mark.parametrize("options", [{"num_masks": "exact"}, {"num_masks": 4}])
def test_nuts_runs_with_masks_that_are_summed_out_or_held(options):
    bnn, data = bayesian().eval(), batch()
    held = poutine.seed(bnn.model, rng_seed=0)
    model = bnn.model if options["num_masks"] == "exact" else held
    mcmc = MCMC(NUTS(model, max_tree_depth=2), 10, warmup_steps=10, disable_progbar=True)
    mcmc.run(*data, **options)
    assert float(mcmc.get_samples()["1.pi"].std(0).min()) > 0


# -- modes ----------------------------------------------------------------------------------------


def test_a_step_in_evaluation_mode_warns_before_it_closes_all_units():
    bnn, data = bayesian().eval(), batch()
    svi = SVI(bnn.model, bnn.guide, adam(), TraceMeanField_ELBO())
    assert math.isfinite(svi.evaluate_loss(*data))
    with pytest.warns(ModeWarning, match=r"KL divergence alone.*bnn\.train"):
        svi.step(*data)


def test_prediction_in_training_mode_warns():
    bnn, (x, _) = bayesian(), batch()
    for parallel in (False, True):
        predictive = Predictive(bnn.model, guide=bnn.guide, num_samples=2, parallel=parallel)
        with pytest.warns(ModeWarning, match=r"relaxed.*bnn\.eval"):
            predictive(x)
    assert Predictive(bnn.eval().model, guide=bnn.guide, num_samples=2)(x)["obs"].shape == (2, 10)


# -- torch ----------------------------------------------------------------------------------------


class Checkpointed(nn.Module):
    def __init__(self, body, again):
        super().__init__()
        self.body, self.again = body, again

    def forward(self, x):
        return checkpoint(self.body, x, use_reentrant=False) if self.again else self.body(x)


@pytest.mark.parametrize("key", [*MASKS, *WEIGHTS])
def test_checkpointing_gives_the_gradient_or_our_sentence(key):
    data, body = batch(), network(key)

    def found(again, elbo):
        net = copy.deepcopy(Checkpointed(body, again))
        bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=20)
        torch.manual_seed(3)
        with pyro.settings.context(module_local_params=True):
            loss = (
                TraceMeanField_ELBO().differentiable_loss(bnn.model, bnn.guide, *data)
                if elbo
                else bnn.loss(*data).loss
            )
        return gradients(loss, bnn)

    torch.testing.assert_close(found(True, False), found(False, False))
    try:
        torch.testing.assert_close(found(True, True), found(False, True))
    except ConfigError as error:
        assert "checkpointing" in str(error) and key not in ("mc-dropout", "nested")


# What depends on the precision is left out of a compiled pass (ops/transforms.py), so that the
# graph of all masks, which takes seconds, is made in one.
@pytest.mark.parametrize(
    ("keys", "dtype"),
    [(MASKS, torch.float32), (WEIGHTS, torch.float32), (WEIGHTS, torch.float64)],
    ids=["masks", "weights", "weights-float64"],
)
def test_the_loss_compiles_as_one_graph(keys, dtype, monkeypatch):
    torch.set_default_dtype(dtype)
    monkeypatch.setattr(noise, "uniform", lambda shape, like: like.new_full(tuple(shape), 0.3))
    monkeypatch.setattr(noise, "normal", lambda shape, like: like.new_full(tuple(shape), 0.7))
    # All in one network: a graph costs half a second whatever is in it. An error names the layer.
    layers: list[nn.Module] = []
    for key in keys:
        # Distributions that check their arguments, as a user may write, are not traced.
        if bd.nn.layers[key].__module__.startswith("bayesdrop."):
            layer = make(key, nn.Linear(4, 4) if key in WEIGHTS else 4)
            layers += [nn.Linear(4, 4), layer, nn.LayerNorm(4)]
    net, data = nn.Sequential(*layers, nn.Linear(4, 3)), batch()
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=20)
    compiled = torch.compile(lambda x, y: bnn.loss(x, y).loss, backend="eager", fullgraph=True)
    bnn.loss(*data)  # running statistics start
    statistics = copy.deepcopy(bnn.state_dict())
    expected = bnn.loss(*data).loss
    slopes = gradients(expected, bnn)
    bnn.load_state_dict(statistics)
    torch._dynamo.reset()
    loss = compiled(*data)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(loss, bnn), slopes)


class Shifted(nn.Module):
    """A network with sites of its own in ``forward``."""

    def __init__(self):
        super().__init__()
        self.mask, self.linear = bd.BetaBernoulliDropout(4), nn.Linear(4, 3)

    def forward(self, x):
        shift = pyro.sample("shift", Normal(0.0, 1.0))
        return pyro.deterministic("shifted", self.linear(self.mask(x)) + shift)


@pytest.mark.parametrize("rows", [3, 4, 10])
def test_sites_of_a_network_are_met_once_whatever_the_number_of_rows(rows):
    bnn = bd.BayesianNetwork(Shifted(), bd.Categorical(), num_data=40)
    x, y = torch.randn(rows, 4), torch.randint(3, (rows,))
    with poutine.condition(data={"shift": torch.tensor(2.0)}):
        trace = poutine.trace(bnn.model).get_trace(x, y)
    assert float(trace.nodes["shift"]["value"]) == 2.0
    assert trace.nodes["shifted"]["value"].shape == (rows, 3)
    assert torch.isfinite(trace.log_prob_sum())


def test_values_that_were_loaded_into_the_store_are_not_dropped_in_silence(tmp_path):
    def program():
        net = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 3))
        return bd.BayesianNetwork(net, bd.Categorical(), num_data=40)

    x, y = torch.randn(10, 4), torch.randint(3, (10,))
    bnn, store = program(), pyro.get_param_store()
    svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 0.1}), TraceMeanField_ELBO())
    svi.step(x, y)
    store.save(tmp_path / "store.pt")
    pyro.clear_param_store()
    svi.evaluate_loss(x, y)  # the network's own are registered again
    store.load(tmp_path / "store.pt")
    with pytest.raises(ConfigError, match=r"put under 'bayesdrop.*load\(.*bd\.save and bd\.load"):
        svi.evaluate_loss(x, y)
    pyro.clear_param_store()
    bnn.network[1].weight = nn.Parameter(torch.zeros(3, 4))
    svi.evaluate_loss(x, y)
    bnn.network[1].weight = nn.Parameter(torch.ones(3, 4))  # its own, that another has replaced
    svi.evaluate_loss(x, y)
    assert any(value is bnn.network[1].weight for value in store.values())
