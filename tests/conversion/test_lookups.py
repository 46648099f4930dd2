"""Forwards that look values up, count in containers, or read weights in other ways."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd


class Net(nn.Module):
    """Two layers and a function of them."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b, self.kept = nn.Linear(6, 8), nn.Linear(8, 3), {"calls": 0}
        self.function = function

    def forward(self, x):
        return self.b(self.function(self, self.a(x), x))


def by_a_set(net, h, x):
    return F.relu(h) if x.dim() in {2, 3} else h


def by_a_table(net, h, x):
    return h * {6: 2.0}.get(x.shape[1], 1.0)


def counted(net, h, x):
    net.kept["calls"] += 1
    return F.relu(h) * net.kept["calls"]


def with_all_weights(net, h, x):
    return h * sum(p.pow(2).sum() for p in net.parameters())


@pytest.mark.parametrize("function", [by_a_set, by_a_table, counted, with_all_weights])
def test_what_a_graph_would_fix_stays_the_forward_s_own(function):
    net = Net(function).eval()
    bare = bd.without_dropout(bd.convert(net))
    for _ in range(2):
        x = torch.randn(3, 6)
        torch.testing.assert_close(bare(x), net(x))
        for one in (net, bare):
            nn.init.ones_(one.a.weight)
