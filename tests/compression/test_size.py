import copy
import json

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.compression import (
    SizePosterior,
    compact,
    count_flops,
    count_params,
    measure_size,
)
from bayesdrop.compression.counter import CostCounter, FixedMask
from bayesdrop.errors import ConfigError
from bayesdrop.nn import named_dropout_layers
from bayesdrop.testing import assert_mean_close
from tests.compression.networks import NETWORKS


def biasless():
    """The constants of masked units go through a BatchNorm into a bias that was not there."""
    return nn.Sequential(
        nn.Linear(6, 5), bd.BetaBernoulliDropout(5), nn.BatchNorm1d(5), nn.ReLU(),
        bd.BetaBernoulliDropout(5), nn.Linear(5, 4, bias=False), nn.Tanh(), nn.Linear(4, 3),
    )  # fmt: skip


def depthwise():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), bd.BetaBernoulliDropout(6, unit_dim=-3),
        nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), bd.BetaBernoulliDropout(6, unit_dim=-3),
        nn.Conv2d(6, 4, 3, groups=2), nn.Flatten(), nn.Linear(4 * 4, 2),
    )  # fmt: skip


CASES = {
    "biasless": (biasless, (6,)),
    "depthwise": (depthwise, (1, 8, 8)),
    **{
        name: (lambda make=make: bd.convert(make()), shape)
        for name, (make, shape) in NETWORKS.items()
        if name in ("lenet5-caffe", "vgg", "user module")
    },
}


def with_masks(network, masks):
    work = copy.deepcopy(network)
    for name, mask in masks.items():
        fixed = FixedMask(work.get_submodule(name))
        fixed.value = mask
        work.set_submodule(name, fixed)
    return work


@pytest.mark.parametrize("case", CASES)
def test_costs_of_a_mask_are_those_of_the_compact_network(case):
    make, shape = CASES[case]
    network, x = make().eval(), torch.rand(2, *shape)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()
    counter = CostCounter(network, x[:1])
    layers = dict(named_dropout_layers(network))
    for keep in (0.7, 0.2, 0.0):
        masks = {n: (torch.rand(layer.num_units) < keep).double() for n, layer in layers.items()}
        cost = counter(masks)
        small = compact(with_masks(network, masks), x)
        assert sum(cost.params.values()) == count_params(small)
        assert sum(cost.flops.values()) == count_flops(small, x)
        for name, count in cost.params.items():
            own = small.get_submodule(name).parameters(recurse=False) if name else ()
            assert count == sum(p.numel() for p in own)
    plain = bd.without_dropout(network)
    assert sum(counter.full.params.values()) == count_params(plain)
    assert sum(counter.full.flops.values()) == count_flops(plain, x)


def two_layers():
    return nn.Sequential(
        bd.BetaBernoulliDropout(3), nn.Linear(3, 2), nn.ReLU(),
        bd.BetaBernoulliDropout(2, init_concentration1=1.0), nn.Linear(2, 4),
    )  # fmt: skip


def test_samples_follow_the_posterior_of_the_masks():
    net = two_layers()
    size = measure_size(net, torch.rand(1, 3), num_samples=500, seed=0)
    for name in ("0", "3"):
        expected = net.get_submodule(name).keep_prob().sum()
        assert_mean_close(size.units[name].double(), expected.detach())
    # By hand: a compact layer has at least one unit.
    first, second = size.units["0"].clamp(min=1), size.units["3"].clamp(min=1)
    alive = (size.units["0"] > 0) & (size.units["3"] > 0)
    assert torch.equal(size.params["1"][alive], (first * second + second)[alive])
    assert torch.equal(size.flops["1"][alive], (2 * first * second)[alive])
    assert torch.equal(size.params["4"][alive], (4 * second + 4)[alive])
    assert torch.equal(size.total("flops"), size.flops["1"] + size.flops["4"])
    assert size.full["params"] == {"1": 8, "4": 12}
    assert size.full["flops"] == {"1": 12, "4": 16}
    assert size.full["units"] == {"0": 3, "3": 2}


def test_intervals_hold_the_mass_they_claim():
    net = two_layers()
    size = measure_size(net, num_samples=300, example_input=torch.rand(1, 3), seed=0)
    for row in size.summary(0.8):
        samples = size.total(row.quantity)
        if row.layer != "total":
            samples = getattr(size, row.quantity)[row.layer]
        assert row.mean == pytest.approx(float(samples.double().mean()))
        inside = (samples >= row.lower) & (samples <= row.upper)
        assert float(inside.double().mean()) >= 0.8
        assert row.lower in samples
        assert row.upper <= row.full
    assert json.loads(json.dumps(size.to_dict()))["level"] == 0.9
    assert "| units | total |" in str(size)


