"""An example of one compacts a network for every batch."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd
from tests.compression.networks import mask


class OwnFilters(nn.Module):
    """Filters of each example's own, in one convolution with a group for each, as in StyleGAN2."""

    def __init__(self):
        super().__init__()
        self.mask, self.style, self.out = mask(6), nn.Linear(6, 4), nn.Linear(8, 3)
        self.start = nn.Parameter(torch.randn(1, 4, 3, 3))
        self.filters = nn.Parameter(torch.randn(1, 8, 4, 3, 3))

    def forward(self, x):
        n = x.shape[0]
        filters = self.filters * self.style(self.mask(x))[:, None, :, None, None]
        h = self.start.expand(n, -1, -1, -1).reshape(1, n * 4, 3, 3)
        h = F.conv2d(h, filters.reshape(n * 8, 4, 3, 3), padding=1, groups=n)
        return self.out(h.reshape(n, 8, 9).mean(-1))


class OfOne(nn.Module):
    """Takes one example only."""

    def __init__(self):
        super().__init__()
        self.first, self.mask, self.last = nn.Linear(4, 6), mask(6), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(self.mask(self.first(x)).view(1, 6))


@pytest.mark.parametrize("number", [1, 2])
def test_filters_of_each_example_are_exact_for_every_batch(number):
    net = OwnFilters().eval()
    small = bd.compact(net, torch.randn(number, 6))
    for rows in (1, 2, 5):
        x = torch.randn(rows, 6)
        torch.testing.assert_close(small(x), net(x))
    assert small.style.in_features == int(net.mask.kept().sum()) < 6


def test_a_network_of_one_example_is_compacted_with_one():
    net, x = OfOne().eval(), torch.randn(1, 4)
    small = bd.compact(net, x)
    torch.testing.assert_close(small(x), net(x))
    assert small.last.in_features == int(net.mask.kept().sum()) < 6


def test_two_inputs_of_one_example_are_taken_together():
    net = bd.convert(Pair(), exclude="words").eval()
    for layer in (net.a_dropout, net.b_dropout):
        layer.set_posterior(torch.tensor([1e-4, 5.0, 5.0, 1e-4]))
    inputs = [(torch.randn(rows, 4), torch.randint(9, (rows, 3))) for rows in (1, 5)]
    small = bd.compact(net, inputs[0])
    for given in inputs:
        torch.testing.assert_close(small(*given), net(*given))


class Pair(nn.Module):
    """Two towers, numbers and words."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(9, 4)
        self.a, self.b = nn.Linear(4, 5), nn.Linear(4, 5)

    def forward(self, x, words):
        return self.a(x) @ self.b(self.words(words).mean(1)).t()
