"""What owners of latents declare: what is kept, what is scheduled, what a prior depends on."""

import math

import pyro.poutine as poutine
import pytest
import torch
from pyro.distributions import Delta
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import bayesdrop as bd
from bayesdrop.distributions import Normal
from bayesdrop.nn import ConditionalOwner, LatentOwner, named_owners, named_shared
from bayesdrop.testing import assert_mean_close


def mixed():
    return nn.Sequential(
        bd.BetaBernoulliDropout(4),
        bd.nn.SparseVariational(nn.Linear(4, 3)),
        nn.Tanh(),
        bd.IndianBuffetDropout(3),
        nn.Linear(3, 2),
    )


def test_what_is_kept_is_counted_by_what_a_unit_is_called():
    net = mixed()
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=20)
    assert bnn.total() == {"units": [4, 3], "weights": [12]}
    with torch.no_grad():
        net[0].set_posterior(torch.tensor([1e-4, 1e-4, 1e-4, 5.0]))
        net[1].log_variance[0] = 9.0
    assert bnn.kept() == {"units": [1, 3], "weights": [8]}
    assert bnn.units() == [1, 3] and bnn.units_total() == [4, 3]
    plain = bd.BayesianNetwork(nn.Linear(2, 2), bd.Categorical(), num_data=20)
    assert plain.kept() == plain.total() == {}


@pytest.mark.parametrize("key", list(bd.nn.layers))
def test_a_layer_declares_what_it_keeps_and_what_may_be_scheduled(key):
    is_mask = issubclass(bd.nn.layers[key], bd.BayesianDropout)
    layer = bd.nn.make(key, 4 if is_mask else nn.Linear(2, 2))
    assert layer.unit_word == ("units" if is_mask else "weights")
    kept = layer.kept()
    assert kept.dtype == torch.bool and kept.numel() == layer.total() == 4
    buffers = dict(layer.named_buffers(recurse=False))
    assert {name for name in buffers if name == "temperature"} <= set(layer.schedulable)
    assert all(buffers[name].is_floating_point() for name in layer.schedulable)


def test_what_layers_share_is_not_counted():
    sticks = bd.nn.IndianBuffetSticks(4)
    net = nn.Sequential(*(bd.HierarchicalIndianBuffetDropout(4, sticks=sticks) for _ in range(2)))
    assert [owner for _, owner in named_shared(net)] == [sticks]
    assert bd.BayesianNetwork(net, bd.Categorical(), num_data=9).total() == {"units": [4, 4]}


# -- owners from outside the package --------------------------------------------------------------


class Centre(LatentOwner):
    """The mean of several layers' log-scales."""

    unit_word = "centres"
    kl_scale = 1.0

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.3))

    def prior(self):
        return {"mean": Normal(torch.zeros(()), torch.ones(()))}

    def posterior(self):
        return {"mean": Normal(self.loc, torch.tensor(0.5))}

    def kept(self):
        return torch.ones(1, dtype=torch.bool)


class Scaled(ConditionalOwner, bd.BayesianDropout):
    """A factor exp(s) for each unit, whose prior has a mean that layers share."""

    key, reference, mask_kind = "scaled-from-outside", "", "noise"

    def __init__(self, num_units, centre, **options):
        super().__init__(num_units, **options)
        self.centre = centre
        self.loc = nn.Parameter(torch.linspace(-0.5, 0.5, num_units))

    @property
    def parent(self):
        return self.centre

    def prior_given(self, latents):
        mean = latents["mean"][..., None].expand(*latents["mean"].shape, self.num_units)
        return {"log_scale": Normal(mean, torch.ones_like(mean)).to_event(1)}

    def posterior(self):
        return {"log_scale": Normal(self.loc, torch.full_like(self.loc, 0.2)).to_event(1)}

    def mask_distribution(self, latents, x=None):
        return Delta(latents["log_scale"].exp(), event_dim=1)

    def keep_prob(self):
        return torch.ones(self.num_units)

    def mean_mask(self, x=None):
        return (self.loc + 0.02).exp()


def test_a_conditional_prior_from_outside_is_in_the_model_once():
    centre = Centre()
    net = nn.Sequential(Scaled(3, centre), nn.Linear(3, 4), nn.Tanh(), Scaled(4, centre))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=20)
    assert [path for path, _ in named_owners(net)] == ["0.centre", "0", "3"]
    x, y = torch.randn(5, 3), torch.randint(4, (5,))
    nodes = poutine.trace(bnn.model).get_trace(x, y).nodes
    sites = [name for name, node in nodes.items() if node["type"] == "sample"]
    assert [name for name in sites if name.endswith(("mean", "scale"))] == [
        "0.centre.mean",
        "0.log_scale",
        "3.log_scale",
    ]
    # KL(N(m, s) || N(c, 1)) and its mean over c, whose posterior is N(0.3, 0.5).
    law = 0.5 * (0.2**2 - 1) - math.log(0.2) + 0.5 * 0.5**2
    layers = sum((law + 0.5 * (net[i].loc.detach() - 0.3) ** 2).sum() for i in (0, 3))
    shared = 0.5 * (0.5**2 + 0.3**2 - 1) - math.log(0.5)
    drawn = torch.stack([bd.kl_divergence(net).detach() for _ in range(1500)])
    assert_mean_close(drawn, shared + layers)
    losses = [
        torch.tensor([elbo().loss(bnn.model, bnn.guide, x, y) for _ in range(100)])
        for elbo in (Trace_ELBO, TraceMeanField_ELBO)
    ]
    assert_mean_close(losses[0] - losses[1], 0.0)
    vectorised = TraceMeanField_ELBO(num_particles=7, vectorize_particles=True)
    assert math.isfinite(vectorised.loss(bnn.model, bnn.guide, x, y))


def test_a_bernoulli_mask_from_outside_switches_the_features_of_a_code():
    class Fixed(bd.nn.BernoulliDropout):
        key, reference = "fixed-from-outside", ""

        def prior(self):
            return {}

        posterior = prior

        def keep_logits(self, latents, x=None):
            return torch.full((self.num_units,), math.log(3.0))

        def keep_prob(self):
            return torch.full((self.num_units,), 0.75)

        def mean_mask(self, x=None):
            return self.keep_prob()

    options = {"unit_dim": -1, "batch_dim": 0, "threshold": 0.0, "kl_scale": 1.0}
    mask = Fixed(2, temperature=0.3, relaxation="concrete", **options)
    vae = bd.VariationalAutoencoder(
        nn.Linear(8, 6), nn.Linear(2, 8), bd.Bernoulli(), num_data=100, latent_dropout=mask
    )
    assert torch.equal(vae.keep_prob(), mask.keep_prob())
    assert bool(vae.loss(torch.zeros(5, 8)).loss.isfinite())
    vae.eval()
    prior = vae.code.prior({})["mask.z"].base_dist
    torch.testing.assert_close(prior.probs, mask.keep_prob())
