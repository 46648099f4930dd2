"""A law of random weights that somebody writes in one file, as ``BayesianWeights`` says how."""

import copy

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.distributions import Normal
from bayesdrop.errors import ConfigError
from bayesdrop.nn import BayesianWeights, layers


class MeanField(BayesianWeights):
    """Normal weights under a standard normal prior (Blundell et al., 2015)."""

    key, reference = "mean-field", "Blundell et al. (2015), https://arxiv.org/abs/1505.05424"

    def __init__(self, layer, *, init_scale=0.05, **options):
        super().__init__(layer, **options)
        self.log_scale = nn.Parameter(torch.full_like(self.weight, init_scale).log())

    def posterior(self):
        return {"weight": Normal(self.weight, self.log_scale.exp()).to_event()}

    def prior(self):
        zeros = torch.zeros_like(self.weight)
        return {"weight": Normal(zeros, zeros + 1).to_event()}

    def weight_moments(self):
        return self.weight, (2 * self.log_scale).exp()

    def kept(self):
        return self.weight.abs() > 0.05 * self.log_scale.exp()


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(layers, "_entries", dict(layers))
    assert bd.nn.register(MeanField) is MeanField


def test_it_goes_from_convert_to_a_compact_network_and_arviz():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3))
    x = torch.randn(60, 2, 6)
    y = x[:, 0, :3].argmax(-1)
    bnn = bd.BayesianNetwork(bd.convert(net, "mean-field"), bd.Categorical(), num_data=60)
    bd.fit(bnn, (x, y), epochs=60, batch_size=20, learning_rate=1e-2, progress=False)
    assert bnn.kept()["weights"] <= bnn.total()["weights"] == [24, 48]
    prediction = bd.predict(bnn, x, num_samples=20)
    assert float((prediction.mean.argmax(-1) == y).double().mean()) > 0.8
    assert float(prediction.mutual_information.min()) > 0.0
    torch.testing.assert_close(bd.compact(bnn, x)(x), bnn.eval()(x))
    assert bd.check_elbo(copy.deepcopy(bnn), x, y, num_samples=2000, num_repeats=20).passed
    pytest.importorskip("arviz")
    idata = bd.to_inference_data(bnn, x, y, num_samples=5, seed=0)
    assert idata.posterior["0.weight"].shape == (1, 5, 4, 2, 3)


def test_its_key_and_options_are_checked():
    assert bd.nn.make("mean-field", nn.Linear(3, 2), init_scale=0.2).log_scale.shape == (2, 3)
    assert bd.nn.make("mean-field", nn.Linear(3, 2), noise="weights").draws_as_model
    with pytest.raises(ConfigError, match="Did you mean 'init_scale'\\? Available: init"):
        bd.nn.make("mean-field", nn.Linear(3, 2), init_scal=0.2)

    class Twin(MeanField):
        pass

    with pytest.raises(ConfigError, match="expected a new name, got 'mean-field'"):
        bd.nn.register(Twin)
