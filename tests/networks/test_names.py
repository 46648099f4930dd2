"""Layers, inputs and parameters may be called as methods of tensors are."""

import pytest
import torch
from torch import fx, nn

import bayesdrop as bd
from bayesdrop.networks.operations import operation
from bayesdrop.testing import isolated

NAMES = (
    *("view", "reshape", "flatten", "t", "squeeze", "unbind", "add_", "relu_", "relu", "add"),
    *("dim", "stride", "numel", "size", "new_zeros", "get_device", "matmul", "expand_as"),
)


class Named(nn.Module):
    """Three linear layers, of which the middle one has the given name."""

    def __init__(self, name):
        super().__init__()
        self.name, self.first, self.last = name, nn.Linear(6, 8), nn.Linear(8, 3)
        self.add_module(name, nn.Linear(8, 8))

    def forward(self, x):
        return self.last(torch.relu(getattr(self, self.name)(torch.relu(self.first(x)))))


class Mixer(nn.Module):
    """A layer called ``t`` between two transpositions."""

    def __init__(self):
        super().__init__()
        self.a, self.mask, self.t = nn.Linear(6, 8), bd.BetaBernoulliDropout(8), nn.Linear(5, 5)

    def forward(self, x):
        return self.t(self.mask(self.a(x)).transpose(1, 2)).transpose(1, 2)


def converted(name):
    torch.manual_seed(0)
    net = bd.convert(Named(name), "beta-bernoulli").eval()
    for _, layer in bd.nn.named_dropout_layers(net):
        layer.set_posterior(torch.logspace(-3, 3, layer.num_units))
    return net


@pytest.mark.parametrize("name", NAMES)
def test_masks_do_not_depend_on_the_name_of_a_layer(name):
    names = [key for key, _ in bd.nn.named_dropout_layers(converted(name))]
    assert names == ["first_dropout", f"{name}_dropout", "last_dropout"]


def compacted(name):
    """The middle layer's width, and the outputs of the compact network and of four members."""
    net, x = converted(name), torch.randn(7, 6)  # the same inputs, since the seed is set
    small = bd.compact(net, x[:2])
    members = bd.compact(net, x[:2], members=4, seed=0)
    return small.get_submodule(name).weight.shape, small(x), members(x)


@pytest.fixture(scope="module")
def expected():
    with isolated():
        return compacted("hidden")


@pytest.mark.parametrize("name", NAMES)
def test_compact_networks_do_not_depend_on_the_name_of_a_layer(name, expected):
    width, output, members = compacted(name)
    assert width == expected[0]
    torch.testing.assert_close((output, members), expected[1:])


def test_a_layer_called_t_is_no_transposition():
    net, x = Mixer().eval(), torch.randn(3, 5, 6)
    torch.testing.assert_close(bd.compact(net, x[:2])(x), net(x))


def test_operations_are_functions_and_methods_alone():
    graph = fx.symbolic_trace(Named("view")).graph
    assert {node.op for node in graph.nodes if operation(node) is not None} == {"call_function"}
