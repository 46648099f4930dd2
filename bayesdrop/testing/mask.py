"""The laws of a layer that multiplies its input by a random mask."""

from __future__ import annotations

import math
from typing import Any

import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Predictive, TraceMeanField_ELBO
from torch import Tensor, nn
from typing_extensions import override

import bayesdrop as bd
from bayesdrop.testing.owner import BATCH, NUM_DATA, OwnerContract
from bayesdrop.testing.programs import gradients, sites
from bayesdrop.testing.statistics import assert_mean_close

RANGES = {"gate": (0.0, 1.0), "scaled": (0.0, math.inf), "noise": (-math.inf, math.inf)}
"""Mask kind to the smallest and the largest value that a mask may have."""


class MaskContract(OwnerContract):
    """Inherit it, give ``key``, and pytest holds the registered dropout layer to its contract.

    Example:
        >>> class TestBetaBernoulli(MaskContract):
        ...     key = "beta-bernoulli"
    """

    @override
    def layer(self, num_units: int = 4, **options: Any) -> bd.BayesianDropout:
        return bd.nn.make(self.key, num_units, **options)

    @override
    def network(self, **options: Any) -> nn.Sequential:
        return nn.Sequential(
            self.layer(6, **options),
            nn.Linear(6, 5),
            nn.Tanh(),
            self.layer(5, **options),
            nn.Linear(5, 3),
        )

    @override
    def batch(self, rows: int = BATCH) -> tuple[Tensor, Tensor]:
        return torch.randn(rows, 6), torch.randint(3, (rows,))

    def in_range(self, mask: Tensor) -> bool:
        """Return whether every value of a mask is one that its kind may have."""
        low, high = RANGES[self.layer().mask_kind]
        return bool((mask.isfinite() & (mask >= low) & (mask <= high)).all())

    # -- sites ---------------------------------------------------------------------------------

    @pytest.mark.parametrize("shape", [(1,), (BATCH, 1)], ids=["one", "one an example"])
    def test_condition_imposes_a_mask(self, shape):
        bnn, (x, y) = self.bayesian(), self.batch()
        masks = {
            path: torch.bernoulli(torch.full((*shape[:-1], layer.num_units), 0.5))
            for path, layer in bnn.named_dropout_layers()
        }
        drawn = self.posterior_of_model(bnn, (x, y))
        model = poutine.condition(drawn, {f"{path}.z": mask for path, mask in masks.items()})
        with bd.impose_masks(bnn.network, masks):
            expected = bnn(x)
        torch.testing.assert_close(model(x, y), expected)
        torch.testing.assert_close(model(x), expected)

    def test_maps_work_in_model_and_predictive(self):
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.Tanh(),
            self.layer(4, unit_dim=-3),
            nn.Flatten(),
            self.layer(16),
            nn.Linear(16, 3),
        )
        bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=NUM_DATA)
        x, y = torch.randn(5, 1, 4, 4), torch.randint(3, (5,))
        for options in ({}, {"num_particles": 2, "vectorize_particles": True}):
            elbo = TraceMeanField_ELBO(**options)
            assert math.isfinite(elbo.loss_and_grads(bnn.model, bnn.guide, x, y))
        bnn.eval()
        predictive = Predictive(bnn.model, guide=bnn.guide, num_samples=7, parallel=True)
        assert predictive(x)["obs"].shape == (7, 5)

    def test_masks_add_nothing_to_the_loss(self):
        bnn, data = self.bayesian(), self.batch()
        trace = poutine.trace(self.posterior_of_model(bnn, data)).get_trace(*data)
        trace.compute_log_prob()
        for path, layer in bnn.named_dropout_layers():
            node: Any = trace.nodes[f"{path}.z"]
            assert node["value"].shape == (BATCH, layer.num_units)
            assert float(node["log_prob_sum"]) == 0
            assert self.in_range(node["value"])

    def test_a_mask_drawn_once_serves_a_loop_over_time(self):
        class Loop(nn.Module):
            def __init__(self, gate: bd.BayesianDropout) -> None:
                super().__init__()
                self.gate, self.cell, self.out = gate, nn.RNNCell(3, 4), nn.Linear(4, 3)

            def forward(self, x: Tensor) -> Tensor:
                state = x.new_zeros(len(x), 4)
                mask = self.gate.sample_mask(state)
                for time in range(x.shape[1]):
                    state = self.cell(x[:, time], state) * mask
                return self.out(state)

        bnn = bd.BayesianNetwork(Loop(self.layer(4)), bd.Categorical(), NUM_DATA)
        x, y = torch.randn(5, 6, 3), torch.randint(3, (5,))
        drawn = self.posterior_of_model(bnn, (x, y))
        assert sites(drawn, x, y)["gate.z"]["value"].shape == (5, 4)
        assert math.isfinite(TraceMeanField_ELBO().loss_and_grads(bnn.model, bnn.guide, x, y))
        assert bool(bnn.loss(x, y).loss.isfinite())
        assert bd.predict(bnn, x, num_samples=3).mean.shape == (5, 3)

    # -- masks ---------------------------------------------------------------------------------

    @pytest.mark.parametrize("training", [True, False])
    def test_masks_lie_in_their_range(self, training):
        layer = self.layer(50).train(training)
        assert self.in_range(layer(torch.ones(20, 50)))

    def test_keep_prob_is_the_probability_of_an_exact_mask(self):
        layer = self.layer().eval()
        x = torch.randn(1, 4)
        masks = torch.stack([layer.draw_mask(layer.draw_latents(), x)[0] for _ in range(1000)])
        keep = layer.keep_prob().detach()
        if layer.input_dependent:  # then it is the largest for any input
            assert bool(((masks != 0).double().mean(0) <= keep + 0.1).all())
        elif layer.mask_kind == "noise":
            first, second = masks.chunk(2)
            squares = (first.square() + second.square()) / 2
            assert_mean_close(first * second - keep * squares, 0.0)  # E[z]^2 / E[z^2]
        else:
            assert_mean_close((masks != 0).double(), keep)

    def test_every_latent_s_parameter_is_moved_by_the_divergence(self):
        bnn, data = self.bayesian(), self.batch()
        with bd.nn.LocalDivergences() as local:
            output = bnn(data[0])
        loss = bd.kl_divergence(bnn) + local.mean() + 0.0 * output.sum()
        layers = tuple(f"network.{path}." for path, _ in bnn.named_dropout_layers())
        for name, gradient in gradients(loss, bnn).items():
            leaf = name.rpartition(".")[2]
            if name.startswith(layers) and leaf not in self.point_estimates:
                assert bool((gradient != 0).all()), name

    def test_evaluation_mode_multiplies_by_the_mean_mask(self):
        net, (x, _) = self.network().eval(), self.batch()
        layer: Any = net[0]
        torch.testing.assert_close(layer(x), x * layer.mean_mask(x))
        assert torch.equal(net(x), net(x))

    def test_the_mean_mask_follows_the_parameters_however_they_change(self):
        layer, other, x = self.layer(), self.layer(), torch.randn(3, 4)
        for parameter in other.parameters():
            nn.init.normal_(parameter, std=0.5)

        def write_data():
            for parameter in layer.parameters():
                parameter.data.mul_(0.5)

        changes = (
            lambda: layer.load_state_dict(other.state_dict()),
            write_data,
            lambda: setattr(layer, "threshold", 0.9),
            layer.float,
            layer.double,
        )
        layer.eval(), other.eval()
        for change in (lambda: None, *changes):
            change()
            like = x.to(next(layer.parameters(), x).dtype)
            with torch.inference_mode():
                drawn_first, keep = layer.mean_mask(like), layer.keep_prob()
            with torch.no_grad():
                again = layer.mean_mask(like)
            torch.testing.assert_close(drawn_first.clone(), layer.mean_mask(like).detach())
            torch.testing.assert_close(again, layer.mean_mask(like).detach())
            torch.testing.assert_close(keep.clone(), layer.keep_prob().detach())
            again.fill_(7.0)  # it is the caller's
            with torch.no_grad():
                torch.testing.assert_close(layer.mean_mask(like), drawn_first.clone())

    def test_a_schedulable_buffer_is_one(self):
        layer = self.layer()
        buffers = dict(layer.named_buffers(recurse=False))
        for name in layer.schedulable:
            assert buffers[name].is_floating_point(), name

    # -- compact networks ----------------------------------------------------------------------

    def test_compact_network_equals_the_masked_network(self):
        net = self.network()
        for _, layer in bd.nn.named_dropout_layers(net):
            for parameter in layer.parameters():
                nn.init.normal_(parameter)
            layer.threshold = layer.keep_prob().median().item()
            # A rate that all units share prunes all or none.
            fewest = layer.num_units if layer.keep_prob().unique().numel() == 1 else 1
            assert fewest <= layer.kept().sum() < layer.num_units + (fewest > 1)
        bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=NUM_DATA).eval()
        x, _ = self.batch()
        small = bd.compact(bnn, example_input=x)
        torch.testing.assert_close(small(x), bnn(x), rtol=1e-6, atol=1e-6)
        assert not list(bd.nn.named_dropout_layers(small))
        widths = [m.in_features for m in small.modules() if isinstance(m, nn.Linear)]
        if not any(layer.input_dependent for _, layer in bnn.named_dropout_layers()):
            assert widths == [int(layer.kept().sum()) for _, layer in bnn.named_dropout_layers()]
