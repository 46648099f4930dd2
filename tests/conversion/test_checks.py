"""A forward that checks its input has a graph all the same, and the graph checks it too.

PYTEST_DONT_REWRITE: forwards have assertions, which are to be those of Python.
"""

import pickle
from contextlib import suppress

import pytest
import torch
from torch import nn

import bayesdrop as bd


class Network(nn.Module):
    """Two convolutions, the hidden channels between which only a graph can mask.

    Args:
        check: What forward does first.
    """

    def __init__(self, check):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 3)
        self.check = check

    def forward(self, x):
        scale = self.check(x) or 1.0
        return scale * self.last(self.first(x).relu()).mean((2, 3))


def asserted(x):
    assert x.shape[1] == 3 and x.dim() == 4, f"got {x.shape}"


def raised(x):
    if x.ndim != 4 or x.shape[1] != 3:
        message = f"got {x.shape}"
        raise ValueError(message)


def denied(x):
    if not (x.size(1) == 3 and x.size(0) > 0):
        raise ValueError


def of_values(x):
    if torch.isnan(x).any() or x.shape[1] % 3:
        raise ValueError


def inside(x):
    raised(x)


def at_last(x):
    try:
        assert x.shape[1] == 3
    finally:
        len("")


@pytest.mark.parametrize("check", [asserted, raised, denied, of_values, inside, at_last])
def test_a_check_is_kept_in_the_graph(check):
    net = bd.convert(Network(check))
    assert net.first_dropout.num_units == 8
    plain, x = bd.conversion.without_dropout(net), torch.randn(2, 3, 7, 6)
    same = Network(check)
    same.load_state_dict(plain.state_dict())
    assert torch.equal(plain(x), same(x))
    for copied in (net, pickle.loads(pickle.dumps(net))):
        with pytest.raises(AssertionError, match="^(if|assert) .*"):
            copied(torch.randn(2, 4, 7, 6))


def test_a_network_that_checks_its_input_becomes_compact():
    net = bd.convert(Network(raised)).eval()
    closed = torch.full((8,), 5.0)
    closed[:3] = 1e-4
    net.first_dropout.set_posterior(closed)
    x = torch.randn(3, 3, 7, 6)
    small = bd.compact(net, x[:2])
    assert small.first.out_channels == 5
    assert torch.allclose(small(x), net(x), rtol=0, atol=1e-12)
    assert torch.equal(pickle.loads(pickle.dumps(small))(x), small(x))


def caught_here(x):
    try:
        if x.shape[2] < 8:
            raise ValueError
    except ValueError:
        return 2.0


def caught_above(x):
    try:
        wide(x)
    except ValueError:
        return 2.0


def wide(x):
    if x.shape[2] < 8:
        raise ValueError


def suppressed(x):
    with suppress(ValueError):
        if x.shape[2] < 8:
            raise ValueError
        return 2.0


def on_both_sides(x):
    if x.shape[2] < 8:
        return 2.0
    elif x.shape[2] > 90:
        raise ValueError


class Rows:
    def __init__(self, x):
        self.x = x

    def __getitem__(self, index):
        if index >= self.x.shape[2]:
            raise IndexError
        return 1.0


def counted(x):
    return sum(Rows(x))


def of_one_of_two(x):
    assert x.shape[1] == 3 or x.shape[2] == 8


@pytest.mark.filterwarnings("ignore::bayesdrop.errors.ConversionWarning")
@pytest.mark.parametrize(
    "check", [caught_here, caught_above, suppressed, on_both_sides, counted, of_one_of_two]
)
def test_where_forward_goes_on_either_way_there_is_no_graph(check):
    net = nn.Sequential(Network(check), nn.Linear(2, 2))
    plain = bd.conversion.without_dropout(bd.convert(net))
    for size in (7, 9):
        x = torch.randn(2, 3, size, 6)
        assert torch.equal(plain(x), net(x))
