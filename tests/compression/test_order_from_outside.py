"""An order of somebody else's: held at a width, cut, swept and measured like ours."""

import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.compression import measure_size, sweep_widths
from bayesdrop.distributions import OrderedMask
from bayesdrop.nn.masks.ordered_units import OrderedUnits
from bayesdrop.nn.masks.unit_mask import UnitMask


class HalvingDropout(OrderedUnits):
    """Each group is kept with probability one half if the one before it is."""

    key = "halving"
    reference = "this test"

    def prior(self):
        return {}

    def posterior(self):
        return {}

    def order_probs(self):
        return torch.full((self.num_ordered,), 0.5)

    def order_prior(self):
        return OrderedMask(self.order_probs())

    def order_posterior(self):
        return self.order_prior()

    def _free_mask(self, latents):
        return UnitMask(self.order_prior(), self.unit_group, self.always_kept)


def network():
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), HalvingDropout(8), nn.Linear(8, 2)).eval()


def test_an_order_from_outside_is_cut_to_a_width():
    net, x = network(), torch.randn(4, 3)
    small = bd.cut_to_width(net, 0.25, x)
    prefix = (torch.arange(8) < 2).to(x)
    with bd.impose_masks(net, {"2": prefix}):
        assert torch.allclose(small(x), net(x), rtol=0, atol=1e-12)
    assert [tuple(m.weight.shape) for m in small.children() if isinstance(m, nn.Linear)] == [
        (2, 3),
        (2, 2),
    ]


def test_an_order_from_outside_is_swept_and_measured():
    bnn = bd.BayesianNetwork(network(), bd.Categorical(), num_data=6)
    data = torch.randn(6, 3), torch.arange(6) % 2
    rows = sweep_widths(bnn, data, [0.5, 1.0], repeats=1).rows
    assert [row.units for row in rows] == [(4,), (8,)]
    assert [row.flops for row in rows] == [2 * 4 * (3 + 2), 2 * 8 * (3 + 2)]
    size = measure_size(bnn, num_samples=20, example_input=data[0], seed=0)
    assert torch.equal(size.params["3"], 2 * size.units["2"].clamp(min=1) + 2)