def test_ends_of_intervals_are_sizes_that_were_drawn():
    samples = {"a": torch.tensor([0, 10])}
    full = {name: {"a": 12} for name in ("units", "params", "flops")}
    row = SizePosterior(samples, samples, samples, full).summary(0.5)[0]
    assert (row.mean, row.lower, row.upper) == (5.0, 0.0, 10.0)


def test_a_certain_posterior_has_one_size_that_of_compact():
    net = two_layers()
    for layer, open_units in ((net[0], [True, False, True]), (net[3], [True, False])):
        keep = torch.tensor(open_units)
        layer.set_posterior(torch.where(keep, 1e5, 1e-4), torch.where(keep, 1.0, 40.0))
    x = torch.rand(1, 3)
    size = measure_size(net, num_samples=20, example_input=x)
    small = compact(net, x)
    assert set(size.total("params").tolist()) == {count_params(small)}
    assert set(size.total("flops").tolist()) == {count_flops(small, x)}


def test_the_seed_alone_decides_and_the_network_stays():
    net = two_layers()
    net.train()
    before = copy.deepcopy(net.state_dict())
    state = torch.random.get_rng_state()
    x = torch.rand(1, 3)
    torch.random.set_rng_state(state)
    first = measure_size(net, num_samples=20, example_input=x, seed=4)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(5)
    second = measure_size(net, num_samples=20, example_input=x, seed=4)
    assert torch.equal(first.total("params"), second.total("params"))
    other = measure_size(net, num_samples=20, example_input=x, seed=5)
    assert not torch.equal(first.total("params"), other.total("params"))
    assert all(module.training for module in net.modules())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("dropout", bd.nn.registered(bd.BayesianDropout))
def test_every_dropout_has_a_posterior_over_size(dropout):
    net = nn.Sequential(bd.nn.make(dropout, 6), nn.Linear(6, 3))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=10)
    x = torch.rand(5, 6)
    size = measure_size(bnn, num_samples=30, example_input=x, seed=0)
    assert torch.equal(size.params["1"], 3 * size.units["0"].clamp(min=1) + 3) or (
        # No unit left: one is kept, as by compact.
        bool((size.units["0"] == 0).any())
    )
    assert int(size.units["0"].max()) <= 6
    bnn(x)
    if bnn.network[0].input_dependent:
        with pytest.raises(ConfigError, match="expected example inputs for masks that depend on"):
            measure_size(bnn, num_samples=3)
    else:
        assert measure_size(bnn, num_samples=3).total("units").shape == (3,)


def test_masks_that_depend_on_the_input_are_drawn_for_the_examples_in_turn():
    net = nn.Sequential(bd.DependentBetaBernoulliDropout(4), nn.Linear(4, 3)).eval()
    net[0].set_posterior(1e4)
    x = torch.tensor([[-50.0], [50.0]]).expand(2, 4)  # one closes all gates, the other none
    size = measure_size(net, num_samples=6, example_input=x, seed=0)
    assert size.units["0"].tolist() == [0, 4] * 3


def test_bad_requests_are_refused():
    net = two_layers()
    x = torch.rand(1, 3)
    for number in (0, 2.5, "3"):
        with pytest.raises(ConfigError, match="measure_size: expected num_samples >= 1, an int"):
            measure_size(net, num_samples=number, example_input=x)
    with pytest.raises(ConfigError, match="Bayesian dropout layers, got a Linear without any"):
        measure_size(nn.Linear(3, 2), example_input=x)
    with pytest.raises(ConfigError, match="measure_size: expected an example input"):
        measure_size(net)
    size = measure_size(net, num_samples=2, example_input=x)
    with pytest.raises(ConfigError, match="expected 0 < level < 1, got level=1.0"):
        size.summary(1.0)
    with pytest.raises(ConfigError, match="unknown quantity of measure_size 'unit'.*'units'"):
        size.total("unit")


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.hidden = nn.Linear(8, 16)
        self.dropout = bd.BetaBernoulliDropout(16)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.dropout(torch.relu(self.hidden(self.embed(x).mean(1)))))


def test_a_network_that_saw_tokens_is_measured_and_compacted_with_tokens():
    bnn = bd.BayesianNetwork(Tokens(), bd.Categorical(), num_data=50)
    x = torch.randint(0, 11, (20, 5))
    bnn.loss(x, torch.zeros(20).long())
    assert measure_size(bnn, num_samples=3).units["dropout"].shape == (3,)
    small = bd.compact(bnn.eval())
    torch.testing.assert_close(small(x), bnn.network(x))
