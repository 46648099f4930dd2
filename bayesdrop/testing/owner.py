"""The laws that every owner of latents keeps, be they masks or weights."""

from __future__ import annotations

import copy
import functools
import io
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.optim import PyroOptim
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

import bayesdrop as bd
from bayesdrop.testing.isolation import isolated, noise_by_shape
from bayesdrop.testing.programs import global_sites, gradients, sites
from bayesdrop.testing.statistics import assert_mean_close, assert_means_equal

NUM_DATA, BATCH = 40, 10
ELBOS = (Trace_ELBO, TraceMeanField_ELBO)


def adam(lr: float = 1e-3) -> PyroOptim:
    """Return Pyro's Adam."""
    return PyroOptim(torch.optim.Adam, {"lr": lr})


class _Loss(nn.Module):
    # The loss as a forward pass, which torch.func.functional_call calls.
    def __init__(self, bnn: bd.BayesianNetwork) -> None:
        super().__init__()
        self.bnn = bnn

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.bnn.loss(x, y).loss


class _Divergence(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self) -> torch.Tensor:
        return bd.kl_divergence(self.network)


class OwnerContract(ABC):
    """Abstract test class; ``MaskContract`` and ``WeightContract`` say what network is tested."""

    key: ClassVar[str]
    """Key of the registered class."""
    point_estimates: ClassVar[frozenset[str]] = frozenset()
    """Parameters of the layer that no divergence depends on, and only the data train."""
    is_random: ClassVar[bool] = True
    """Whether two draws of the layer differ."""
    as_in_the_model: ClassVar[dict[str, Any]] = {}
    """Options with which plain torch draws just what the Pyro model draws."""
    without_statistics: ClassVar[dict[str, Any]] = {}
    """Options with which a pass in training mode moves no running statistics but the first."""

    @abstractmethod
    def network(self, **options: Any) -> nn.Sequential:
        """Return a classifier of three classes with such layers in it; options are theirs."""

    @abstractmethod
    def batch(self, rows: int = BATCH) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs of the network and classes."""

    @abstractmethod
    def layer(self, **options: Any) -> bd.nn.LatentOwner:
        """Return one such layer."""

    def bayesian(self, **options: Any) -> bd.BayesianNetwork:
        """Return the network as a probabilistic program of ``NUM_DATA`` examples."""
        return bd.BayesianNetwork(self.network(**options), bd.Categorical(), NUM_DATA)

    def posterior_of_model(
        self, bnn: bd.BayesianNetwork, data: tuple[torch.Tensor, torch.Tensor]
    ) -> Callable[..., Any]:
        """Return the model with the latents that the guide draws, as a prior may be improper."""
        trace = poutine.trace(bnn.guide).get_trace(*data)
        return poutine.replay(bnn.model, trace=trace)

    @pytest.fixture(autouse=True)
    def isolation(self):
        with isolated():
            yield

    @pytest.fixture
    def same_noise(self, monkeypatch):
        noise_by_shape(monkeypatch)

    # -- stock Pyro ----------------------------------------------------------------------------

    @pytest.mark.parametrize("elbo", ELBOS)
    @pytest.mark.parametrize(
        "particles",
        [{}, {"num_particles": 3}, {"num_particles": 3, "vectorize_particles": True}],
        ids=["one", "three", "vectorised"],
    )
    def test_svi_trains_every_parameter(self, elbo, particles):
        bnn, data = self.bayesian(), self.batch()
        before = {name: p.detach().clone() for name, p in bnn.named_parameters()}
        svi = SVI(bnn.model, bnn.guide, adam(0.01), elbo(**particles))
        assert all(math.isfinite(svi.step(*data)) for _ in range(3))
        unchanged = [name for name, p in bnn.named_parameters() if torch.equal(p, before[name])]
        assert unchanged == []

    @torch.no_grad()
    def test_both_elbos_and_vectorised_particles_agree_in_expectation(self):
        bnn, data = self.bayesian(), self.batch()

        def losses(elbo, count, **options):
            objective, found = elbo(**options), []
            for seed in range(count):
                torch.default_generator.manual_seed(seed)
                found.append(objective.loss(bnn.model, bnn.guide, *data))
            return torch.tensor(found)

        particles = {"num_particles": 10, "vectorize_particles": True}
        mean_field = losses(TraceMeanField_ELBO, 20, **particles)
        assert_means_equal(losses(TraceMeanField_ELBO, 50), mean_field)
        differences = losses(Trace_ELBO, 20, **particles) - mean_field
        if bool(bd.kl_divergence(bnn.network) == 0):  # then they agree in every draw
            torch.testing.assert_close(differences, torch.zeros(20))
        else:
            assert_mean_close(differences, 0.0)

    def test_elbo_module_trains_with_torch_and_leaves_the_store_empty(self):
        bnn, data = self.bayesian(), self.batch()
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

    def test_predictive_sequential_and_parallel_agree(self):
        bnn, (x, _) = self.bayesian().eval(), self.batch(4)
        nodes = global_sites(bnn.guide, x)
        masks = {f"{path}.z" for path, _ in bnn.named_dropout_layers()}
        frequencies = []
        for parallel in (False, True):
            predictive = Predictive(bnn.model, guide=bnn.guide, num_samples=50, parallel=parallel)
            samples = predictive(x)
            assert samples["obs"].shape == (50, 4)
            assert samples.keys() == {"obs", *masks, *nodes}
            frequencies.append(one_hot(samples["obs"], 3).double())
            for name, node in nodes.items():
                value = samples[name].reshape(50, *node["value"].shape)
                assert_mean_close(value, node["fn"].mean)
        assert_means_equal(*frequencies)

    @torch.no_grad()
    def test_predictive_and_predict_agree(self):
        bnn, (x, _) = self.bayesian().eval(), self.batch(4)
        predictive = Predictive(bnn.model, guide=bnn.guide, num_samples=300, parallel=True)
        ours = bd.predict(bnn, x, num_samples=300)
        assert ours.num_samples == 300
        assert ours.mutual_information is not None
        assert bool((ours.mutual_information > 1e-12).all()) == self.is_random
        assert_means_equal(one_hot(predictive(x)["obs"], 3).double(), ours.samples)

    def test_condition_imposes_a_latent(self):
        bnn, data = self.bayesian(), self.batch()
        drawn = self.posterior_of_model(bnn, data)
        for name, node in global_sites(bnn.guide, *data).items():
            model = poutine.condition(drawn, {name: node["value"].detach()})
            conditioned = sites(model, *data)
            assert conditioned[name]["is_observed"]
            torch.testing.assert_close(conditioned[name]["value"], node["value"])

    def test_replay_and_block(self):
        bnn, data = self.bayesian(), self.batch()
        guide_trace = poutine.trace(bnn.guide).get_trace(*data)
        names = list(global_sites(bnn.guide, *data))
        replayed = sites(poutine.replay(bnn.model, trace=guide_trace), *data)
        for name in names:
            assert replayed[name]["value"] is guide_trace.nodes[name]["value"]
        hidden = poutine.block(poutine.replay(bnn.model, trace=guide_trace), hide=names)
        assert not set(names) & set(sites(hidden, *data))

    @pytest.mark.parametrize("elbo", ELBOS)
    def test_the_network_runs_once_per_step(self, elbo):
        bnn, data = self.bayesian(), self.batch()
        calls = []
        bnn.network.register_forward_pre_hook(lambda module, inputs: calls.append(module))
        SVI(bnn.model, bnn.guide, adam(), elbo()).step(*data)
        assert len(calls) == 1

    def test_float32_stays_float32(self):
        torch.set_default_dtype(torch.float32)
        bnn, data = self.bayesian(), self.batch()
        for mode in (False, True):
            bnn.train(mode)
            assert bnn(data[0]).dtype == torch.float32
        loss = SVI(bnn.model, bnn.guide, adam(), TraceMeanField_ELBO()).step(*data)
        assert math.isfinite(loss)
        assert {p.dtype for p in bnn.parameters()} == {torch.float32}

    # -- global latents ------------------------------------------------------------------------

    def test_model_and_guide_have_the_same_global_sites(self):
        bnn, data = self.bayesian(), self.batch()
        guide = global_sites(bnn.guide, *data)
        model = global_sites(self.posterior_of_model(bnn, data), *data)
        assert guide.keys() == model.keys()
        assert guide.keys() == {
            f"{path}.{name}" for path, owner in bnn.named_owners() for name in owner.posterior()
        }
        for name in guide:
            assert guide[name]["fn"].event_shape == model[name]["fn"].event_shape
            assert guide[name]["fn"].batch_shape == model[name]["fn"].batch_shape == ()

    @pytest.mark.parametrize(("kl_scale", "kl_weight"), [(1.0, 1.0), (16.0, 0.25)])
    def test_global_sites_are_outside_the_plate_with_the_layers_scale(
        self, kl_scale, kl_weight, same_noise
    ):
        bnn, data = self.bayesian(kl_scale=kl_scale), self.batch()
        bnn.kl_weight = kl_weight
        for program in (bnn.guide, self.posterior_of_model(bnn, data)):
            nodes = global_sites(program, *data)
            for path, owner in bnn.named_owners():
                for name in owner.posterior():
                    assert nodes[f"{path}.{name}"]["scale"] == owner.kl_scale * kl_weight
        with bd.nn.LocalDivergences() as local:
            bnn.network(data[0])
        kl = bd.kl_divergence(bnn.network) + NUM_DATA * local.mean()
        torch.testing.assert_close(bnn.loss(*data).kl, kl_weight * kl)

    def test_observations_are_scaled_to_the_whole_data_set(self):
        bnn, data = self.bayesian(), self.batch()
        nodes = sites(self.posterior_of_model(bnn, data), *data)
        assert nodes["obs"]["scale"] == NUM_DATA / BATCH

    def test_kl_is_registered_plain_and_under_to_event(self):
        layer = self.layer()
        prior, posterior = layer.prior(), layer.posterior()
        assert prior.keys() == posterior.keys()
        for name, q in posterior.items():
            kl = torch.distributions.kl_divergence(q, prior[name])
            assert kl.shape == ()
            if isinstance(q, torch.distributions.Independent):
                plain = torch.distributions.kl_divergence(q.base_dist, prior[name].base_dist)
                torch.testing.assert_close(plain.sum(), kl)

    def test_kl_equals_monte_carlo(self):
        layer = self.layer()
        prior = layer.prior()
        for name, q in layer.posterior().items():
            value = q.rsample((20_000,))
            log_ratio = q.log_prob(value) - prior[name].log_prob(value)
            kl = torch.distributions.kl_divergence(q, prior[name])
            if bool((log_ratio == 0).all()):
                assert bool(kl == 0)
            else:
                assert_mean_close(log_ratio, kl)

    def test_the_laws_of_the_elbo_hold(self):
        table = bd.check_elbo(self.bayesian(), *self.batch(), num_samples=500, num_repeats=10)
        assert table.passed, table

    # -- plain torch ---------------------------------------------------------------------------

    def test_plain_loop_and_svi_step_agree_under_the_same_noise(self, same_noise):
        bnn, (x, y) = self.bayesian(**self.as_in_the_model), self.batch()
        stock = TraceMeanField_ELBO().differentiable_loss(bnn.model, bnn.guide, x, y)
        ours = bnn.loss(x, y).loss
        with bd.nn.LocalDivergences() as local:
            output = bnn.network(x)
        plain = cross_entropy(output, y) + bd.kl_divergence(bnn.network) / NUM_DATA + local.mean()
        expected = gradients(stock, bnn)
        for loss in (ours, NUM_DATA * plain):
            torch.testing.assert_close(loss, stock)
            torch.testing.assert_close(gradients(loss, bnn), expected)

    def test_every_parameter_gets_a_finite_gradient(self):
        bnn, data = self.bayesian(), self.batch()
        for name, gradient in gradients(bnn.loss(*data).loss, bnn).items():
            assert bool(gradient.isfinite().all()), name
            assert bool((gradient != 0).any()), name

    @pytest.mark.parametrize("randomness", ["same", "different"])
    def test_gradients_of_single_examples_by_vmap_are_those_of_backward(
        self, randomness, same_noise
    ):
        bnn, (x, y) = self.bayesian(**self.without_statistics), self.batch(3)
        bnn(x)
        expected = [gradients(bnn.loss(x[n : n + 1], y[n : n + 1]).loss, bnn) for n in range(3)]
        call = functools.partial(torch.func.functional_call, _Loss(bnn))
        parameters = {f"bnn.{name}": p.detach() for name, p in bnn.named_parameters()}
        singly = torch.func.vmap(
            torch.func.grad(lambda p, x, y: call(p, (x, y))), (None, 0, 0), randomness=randomness
        )(parameters, x[:, None], y[:, None])
        for name in expected[0] if randomness == "same" else ():
            gradient = torch.stack([of[name] for of in expected])
            torch.testing.assert_close(singly[f"bnn.{name}"], gradient)
        assert all(bool(gradient.isfinite().all()) for gradient in singly.values())

    def test_second_derivatives_of_the_divergence_are_right(self, same_noise):
        network = self.network()
        names, values = zip(*network.named_parameters(prefix="network"), strict=True)
        divergence = _Divergence(network)

        def kl(*values):
            given = dict(zip(names, values, strict=True))
            return torch.func.functional_call(divergence, given, ())

        values = tuple(value.detach().requires_grad_() for value in values)
        if kl(*values).requires_grad:
            assert torch.autograd.gradgradcheck(kl, values, fast_mode=True)

    def test_loss_does_not_depend_on_the_batch_size_in_expectation(self):
        bnn, (x, y) = self.bayesian(), self.batch(NUM_DATA)

        @torch.no_grad()
        def losses(size):
            rows = (torch.randperm(NUM_DATA)[:size] for _ in range(80))
            return torch.stack([bnn.loss(x[i], y[i]).loss for i in rows])

        assert_means_equal(losses(NUM_DATA), losses(3))

    def test_state_dict_is_exact(self):
        bnn, (x, y) = self.bayesian(), self.batch()
        self.step(bnn, (x, y))
        file = io.BytesIO()
        torch.save(bnn.state_dict(), file)
        file.seek(0)
        other = self.bayesian()
        other.load_state_dict(torch.load(file, weights_only=True))
        for mode in (True, False):
            outputs = []
            for network in (bnn.train(mode), other.train(mode)):
                torch.manual_seed(5)
                outputs.append(network(x))
            assert torch.equal(*outputs)

    def step(self, bnn: bd.BayesianNetwork, data: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Take one large step."""
        SVI(bnn.model, bnn.guide, adam(0.1), TraceMeanField_ELBO()).step(*data)

    def test_a_copy_trains_apart_from_its_original(self):
        bnn, data = self.bayesian(), self.batch()
        self.step(bnn, data)
        twin = copy.deepcopy(bnn)
        assert twin.store_name != bnn.store_name
        assert twin.model.bnn is twin
        before = copy.deepcopy(bnn.state_dict())
        started = copy.deepcopy(twin.state_dict())
        self.step(twin, data)
        torch.testing.assert_close(bnn.state_dict(), before, rtol=0, atol=0)
        assert not any(torch.equal(p, started[name]) for name, p in twin.named_parameters())

    def test_two_models_do_not_meet_in_the_store(self):
        data = self.batch()
        first, second = self.bayesian(), self.bayesian()
        self.step(first, data)
        before = copy.deepcopy(first.state_dict())
        self.step(second, data)
        torch.testing.assert_close(first.state_dict(), before, rtol=0, atol=0)
        store = pyro.get_param_store()
        assert len(list(store.keys())) == 2 * len(list(first.parameters()))
        assert {id(store[k]) for k in store.keys()} == {
            id(p) for bnn in (first, second) for p in bnn.parameters()
        }

    def test_a_program_changes_no_global_state(self):
        bnn, data = self.bayesian(), self.batch()
        settings, dtype = pyro.settings.get(), torch.get_default_dtype()
        self.posterior_of_model(bnn, data)(*data)
        bnn.loss(*data)
        assert pyro.settings.get() == settings
        assert torch.get_default_dtype() == dtype
        assert bnn.training

    # -- what is kept --------------------------------------------------------------------------

    def test_what_is_kept_is_a_part_of_the_whole(self):
        layer = self.layer().eval()
        kept = layer.kept()
        assert kept.dtype == torch.bool
        assert kept.numel() == layer.total()
        assert layer.unit_word in ("units", "weights")
