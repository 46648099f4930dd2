"""A prior of one's own whose masks are Bernoulli says four things."""

import pyro.distributions as dist
import torch
from torch import nn

import bayesdrop as bd


class Gates(bd.nn.BernoulliDropout):
    """Log-odds with a normal prior."""

    key, reference = "test-bernoulli-gates", "none"

    def __init__(self, num_units, **options):
        super().__init__(num_units, **options)
        self.loc = nn.Parameter(torch.full((num_units,), 2.0))

    def prior(self):
        return {"eta": dist.Normal(0 * self.loc, 1.0).to_event(1)}

    def posterior(self):
        return {"eta": dist.Normal(self.loc, 0.1).to_event(1)}

    def keep_logits(self, latents, x=None):
        return latents["eta"]

    def keep_prob(self):
        return torch.sigmoid(self.loc)


def test_the_rest_follows():
    layer = Gates(4)
    assert (layer.threshold, layer.kl_scale, layer.unit_dim, layer.batch_dim) == (1e-3, 1.0, -1, 0)
    layer.loc.data[0] = -20.0
    expected = torch.sigmoid(layer.loc)
    expected[0] = 0.0
    torch.testing.assert_close(layer.mean_mask(), expected)
    torch.testing.assert_close(layer.eval()(torch.ones(2, 4)), expected.expand(2, 4))


def test_it_trains_without_a_relaxation_and_with_its_masks_summed_out():
    net = nn.Sequential(Gates(4), nn.Linear(4, 3))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=6)
    data = torch.rand(6, 4), torch.arange(6) % 3
    exact = bd.inference.objectives.DisARM()
    assert bd.fit(bnn, data, epochs=1, objective=exact, progress=False).best_epoch == 1
    assert bd.fit(bnn, data, epochs=1, num_masks="exact", progress=False).best_epoch == 1
    assert bd.compact(bnn, data[0])(data[0]).shape == (6, 3)
