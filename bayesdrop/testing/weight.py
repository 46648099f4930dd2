"""The laws of a layer whose weights are random."""

from __future__ import annotations

from typing import Any, ClassVar, get_args

import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn
from typing_extensions import override

import bayesdrop as bd
from bayesdrop.nn import Noise
from bayesdrop.testing.owner import BATCH, NUM_DATA, OwnerContract
from bayesdrop.testing.programs import global_sites, gradients
from bayesdrop.testing.statistics import assert_means_equal


class WeightContract(OwnerContract):
    """Inherit it, give ``key``, and pytest holds the registered posterior to its contract.

    Example:
        >>> class TestSparseVariational(WeightContract):
        ...     key = "sparse-variational"
    """

    as_in_the_model: ClassVar[dict[str, Any]] = {"noise": "weights"}

    def random(self, plain: nn.Module, **options: Any) -> bd.nn.BayesianWeights:
        """Return a layer whose means and noise, where it is learned, are of the same order."""
        layer = bd.nn.make(self.key, plain, **options)
        for parameter in layer.variational_parameters():
            parameter.data.normal_(-3.0)
        return layer

    @override
    def layer(self, **options: Any) -> bd.nn.BayesianWeights:
        return self.random(nn.Linear(12, 3), **options)

    @override
    def network(self, **options: Any) -> nn.Sequential:
        return nn.Sequential(
            self.random(nn.Conv2d(1, 3, 2), **options),
            nn.Tanh(),
            nn.Flatten(),
            self.layer(**options),
        )

    @override
    def batch(self, rows: int = BATCH) -> tuple[Tensor, Tensor]:
        return torch.randn(rows, 1, 3, 3), torch.randint(3, (rows,))

    @torch.no_grad()
    def test_the_plain_loss_has_the_expectation_of_the_svi_loss(self):
        # A single layer: local noise has the weights' law for each output by itself only.
        net = nn.Sequential(self.random(nn.Linear(4, 2)))
        bnn = bd.BayesianNetwork(net, bd.Bernoulli(), NUM_DATA)
        data = torch.randn(6, 4), torch.rand(6, 2).round()
        elbo = TraceMeanField_ELBO(num_particles=50, vectorize_particles=True)
        stock = [elbo.loss(bnn.model, bnn.guide, *data) for _ in range(40)]
        ours = torch.stack([bnn.loss(*data).loss for _ in range(500)])
        assert_means_equal(ours, torch.tensor(stock))

    def test_condition_imposes_weights(self):
        bnn, (x, y) = self.bayesian(), self.batch()
        values = {n: s["value"].detach() for n, s in global_sites(bnn.guide, x).items()}
        plain = bd.without_dropout(bnn)
        for name, value in values.items():
            plain.get_submodule(name.rpartition(".")[0]).weight.data = value
        model = poutine.condition(bnn.model, values)
        for args in ((x, y), (x,)):
            torch.testing.assert_close(model(*args), plain(x))

    @pytest.mark.parametrize("shared_by", ["example", "batch"])
    @pytest.mark.parametrize("noise", get_args(Noise))
    def test_every_kind_of_noise_has_finite_gradients(self, noise, shared_by):
        bnn, (x, y) = self.bayesian(noise=noise, shared_by=shared_by), self.batch()
        x[0] = 0.0  # no variance at all
        for name, gradient in gradients(bnn.loss(x, y).loss, bnn).items():
            assert bool(gradient.isfinite().all()), name
            assert bool((gradient != 0).any()), name

    def test_evaluation_mode_has_the_mean_weights(self):
        bnn, (x, _) = self.bayesian().eval(), self.batch()
        _, layer = bnn.named_weight_layers()[-1]
        assert torch.equal(layer.mean_weight(), torch.where(layer.kept(), layer.weight, 0.0))
        features = torch.randn(4, 12)
        expected = nn.functional.linear(features, layer.mean_weight(), layer.bias)
        torch.testing.assert_close(layer(features), expected)
        assert torch.equal(bnn(x), bnn(x))

    @torch.no_grad()
    def test_compact_is_the_mean_weight_network(self):
        bnn, (x, _) = self.bayesian(), self.batch()
        small = bd.compact(bnn, x)
        torch.testing.assert_close(small(x), bnn.eval()(x), rtol=0, atol=1e-6)
        assert type(small.get_submodule("3")) is nn.Linear
        assert not any(type(m).__module__.startswith("bayesdrop") for m in small.modules())

    def test_the_divergence_of_a_unit_s_weights_is_a_part_of_the_whole(self):
        layer = self.layer(kl_scale=3.0)
        for dim in (0, 1):
            by_unit = layer.kl_by_unit(dim)
            assert by_unit.shape == (layer.weight.shape[dim],)
            torch.testing.assert_close(by_unit.sum() * layer.kl_scale, layer.kl_divergence())

    def test_convert_keeps_the_weights_and_copies(self):
        net = bd.networks.lenet_300_100(dropout=0.5)
        before = {name: value.clone() for name, value in net.state_dict().items()}
        converted = bd.convert(net, self.key)
        for network in (net, converted):
            state = network.state_dict()
            assert all(torch.equal(state[name], value) for name, value in before.items())
        assert not any(isinstance(module, nn.Dropout) for module in converted.modules())
        plain = bd.without_dropout(converted)
        assert type(plain.fc1) is nn.Linear
        assert plain.state_dict().keys() == before.keys()
        x = torch.rand(2, 784)
        torch.testing.assert_close(plain.eval()(x), net.eval()(x))
