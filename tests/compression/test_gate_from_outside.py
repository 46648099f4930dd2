"""An input-dependent gate that is not the package's own is pruned and compacted like its own."""

import pyro
import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.nn import MeanGate


class Switch(bd.BetaBernoulliDropout):
    """A gate from outside: keep probability times a sigmoid, and units that can be pruned."""

    input_dependent = True

    def __init__(self, num_units, **options):
        super().__init__(num_units, **options)
        self.register_buffer("slope", torch.randn(num_units))
        self.register_buffer("on", torch.ones(num_units, dtype=torch.bool))

    def features(self, x):
        others = [d for d in range(x.ndim) if d not in (self.batch_dim, x.ndim + self.unit_dim)]
        return x.mean(others) if others else x

    def mask_distribution(self, latents, x=None):
        probs = latents["pi"] * torch.sigmoid(self.slope * self.features(x)) * self.on
        return pyro.distributions.Bernoulli(probs).to_event(1)

    def keep_prob(self):
        return super().keep_prob() * self.on

    def mean_mask(self, x=None):
        return self.mean_gate()(self.features(x))

    def mean_gate(self):
        threshold = self.threshold

        def function(x, keep, slope):
            mean = keep * torch.sigmoid(slope * x)
            return torch.where(mean < threshold, 0.0, mean)

        return MeanGate(function, {"keep": self.keep_prob().detach(), "slope": self.slope})

    def prune(self, units):
        self.on &= ~units
        return True


def test_a_gate_from_outside_is_compacted_exactly():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        Switch(4, unit_dim=-3, threshold=0.3),
        nn.Flatten(),
        Switch(16, threshold=0.3),
        nn.Linear(16, 3),
    ).eval()
    nn.init.uniform_(net[4].location, -3.0, 3.0)
    net[2].prune(torch.arange(4) == 1)
    x = 3 * torch.randn(50, 1, 4, 4)
    small = bd.compact(net, x)
    torch.testing.assert_close(small(x), net(x), rtol=1e-6, atol=1e-6)
    assert not list(bd.nn.named_dropout_layers(small))
    assert small.get_submodule("0").out_channels == 3
    kept = int(net[4].kept()[torch.arange(16) // 4 != 1].sum())
    assert small.get_submodule("5").in_features == kept < 12
    torch.testing.assert_close(torch.export.export(small, (x,)).module()(x), net(x))


def test_units_of_a_gate_from_outside_are_pruned_where_no_example_uses_them():
    net = nn.Sequential(Switch(4, threshold=0.3), nn.Linear(4, 3))
    net[0].slope.copy_(torch.tensor([5.0, -5.0, 5.0, -5.0]))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=20).eval()
    x = torch.rand(20, 4) + 1.0
    before = bnn(x)
    assert bd.prune_unused_units(bnn, x) == {"0": 2}
    assert net[0].kept().tolist() == [True, False, True, False]
    torch.testing.assert_close(bnn(x), before)


@pytest.mark.parametrize("per_input", [False, True], ids=["dense", "per input"])
@pytest.mark.parametrize("make", [bd.DependentBetaBernoulliDropout, Switch])
def test_examples_in_the_second_dimension_are_compacted_exactly(make, per_input):
    net = nn.Sequential(
        make(4, batch_dim=1, threshold=0.3),
        nn.Linear(4, 8),
        nn.ReLU(),
        make(8, batch_dim=1, threshold=0.3),
        nn.Linear(8, 3),
    ).eval()
    net[3].prune(torch.arange(8) >= 6)
    x = torch.randn(6, 5, 4)
    small = bd.compact(net, x, per_input=per_input)
    torch.testing.assert_close(small(x), net(x), rtol=1e-6, atol=1e-6)
    assert bd.compression.count_params(small) < bd.compression.count_params(net)
