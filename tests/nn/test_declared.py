"""What a layer that somebody writes says wrongly is said where it is first used."""

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import nn
from torch.distributions import kl

import bayesdrop as bd
from bayesdrop.errors import ConfigError, ShapeError, UnregisteredKLError


class Gates(bd.BayesianDropout):
    """Log-odds with a normal prior, right in everything."""

    key, reference = "test-gates", "none"

    def __init__(self, num_units):
        super().__init__(num_units)
        self.loc = nn.Parameter(torch.full((num_units,), 2.0))

    def prior(self):
        return {"eta": dist.Normal(0 * self.loc, 1.0).to_event(1)}

    def posterior(self):
        return {"eta": dist.Normal(self.loc, 0.1).to_event(1)}

    def mask_distribution(self, latents, x=None):
        law = bd.distributions.BinaryConcrete(0.1, logits=latents["eta"])
        return law.to_event(1)

    def keep_prob(self):
        return torch.sigmoid(self.loc)

    def mean_mask(self, x=None):
        return self.keep_prob()


class OtherKeys(Gates):
    def prior(self):
        return {"theta": dist.Normal(0 * self.loc, 1.0).to_event(1)}


class BatchOfLatents(Gates):
    def prior(self):
        return {"eta": dist.Normal(0 * self.loc, 1.0)}

    def posterior(self):
        return {"eta": dist.Normal(self.loc, 0.1)}


class PriorOfOne(Gates):
    def prior(self):
        return {"eta": dist.Normal(0.0, 1.0)}


class NoDivergence(Gates):
    def prior(self):
        return {"eta": dist.StudentT(3.0, 0 * self.loc, 1.0).to_event(1)}


class BatchOfGates(Gates):
    def mask_distribution(self, latents, x=None):
        return bd.distributions.BinaryConcrete(0.1, logits=latents["eta"])


def program(cls):
    net = nn.Sequential(cls(4), nn.Linear(4, 3))
    return (
        bd.BayesianNetwork(net, bd.Categorical(), num_data=6),
        torch.rand(6, 4),
        torch.arange(6) % 3,
    )


@pytest.mark.parametrize(
    ("cls", "error", "message"),
    [
        (OtherKeys, ConfigError, r"OtherKeys '0': expected the same latents .* \['theta'\] and"),
        (BatchOfLatents, ShapeError, r"BatchOfLatents '0': .*'eta'.*batch shapes \(4,\) and \(4"),
        (PriorOfOne, ShapeError, r"PriorOfOne '0': .* got event shapes \(\) and \(4,\)"),
        (NoDivergence, UnregisteredKLError, r"'eta', got none for \(Normal, StudentT\)"),
        (
            BatchOfGates,
            ShapeError,
            r"BatchOfGates '0': .* event shape \(4,\), got event shape \(\)",
        ),
    ],
)
def test_a_mistake_has_an_error_of_its_own(cls, error, message):
    bnn, x, y = program(cls)
    bnn.train()
    with pytest.raises(error, match=message):
        bnn.loss(x, y)
    with pytest.raises(error, match=message):
        bd.fit(bnn, (x, y), epochs=1, progress=False)


def test_units_that_are_no_event_are_refused_in_every_pass():
    # One mask was drawn for all examples, without a word.
    bnn, x, y = program(BatchOfGates)
    message = r"Units are one event: add .to_event\(1\)"
    with pytest.raises(ShapeError, match=message):
        bnn.train().network(x)
    with pytest.raises(ShapeError, match=message):
        bd.predict(bnn, x, num_samples=2)
    with pytest.raises(ShapeError, match=message):
        SVI(bnn.train().model, bnn.guide, Adam({}), Trace_ELBO()).step(x, y)


def test_what_is_right_trains():
    bnn, x, y = program(Gates)
    assert bd.fit(bnn, (x, y), epochs=1, progress=False).best_epoch == 1


def test_a_divergence_that_is_registered_as_advised_is_used(monkeypatch):
    class Own(Gates):
        def posterior(self):
            return {"eta": dist.StudentT(5.0, self.loc, 0.1).to_event(1)}

    bnn, x, y = program(Own)
    with pytest.raises(UnregisteredKLError, match=r"register_kl\(StudentT, Normal\); SVI with"):
        bnn.loss(x, y)
    SVI(bnn.train().model, bnn.guide, Adam({}), Trace_ELBO()).step(x, y)

    monkeypatch.setattr(kl, "_KL_REGISTRY", dict(kl._KL_REGISTRY))
    monkeypatch.setattr(kl, "_KL_MEMOIZE", {})

    @torch.distributions.register_kl(dist.StudentT, dist.Normal)
    def _(q, p):
        return q.loc - p.loc

    assert torch.equal(bnn.loss(x, y).kl, bnn.network[0].loc.sum())
