"""Laws of layers that some of their units have left."""

import copy

import pytest
import torch
from pyro.distributions import Beta
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError

KEYS = [key for key in bd.nn.registered(bd.BayesianDropout) if bd.nn.layers[key].per_unit]


def layer_of(key):
    layer = bd.nn.make(key, 6)
    for name, value in bd.nn.unit_tensors(layer).items():
        if isinstance(value, nn.Parameter):
            value.data += 0.3 * torch.randn(6)
        elif name == "open":
            value[2] = False
    return layer


def test_independent_units_are_those_of_these_layers():
    assert {
        "beta-bernoulli",
        "dependent-beta-bernoulli",
        "hard-concrete",
        "structured-bayesian-pruning",
    } <= set(KEYS)
    assert not bd.nn.restrict_units(bd.IndianBuffetDropout(4), torch.tensor([0]))
    assert not bd.nn.restrict_units(bd.ConcreteDropout(4), torch.tensor([0]))


@pytest.mark.parametrize("key", KEYS)
def test_units_that_are_left_keep_their_posterior_and_their_divergence(key):
    whole, x = layer_of(key).eval(), torch.randn(5, 6)
    parts = []
    for units in (torch.tensor([4, 0, 2]), torch.tensor([1, 3, 5])):
        part = copy.deepcopy(whole)
        assert bd.nn.restrict_units(part, units) and part.total() == 3
        assert torch.equal(part.keep_prob(), whole.keep_prob()[units])
        assert torch.equal(part.kept(), whole.kept()[units])
        torch.testing.assert_close(part(x[:, units]), whole(x)[:, units])
        assert part.train()(x[:, units]).shape == (5, 3)
        parts.append(part)
    prior = whole.prior()
    shared = [  # by all units, and so by both parts
        torch.distributions.kl_divergence(q, prior[name])
        for name, q in whole.posterior().items()
        if q.event_shape == (1,)
    ]
    kl = sum(part.kl_divergence() for part in parts)
    torch.testing.assert_close(kl, whole.kl_divergence() + sum(shared))
    # All that there is an entry of for each unit is declared.
    shapes = [value.shape for value in parts[0].state_dict().values()]
    assert all(6 not in shape for shape in shapes)


class Scaled(bd.BetaBernoulliDropout):
    """A prior of one's own, with numbers that nobody was told of."""

    def prior(self):
        return {"pi": Beta(torch.linspace(0.1, 0.6, 6), 1.0).to_event(1)}


def test_a_class_below_that_may_have_more_has_to_say_so():
    assert not bd.nn.restrict_units(layer := Scaled(6), torch.tensor([0]))
    assert layer.num_units == 6 and layer.location.shape == (6,)


@pytest.mark.parametrize(
    "units", [[0, 2], [True, False, True, False], [4], [-1], [1, 1], [], [0.0]], ids=str
)
def test_units_that_a_layer_has_not_are_refused(units):
    layer = bd.BetaBernoulliDropout(4)
    given = units if units == [0, 2] else torch.tensor(units)
    with pytest.raises(ConfigError, match="restrict_units: expected a tensor of different"):
        bd.nn.restrict_units(layer, given)
    assert layer.num_units == 4
