"""The registry of layers: what may enter it, and what a name then stands for."""

import pytest
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConfigError
from bayesdrop.nn import layers
from bayesdrop.registry import Registry


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(layers, "_entries", dict(layers))


def written_in_a_cell(default):
    class Gates(bd.BetaBernoulliDropout):
        key, init = "cell-gates", default

    return bd.nn.register(Gates)


def test_a_class_that_is_defined_again_takes_its_own_place():
    written_in_a_cell(1)
    again = written_in_a_cell(2)
    masked = bd.convert(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), "cell-gates")
    assert {type(mask) for _, mask in bd.nn.named_dropout_layers(masked)} == {again}


def test_another_class_does_not_take_its_place():
    written_in_a_cell(1)

    class Gates(bd.BetaBernoulliDropout):
        key = "cell-gates"

    with pytest.raises(ConfigError, match="expected a new name, got 'cell-gates', which is taken"):
        bd.nn.register(Gates)


def test_two_unnamed_functions_are_not_one():
    values = Registry[object]("value")
    values.register("a", lambda: 1)
    with pytest.raises(ConfigError, match="register value: expected a new name"):
        values.register("a", lambda: 2)


@pytest.mark.parametrize("given", [int, nn.Linear, bd.BetaBernoulliDropout(3), "beta-bernoulli"])
def test_only_classes_of_layers_enter(given):
    with pytest.raises(ConfigError, match="expected a class below bd.BayesianDropout"):
        bd.nn.register(given)


@pytest.mark.parametrize("key", [None, "", 3])
def test_a_class_without_a_key_does_not_enter(key):
    no_key = type("NoKey", (bd.BetaBernoulliDropout,), {"key": key})
    with pytest.raises(ConfigError, match="register layer: expected a name, which is a word, got"):
        bd.nn.register(no_key)


def test_a_class_in_place_of_its_key_is_told_the_key():
    with pytest.raises(ConfigError, match="look up layer: .*Pass 'beta-bernoulli'"):
        bd.convert(nn.Linear(3, 2), bd.BetaBernoulliDropout)
