"""A layer shows what it was built with, and says by its own name what it does not know."""

import copy
import pickle

import pytest
import torch
from torch import nn

import bayesdrop as bd


def test_repr_shows_every_argument_that_is_not_the_default():
    layer = bd.BetaBernoulliDropout(4, kl_scale=2.0, threshold=0.5, init_concentration1=3.0)
    shown = "BetaBernoulliDropout(4, threshold=0.5, kl_scale=2.0, init_concentration1=3.0)"
    assert repr(layer) == shown
    assert repr(bd.BetaBernoulliDropout(4)) == "BetaBernoulliDropout(4)"
    options = "unit_dim=-3, batch_dim=1, num_groups=4, share_widths=True, law='geometric'"
    nested = bd.NestedDropout(
        8, unit_dim=-3, batch_dim=1, num_groups=4, share_widths=True, law="geometric"
    )
    assert repr(nested) == f"NestedDropout(8, {options})"


@pytest.mark.parametrize("key", list(bd.nn.registered(bd.BayesianDropout)))
def test_defaults_are_not_shown_but_for_the_ones_that_always_are(key):
    layer = bd.nn.make(key, 4)
    shown = {part.partition("=")[0].strip() for part in layer.extra_repr().split(",")[1:]}
    assert shown - {"parameters_per_unit"} == set(layer.always_shown)
    changed = bd.nn.make(key, 4, kl_scale=0.25, unit_dim=-3)
    assert "unit_dim=-3" in repr(changed) and "kl_scale=0.25" in repr(changed)


def test_repr_shows_the_present_value():
    layer = bd.HardConcreteDropout(4, temperature=0.5)
    layer.temperature.fill_(0.3)
    layer.threshold = 0.75
    assert "threshold=0.75" not in repr(bd.HardConcreteDropout(4))
    assert "temperature=0.3, " in repr(layer)


def test_a_copy_shows_what_its_original_does():
    layer = bd.ConcreteDropout(4, init_drop_prob=0.25, per_unit=True)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(twin) == repr(layer) and "init_drop_prob=0.25, per_unit=True" in repr(twin)
        assert torch.equal(twin.keep_prob(), layer.keep_prob())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: bd.BetaBernoulliDropout(3, temprature=1.0),
            "unknown option of BetaBernoulliDropout 'temprature'. Did you mean 'temperature'",
        ),
        (
            lambda: bd.nn.SparseVariational(nn.Linear(3, 2), kl_scal=1.0),
            "unknown option of SparseVariational 'kl_scal'. Did you mean 'kl_scale'",
        ),
        (lambda: bd.BetaBernoulliDropout(3, -3), "BetaBernoulliDropout: too many positional"),
        (lambda: bd.MonteCarloDropout(drop_prob=0.1), "MonteCarloDropout: missing a .* 'num_un"),
    ],
)
def test_a_wrong_argument_is_refused_by_the_class_that_was_called(build, message):
    with pytest.raises(TypeError, match=message):
        build()


def test_make_says_what_a_misspelt_option_may_mean():
    message = "'temprature'. Did you mean 'temperature'"
    with pytest.raises(bd.errors.ConfigError, match=message):
        bd.nn.make("beta-bernoulli", 3, temprature=1.0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(bd.errors.ConfigError, match=message):
        bd.convert(net, "beta-bernoulli", temprature=1.0)
