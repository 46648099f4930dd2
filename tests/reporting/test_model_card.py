import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.inference.privacy import Privacy
from bayesdrop.reporting.build import build_report
from bayesdrop.reporting.model_card import describe_network, versions
from bayesdrop.reporting.report_pages import report_document


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


def test_a_promise_of_privacy_is_in_the_report_and_hides_the_training_losses():
    bnn = bd.BayesianNetwork(nn.Linear(2, 2), bd.Categorical(), 10)
    bnn.privacy = Privacy(3.0, 1e-5, 3.0, 3.5, 1.0, 1.5, 0.1, 60, True)
    test = torch.randn(20, 2), torch.arange(20) % 2
    history = {"plain": [{"epoch": 1, "loss": 1.0, "seconds": 0.0}]}
    found = build_report(bnn.eval(), None, test, num_samples=2, history=history)
    assert found.to_dict()["privacy"]["epsilon"] == 3.0
    page = report_document(found).to_markdown()
    assert "(3.00, 1e-05)-differential privacy" in page
    assert "history.png" not in page


def test_versions_name_what_predictions_depend_on():
    assert set(versions()) == {"torch", "pyro", "python"}
    assert versions()["torch"] == torch.__version__
