"""compact cuts units of recurrent layers that neither state nor outputs need, exactly."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import bayesdrop as bd
from bayesdrop.errors import CompactionError

KINDS = pytest.mark.parametrize("kind", ["LSTM", "GRU"])
MASKED = {"LSTM": bd.nn.DropoutLSTM, "GRU": bd.nn.DropoutGRU}
KEY = "beta-bernoulli"


def close(mask, units):
    """Prune units of a mask; what it leaves is kept with probabilities in (0, 1)."""
    a = torch.linspace(2.0, 6.0, mask.num_units)
    a[units] = 1e-4
    mask.set_posterior(a)


class Tagger(nn.Module):
    """A recurrent layer, and a Linear on what one of several ways reads of it."""

    def __init__(self, recurrent, way, linear_dropout=None):
        super().__init__()
        self.recurrent, self.way = recurrent, way
        width = recurrent.hidden_size * (2 if recurrent.bidirectional else 1)
        self.dropout = linear_dropout or nn.Identity()
        self.head = nn.Linear(recurrent.hidden_size if "state" in way else width, 2)

    def forward(self, x):
        output, state = self.recurrent(x)
        state = state[0] if self.recurrent.mode == "LSTM" else state
        if self.way == "last":
            output = output[:, -1]
        elif self.way == "mean":
            output = output.mean(1)
        elif self.way == "state":
            output = state[-1]
        elif self.way == "state, squeezed":
            output = state.squeeze(0)
        elif self.way == "first state":
            output = state[0]
        elif self.way == "state before":
            output = state[-2]
        elif self.way == "all states":
            output = state.sum(0)
        return self.head(self.dropout(output))


def tagger(kind, way, **options):
    """Return a network of 8 units, of which masks of state and of the Linear close some."""
    layer = MASKED[kind](5, 8, batch_first=True, **options)
    directions = 2 if options.get("bidirectional") else 1
    width = 8 if "state" in way else 8 * directions
    net = Tagger(layer, way, bd.BetaBernoulliDropout(width)).eval()
    for place in layer.mask_sizes():
        mask = getattr(layer, place)
        if mask is not None and layer.tied:
            if place.startswith("state"):
                close(mask, [1, 4, 6])
            else:
                close(mask, [unit for unit in range(mask.num_units) if unit % 8 in (1, 4)])
    close(net.dropout, [unit for unit in range(width) if unit % 8 in (1, 4, 7)])
    return net


def assert_exact(net, x):
    small = bd.compact(net, x)
    torch.testing.assert_close(small(x), net(x), rtol=1e-9, atol=1e-9)
    assert not any(type(module).__module__.startswith("bayesdrop") for module in small.modules())
    more = torch.randn(3, 9, 5)
    torch.testing.assert_close(small(more), net(more), rtol=1e-9, atol=1e-9)
    return small


@KINDS
@pytest.mark.parametrize("way", ["last", "mean", "sequence", "state", "state, squeezed"])
def test_units_dead_in_state_and_output_go_from_all_gates(kind, way):
    """Units 1 and 4 are closed in both; 6 in the state alone, 7 in the output alone."""
    net = tagger(kind, way)
    small = assert_exact(net, torch.randn(2, 7, 5))
    layer = small.get_submodule("recurrent")
    assert type(layer) is getattr(nn, kind)
    assert (layer.input_size, layer.hidden_size) == (3, 6)
    assert small.get_submodule("head").in_features <= 6
    flops = bd.compression.count_flops
    assert flops(small, torch.randn(2, 7, 5)) < flops(
        bd.without_dropout(net), torch.randn(2, 7, 5)
    )


@KINDS
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("way", ["last", "state", "first state", "all states"])
def test_layers_and_directions_are_cut_as_far_as_their_states_are_not_read(
    kind, bidirectional, way
):
    net = tagger(kind, way, num_layers=2, bidirectional=bidirectional)
    small = assert_exact(net, torch.randn(2, 7, 5))
    sizes = [m.hidden_size for m in small.modules() if isinstance(m, nn.RNNBase)]
    assert max(sizes) == (8 if way == "all states" else 6)


@KINDS
def test_layers_of_different_sizes_become_layers_of_their_own(kind):
    net = tagger(kind, "last", num_layers=2)
    close(net.recurrent.state_dropout_l0, [0, 1, 2, 3, 4])
    close(net.recurrent.input_dropout_l1, [0, 1, 2, 3, 4])
    small = assert_exact(net, torch.randn(2, 7, 5))
    first, second = small.get_submodule("recurrent.l0"), small.get_submodule("recurrent.l1")
    assert (first.hidden_size, second.input_size, second.hidden_size) == (3, 3, 6)
    net.way = "state before"  # counted from the end it is the first layer's
    assert assert_exact(net, torch.randn(2, 7, 5)).get_submodule("recurrent").num_layers == 2


@KINDS
def test_masks_of_gates_and_of_outputs_are_folded_in(kind):
    layer = MASKED[kind](5, 8, batch_first=True, tied=False, output_dropout=KEY)
    net = Tagger(layer, "last").eval()
    close(layer.output_dropout, [0, 2])
    gates = layer.num_gates
    close(layer.state_dropout_l0, [8 * gate + unit for gate in range(gates) for unit in (0, 3)])
    close(layer.input_dropout_l0, [5 * gate + 1 for gate in range(gates)] + [2])
    small = assert_exact(net, torch.randn(2, 7, 5))
    assert small.get_submodule("recurrent").hidden_size == 7
    assert small.get_submodule("recurrent").input_size == 4


class Packer(nn.Module):
    """A packed recurrent layer with masks of words and outputs, and a Linear on the steps."""

    def __init__(self, kind, long):
        super().__init__()
        self.embed = bd.nn.DropoutEmbedding(9, 5)
        self.recurrent = MASKED[kind](5, 8, batch_first=True, output_dropout=KEY)
        self.head = nn.Linear(8, 2)
        self.long = long

    def forward(self, words, lengths):
        x = self.embed(words)
        if self.long:
            x = nn.utils.rnn.pack_padded_sequence(x, lengths, True, enforce_sorted=False)
        else:
            x = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        output, _ = self.recurrent(x)
        output, sizes = pad_packed_sequence(output, batch_first=True)
        return self.head(output).sum(1) / sizes[:, None]


@KINDS
@pytest.mark.parametrize("long", [False, True])
def test_packed_sequences_are_traced_and_cut(kind, long):
    net = Packer(kind, long).eval()
    close(net.embed.word_dropout, [3, 4])
    close(net.recurrent.input_dropout_l0, [1])
    close(net.recurrent.state_dropout_l0, [1, 4])
    close(net.recurrent.output_dropout, [1, 4, 5])
    words, lengths = torch.randint(9, (4, 6)), torch.tensor([2, 6, 5, 1])
    small = bd.compact(net, (words, lengths))
    torch.testing.assert_close(small(words, lengths), net(words, lengths))
    assert not any(type(module).__module__.startswith("bayesdrop") for module in small.modules())
    assert (small.embed.weight[[3, 4]] == 0).all()
    assert small.embed.embedding_dim == small.recurrent.input_size == 4
    assert small.recurrent.hidden_size == 6
    again = words[:2], lengths[:2]
    torch.testing.assert_close(small(*again), net(*again))


class Whole(nn.Module):
    """A layer whose result is handed on as it is, or that starts from given states."""

    def __init__(self, layer, given):
        super().__init__()
        self.layer, self.given = layer, given

    def forward(self, x):
        if self.given:
            state = x[:1, :, :1].expand(1, x.shape[1], 8)
            state = (state, state) if self.layer.mode == "LSTM" else state
            return self.layer(x, state)[0]
        return self.layer(x)


@KINDS
@pytest.mark.parametrize("given", [False, True])
def test_a_layer_whose_states_come_from_outside_or_go_there_keeps_its_units(kind, given):
    net = Whole(MASKED[kind](5, 8, output_dropout=KEY), given).eval()
    for place in ("state_dropout_l0", "output_dropout"):
        close(getattr(net.layer, place), [1, 4])
    x = torch.randn(6, 3, 5)
    small = bd.compact(net, x)
    torch.testing.assert_close(small(x), net(x))
    assert small.layer.hidden_size == 8


def test_a_layer_that_is_called_twice_keeps_its_units():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = bd.nn.DropoutGRU(8, 8, batch_first=True)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            x, _ = self.layer(x)
            x, _ = self.layer(x)
            return self.head(x[:, -1])

    net = Twice().eval()
    close(net.layer.state_dropout_l0, [1, 4])
    x = torch.randn(2, 7, 8)
    small = bd.compact(net, x)
    torch.testing.assert_close(small(x), net(x))
    assert small.layer.hidden_size == 8


@KINDS
def test_a_plain_layer_loses_inputs_that_are_closed(kind):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.gate = nn.Linear(5, 6), bd.BetaBernoulliDropout(6)
            self.layer = getattr(nn, kind)(6, 8, batch_first=True)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            output, _ = self.layer(self.gate(self.first(x)))
            return self.head(output[:, -1])

    net = Net().eval()
    close(net.gate, [0, 5])
    small = assert_exact(net, torch.randn(2, 7, 5))
    assert small.first.out_features == small.layer.input_size == 4


@KINDS
def test_a_posterior_is_kept_with_all_units_of_the_layer(kind):
    net = tagger(kind, "last")
    x = torch.randn(2, 7, 5)
    small = bd.compact(net, x, keep_posterior=True)
    torch.testing.assert_close(small(x), net(x))
    assert type(small.recurrent) is MASKED[kind]
    assert small.head.in_features == 5


class Searcher(Packer):
    """Control flow that looks at the data, which torch.fx cannot trace."""

    def forward(self, words, lengths):
        words = words.flip(1) if words.float().mean() > 4 else words
        return super().forward(words, lengths)


@KINDS
def test_without_a_graph_mean_masks_go_into_the_weights_of_whole_layers(kind):
    net = Searcher(kind, long=False).eval()
    inputs = torch.randint(9, (4, 6)), torch.tensor([2, 6, 5, 1])
    with pytest.raises(CompactionError, match=f"'recurrent', a Dropout{kind} in a part"):
        bd.compact(net, inputs)
    net.recurrent.put_mask("output_dropout", None)
    close(net.embed.word_dropout, [3, 4])
    close(net.recurrent.state_dropout_l0, [1, 4])
    small = bd.compact(net, inputs)
    torch.testing.assert_close(small(*inputs), net(*inputs))
    assert type(small.recurrent) is getattr(nn, kind)
    assert type(small.embed) is nn.Embedding
    with pytest.raises(CompactionError, match=f"got a Dropout{kind} alone. Its with_mean_masks"):
        bd.compact(net.recurrent, torch.randn(2, 7, 5))


@KINDS
def test_members_of_the_posterior_are_one_plain_network(kind):
    net, words = Packer(kind, long=False).eval(), torch.randint(9, (4, 6))
    close(net.recurrent.output_dropout, [1, 4])
    lengths = torch.tensor([2, 6, 5, 1])
    members = bd.compact(net, (words, lengths), members=3, seed=0)
    outputs = members(words, lengths)
    assert outputs.shape == (3, 4, 2)
    assert not torch.allclose(outputs[0], outputs[1])


@KINDS
def test_the_posterior_of_the_size_knows_what_is_cut(kind):
    net = tagger(kind, "last")
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=20)
    x = torch.randn(2, 7, 5)
    size = bd.compression.measure_size(bnn, example_input=x, num_samples=20)
    for quantity in ("params", "flops"):
        full = size.full[quantity]["recurrent"]
        assert (size.params["recurrent"] > 0).all()
        assert (getattr(size, quantity)["recurrent"] < full).all()
    plain = bd.without_dropout(net)
    assert sum(size.full["params"].values()) == bd.compression.count_params(plain)


@KINDS
def test_the_compact_network_is_exported(kind, tmp_path):
    small = bd.compact(tagger(kind, "last").float(), torch.randn(2, 3, 5, dtype=torch.float32))
    x = torch.randn(4, 3, 5, dtype=torch.float32)  # an exporter writes down each of the steps
    for name in ("export", "onnx"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bd.save_plain(small, tmp_path / name, x, format=name)
        again = bd.load_plain(tmp_path / name)
        torch.testing.assert_close(again(x), small(x), rtol=1e-4, atol=1e-5)


@KINDS
def test_recurrent_layers_in_a_list_are_cut_after_conversion(kind):
    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            layer = getattr(nn, kind)
            self.layers = nn.ModuleList([layer(5, 8, batch_first=True), layer(8, 8)])
            self.layers[1].batch_first = True
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            for layer in self.layers:
                x, _ = layer(x)
            return self.head(x)

    net = bd.convert(Stack()).eval()
    for _, mask in bd.nn.named_dropout_layers(net):
        close(mask, slice(0, 3))
    x = torch.randn(3, 6, 5)
    small = bd.compact(net, x)
    torch.testing.assert_close(small(x), net(x))
    assert small.get_submodule("layers.1").input_size == 5


@KINDS
@pytest.mark.parametrize(
    "flat",
    [
        lambda state: state.transpose(0, 1).flatten(1),
        lambda state: state.permute(1, 0, 2).reshape(state.shape[1], -1),
        lambda state: torch.tanh(state).permute(1, 0, 2).flatten(1),
    ],
)
def test_states_of_all_layers_side_by_side_keep_their_units(kind, flat):
    class Summary(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent = getattr(nn, kind)(5, 8, 2, batch_first=True)
            self.head = nn.Linear(16, 2)

        def forward(self, x):
            _, state = self.recurrent(x)
            return self.head(flat(state[0] if kind == "LSTM" else state))

    net = bd.convert(Summary()).eval()
    for _, mask in bd.nn.named_dropout_layers(net):
        close(mask, slice(0, 3))
    small = bd.compact(net, torch.randn(2, 6, 5))
    x = torch.randn(3, 6, 5)
    torch.testing.assert_close(small(x), net(x))
