"""Forwards that look at the type of a value, or at whether an input is there."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import bayesdrop as bd
from bayesdrop.nn import named_dropout_layers


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


def without_weights(body, x):
    h, weights = body(x, x, x, need_weights=False)
    return h if weights is None else F.relu(h)


def doubled_if_tensor(body, x):
    first, second = body(x).chunk(2, -1)
    h = torch.cat([2 * p if isinstance(p, torch.Tensor) else p for p in (first, second)], -1)
    size = h.shape[0]
    return h if isinstance(size, torch.Tensor) else h + 1


def less_the_largest(body, x):
    h = body(x)
    largest = torch.max(h, -1, keepdim=True)
    values, _ = h.sort(-1)
    values = values if torch.is_tensor(values) else h
    larger = torch.max(h, values)
    larger = larger if torch.is_tensor(larger) else h
    return larger - largest[0] if isinstance(largest, tuple) else h


NETS = {
    "LSTM": (lambda: nn.LSTM(8, 8, batch_first=True), last_state),
    "GRU": (lambda: nn.GRU(8, 8, batch_first=True), last_state),
    "LSTM, its type": (lambda: nn.LSTM(8, 8, batch_first=True), last_state_by_type),
    "LSTM, is_tensor": (lambda: nn.LSTM(8, 8, batch_first=True), last_state_that_is_no_tensor),
    "GRU, is_tensor": (lambda: nn.GRU(8, 8, batch_first=True), last_state_that_is_no_tensor),
    "LSTM among others": (lambda: nn.LSTM(8, 8, batch_first=True), first_of_tuple),
    "Linear among others": (lambda: nn.Linear(8, 8), first_of_tuple),
    "attention": (lambda: nn.MultiheadAttention(8, 2, batch_first=True), of_attention),
    "attention, its weights": (
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        without_weights,
    ),
    "pieces": (lambda: nn.Linear(8, 8), doubled_if_tensor),
    "named tuples": (lambda: nn.Linear(8, 8), less_the_largest),
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


def listed(body, x):
    pieces = list(body(x).chunk(2, -1))
    pieces.append(F.relu(pieces[-1]))
    return torch.cat(pieces[1:3], -1)


def listed_by_sizes(body, x):
    return torch.cat([s * (n + 1) for n, s in enumerate(torch.split(body(x), [3, 5], dim=-1))], -1)


@pytest.mark.parametrize("function", [listed, listed_by_sizes])
def test_pieces_of_a_known_number_can_be_gone_through(function):
    net = Net(nn.Linear(8, 8), function).eval()
    masked = bd.convert(net).eval()
    assert isinstance(masked, torch.fx.GraphModule)
    x = torch.randn(3, 8)
    torch.testing.assert_close(bd.without_dropout(masked)(x), net(x))
    torch.testing.assert_close(bd.compact(masked, x)(x), masked(x))


def padded(y):
    if isinstance(y, PackedSequence):
        y = pad_packed_sequence(y, batch_first=True)
    return y[0] if isinstance(y, tuple) else y


def padded_unless_a_tensor(y):
    return 2 * y if torch.is_tensor(y) else pad_packed_sequence(y, batch_first=True)[0]


class Packing(nn.Module):
    """Recurrent layers on packed sequences, and a function that looks at what they return."""

    def __init__(self, function):
        super().__init__()
        self.one, self.two = nn.LSTM(6, 8, batch_first=True), nn.GRU(8, 8, batch_first=True)
        self.last, self.function = nn.Linear(8, 3), function

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True)
        y, (state, _) = self.one(packed)
        total = y[0].sum(0) if torch.is_tensor(y[0]) else 0.0
        y, other = self.two(y if isinstance(packed, tuple) else x)
        other = 2 * other if torch.is_tensor(other) else other
        return self.last(self.function(y).sum(1) + state[-1] + other[-1] + total)


@pytest.mark.parametrize("function", [padded, padded_unless_a_tensor])
def test_what_a_recurrent_layer_makes_of_a_packed_sequence_is_one(function):
    net = Packing(function).eval()
    masked = bd.convert(net).eval()
    assert isinstance(masked, torch.fx.GraphModule)
    inputs = torch.randn(3, 5, 6), torch.tensor([5, 3, 2])
    torch.testing.assert_close(bd.without_dropout(masked)(*inputs), net(*inputs))
    torch.testing.assert_close(bd.compact(masked, inputs)(*inputs), masked(*inputs))


class Optional(nn.Module):
    """Asks whether its second input is there."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x, weight=None):
        h = F.relu(self.first(x))
        if weight is not None:
            h = h * weight
        return self.last(h)


