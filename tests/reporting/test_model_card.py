import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.reporting.model_card import describe_network, versions


def test_priors_are_named_with_their_numbers():
    net = bd.convert(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), kl_scale=0.5)
    found = describe_network(bd.BayesianNetwork(net, bd.Categorical(), 10))
    assert found.network == "Sequential" and len(found.priors) == 2
    for prior in found.priors.values():
        assert prior.prior == "pi ~ Beta(concentration1=0.0001, concentration0=1)"
        assert prior.kind == "BetaBernoulliDropout" and prior.kl_scale == 0.5
        assert prior.units in (4, 3) and "arxiv.org" in prior.reference


@pytest.mark.parametrize("key", list(bd.nn.registered(bd.BayesianDropout)))
def test_every_prior_can_be_described(key):
    layer = bd.nn.make(key, 4)
    net = nn.Sequential(nn.Linear(4, 4), layer, nn.Linear(4, 2))
    found = describe_network(bd.BayesianNetwork(net, bd.Categorical(), 10)).priors
    assert "1" in found and all(prior.prior for prior in found.values())


def test_a_plain_network_has_no_prior():
    net = nn.Linear(2, 2)
    assert describe_network(bd.BayesianNetwork(net, bd.Categorical(), 10)).priors == {}


def test_versions_name_what_predictions_depend_on():
    assert set(versions()) == {"torch", "pyro", "python"}
    assert versions()["torch"] == torch.__version__
