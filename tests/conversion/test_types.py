"""Forwards that look at the type of a value, or at whether an input is there."""

import pytest
import torch
from torch import nn

import bayesdrop as bd


class Net(nn.Module):
    """Any layer, and one behind what a function makes of its result."""

    def __init__(self, body, function):
        super().__init__()
        self.body, self.last, self.function = body, nn.Linear(8, 3), function

    def forward(self, x):
        return self.last(self.function(self.body, x))


def first_of_tuple(body, x):
    h = body(x)
    if isinstance(h, tuple):
        h = h[0]
    return h


def last_state(body, x):
    _, state = body(x)
    if isinstance(state, tuple):
        state = state[0]
    return state[-1]


def last_state_by_type(body, x):
    _, state = body(x)
    return state[0][-1] if type(state) is tuple else state[-1]


def last_state_that_is_no_tensor(body, x):
    _, state = body(x)
    return (state if torch.is_tensor(state) else state[0])[-1]


def of_attention(body, x):
    h = body(x, x, x)
    return h[0] if isinstance(h, tuple | list) else h


def doubled_if_tensor(body, x):
    first, second = body(x).chunk(2, -1)
    h = torch.cat([2 * p if isinstance(p, torch.Tensor) else p for p in (first, second)], -1)
    size = h.shape[0]
    return h if isinstance(size, torch.Tensor) else h + 1


NETS = {
    "LSTM": (lambda: nn.LSTM(8, 8, batch_first=True), last_state),
    "GRU": (lambda: nn.GRU(8, 8, batch_first=True), last_state),
    "LSTM, its type": (lambda: nn.LSTM(8, 8, batch_first=True), last_state_by_type),
    "LSTM, is_tensor": (lambda: nn.LSTM(8, 8, batch_first=True), last_state_that_is_no_tensor),
    "GRU, is_tensor": (lambda: nn.GRU(8, 8, batch_first=True), last_state_that_is_no_tensor),
    "LSTM among others": (lambda: nn.LSTM(8, 8, batch_first=True), first_of_tuple),
    "Linear among others": (lambda: nn.Linear(8, 8), first_of_tuple),
    "attention": (lambda: nn.MultiheadAttention(8, 2, batch_first=True), of_attention),
    "pieces": (lambda: nn.Linear(8, 8), doubled_if_tensor),
}


@pytest.mark.parametrize("name", NETS)
def test_a_converted_network_takes_the_branch_that_the_network_takes(name):
    body, function = NETS[name]
    net = Net(body(), function).eval()
    masked = bd.convert(net).eval()
    assert isinstance(masked, torch.fx.GraphModule)
    for x in (torch.randn(1, 5, 8), torch.randn(3, 5, 8)):
        torch.testing.assert_close(bd.without_dropout(masked)(x), net(x))
        torch.testing.assert_close(bd.compact(masked, x)(x), masked(x))
    assert "isinstance" not in globals()
    assert "isinstance" not in vars(torch)