class Default(Optional):
    """Makes one itself."""

    def forward(self, x, weight=None):
        if weight is None:
            weight = torch.ones(8).to(x)
        return self.last(F.relu(self.first(x)) * weight)


class Labels(Optional):
    """Returns its loss, too, if it is given labels, as models of Hugging Face do."""

    def forward(self, x, *, labels=None):
        logits = self.last(F.relu(self.first(x)))
        return logits if labels is None else (F.cross_entropy(logits, labels), logits)


@pytest.mark.parametrize("cls", [Optional, Default, Labels])
def test_an_input_that_may_be_none_may_be_after_conversion(cls):
    net = cls().eval()
    masked = bd.convert(net).eval()
    assert len(list(named_dropout_layers(masked))) == 2
    plain = bd.without_dropout(masked)
    x = torch.randn(4, 6)
    torch.testing.assert_close(plain(x), net(x))
    small = bd.compact(masked, x)
    torch.testing.assert_close(small(x), masked(x))
    if cls is Labels:
        y = torch.tensor([0, 1, 2, 0])
        torch.testing.assert_close(plain(x, labels=y), net(x, labels=y))
        return
    weight = torch.rand(4, 8)
    torch.testing.assert_close(plain(x, weight), net(x, weight))
    torch.testing.assert_close(small(x, weight), masked(x, weight))


class Handed(Optional):
    """Hands its second input on, whatever it is."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x, mask=None, unused=None):
        h = F.relu(self.first(x)) + torch.tensor([0.5])
        return self.last(self.attention(h, h, h, key_padding_mask=mask)[0])


def test_an_input_that_is_handed_on_needs_no_other_class():
    net = Handed().eval()
    masked = bd.convert(net).eval()
    assert isinstance(masked, torch.fx.GraphModule)
    x = torch.randn(2, 4, 6)
    mask = torch.tensor([[False] * 4, [False, False, True, True]])
    plain = bd.without_dropout(masked)
    torch.testing.assert_close(plain(x), net(x))
    torch.testing.assert_close(plain(x, mask=mask), net(x, mask=mask))


class Weighting(nn.Module):
    """Asks whether there are weights."""

    def forward(self, h, weight):
        return h if weight is None else h * weight


class Required(Optional):
    """Hands an input that has no default to a part that asks whether it is there."""

    def __init__(self):
        super().__init__()
        self.weighting = Weighting()

    def forward(self, x, weight):
        return self.last(self.weighting(F.relu(self.first(x)), weight))


class Typed(Required):
    """Says so by a type alone."""

    def forward(self, x, of: torch.Tensor | None):
        return super().forward(x, of)


class Compared(Required):
    """Never asks."""

    def forward(self, x, weight):
        return self.last(F.relu(self.first(x)).masked_fill(weight < 0.5, 0))


@pytest.mark.parametrize("cls", [Required, Typed])
def test_an_input_without_a_default_may_be_none_after_conversion(cls):
    net = cls().eval()
    plain = bd.without_dropout(bd.convert(net).eval())
    x = torch.randn(4, 6)
    for weight in (None, torch.rand(4, 8)):
        torch.testing.assert_close(plain(x, weight), net(x, weight))


def test_an_input_that_nobody_asks_about_keeps_the_graph():
    assert isinstance(bd.convert(Compared()), torch.fx.GraphModule)
