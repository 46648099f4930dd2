"""FLOPs beside hand counts: 2 for each weight that a product meets, multiply and add."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd
from bayesdrop.compression import count_flops, measure_compression
from bayesdrop.errors import CostWarning

T, K, H = 5, 8, 6


class First(nn.Module):
    """The first output of a layer that returns several."""

    def __init__(self, layer, copies=1):
        super().__init__()
        self.layer, self.copies = layer, copies

    def forward(self, x):
        result = self.layer(*[x] * self.copies)
        return result[0] if isinstance(result, tuple) else result


class SelfAttention(nn.Module):
    def forward(self, x):
        heads = x.unflatten(-1, (2, K // 2)).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads, is_causal=True)


class Applies(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


# q k' and weights v of all heads: T x T x K each.
ATTENTION = 2 * 2 * T * T * K
ENCODER = 2 * T * (4 * K * K + 2 * K * H) + ATTENTION


@pytest.mark.parametrize(
    "layer, flops",
    [
        (nn.RNN(K, H, batch_first=True), 2 * T * H * (K + H)),
        (nn.GRU(K, H, batch_first=True), 2 * T * 3 * H * (K + H)),
        (nn.LSTM(K, H, batch_first=True), 2 * T * 4 * H * (K + H)),
        (
            nn.LSTM(K, H, num_layers=2, batch_first=True, bidirectional=True),
            2 * T * 2 * (4 * H * (K + H) + 4 * H * (2 * H + H)),
        ),
        (nn.TransformerEncoderLayer(K, 2, H, batch_first=True), ENCODER),
        (
            nn.TransformerEncoder(nn.TransformerEncoderLayer(K, 2, H, batch_first=True), 3),
            3 * ENCODER,
        ),
        (SelfAttention(), ATTENTION),
        (Applies(lambda x: x @ x.new_ones(K)), 2 * T * K),
        (Applies(lambda x: torch.addbmm(x[0, :, :1], x, x.mT)), 2 * T * K * T),
        (First(nn.Bilinear(K, K, H).double(), copies=2), 2 * T * H * (K * K + K)),
    ],
    ids=["rnn", "gru", "lstm", "deep lstm", "encoder layer", "encoder", "attention function"]
    + ["vector", "sum of products", "bilinear"],
)
def test_fused_layers_count_like_their_products(layer, flops):
    assert count_flops(First(layer.double()), torch.randn(3, T, K)) == flops


def test_multihead_attention_counts_projections_and_products():
    layer = First(nn.MultiheadAttention(K, 2, batch_first=True), copies=3)
    assert count_flops(layer, torch.randn(3, T, K)) == 2 * T * 4 * K * K + ATTENTION


class Steps(nn.Module):
    """A cell, one step of ``(T, N, K)`` after the other."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(K, H)

    def forward(self, x):
        state = None
        for step in x:
            state = self.cell(step, state)
        return state


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(K, 2)

    def forward(self, x):
        return self.attention(query=x, key=x, value=x)[0]


class Turned(nn.Module):
    """Takes ``(N, T, K)`` and has sequences first inside."""

    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(K, H)

    def forward(self, x):
        return self.layer(x.transpose(0, 1))[0][-1]


_LSTM = 2 * T * 4 * H * (K + H)


@pytest.mark.parametrize(
    "network, flops",
    [
        (First(nn.LSTM(K, H)), _LSTM),
        (nn.Sequential(nn.Linear(K, K), First(nn.LSTM(K, H))), _LSTM + 2 * T * K * K),
        (nn.TransformerEncoderLayer(K, 2, H), ENCODER),
        (Named(), 2 * T * 4 * K * K + ATTENTION),
        (Steps(), 2 * T * 3 * H * (K + H)),
        (nn.Sequential(nn.Linear(K, H), bd.MonteCarloDropout(H, batch_dim=1)), 2 * T * K * H),
    ],
    ids=["lstm", "after a Linear", "encoder layer", "named inputs", "cell", "mask"],
)
@pytest.mark.parametrize("examples", [1, 3, T])
def test_examples_are_in_the_second_dimension_of_sequences_first(network, flops, examples):
    assert count_flops(network.double(), torch.randn(T, examples, K)) == flops


def test_sequences_first_inside_leave_the_examples_where_they_are():
    assert count_flops(Turned(), torch.randn(3, T, K)) == _LSTM
    words = nn.Sequential(nn.Embedding(9, K), First(nn.LSTM(K, H)))
    assert count_flops(words, torch.randint(9, (T, 3))) == _LSTM
    words = nn.Sequential(nn.Embedding(9, K), First(nn.LSTM(K, H, batch_first=True)))
    assert count_flops(words, torch.randint(9, (3, T))) == _LSTM


class Learned(nn.Module):
    """A Linear that reads a parameter, as class tokens and tables of positions are read."""

    def __init__(self):
        super().__init__()
        self.query, self.project = nn.Parameter(torch.randn(1, K)), nn.Linear(K, H)

    def forward(self, x):
        return x[..., :H] @ self.project(self.query.expand(1, -1)).T


def test_layers_that_read_a_parameter_count():
    assert count_flops(Learned(), torch.randn(1, T, K)) == 2 * K * H + 2 * T * H


def test_flops_of_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(2, 3)

        def forward(self, x, z):
            return self.a(x) + self.b(z)

    inputs = torch.zeros(5, 4), torch.zeros(5, 2)
    assert count_flops(Two(), inputs) == 2 * 3 * (4 + 2)


class Recurrent(nn.Module):
    """An LSTM whose last state a masked Linear reads."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(K, H, batch_first=True)
        self.mask = bd.BetaBernoulliDropout(H)
        self.last = nn.Linear(H, 3)

    def forward(self, x):
        return self.last(self.mask(self.lstm(x)[0][:, -1]))


def test_every_table_counts_what_stays_whole():
    net, x = Recurrent().eval(), torch.randn(2, T, K)
    net.mask.location.data[2:] = -9.0
    lstm = 2 * T * 4 * H * (K + H)
    table = measure_compression(net, bd.compact(net, x), x, repeats=1, batch_sizes=(1,))
    assert (table.before.flops, table.after.flops) == (lstm + 2 * 3 * H, lstm + 2 * 3 * 2)
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=2)
    y = torch.tensor([0, 1])
    (row,) = bd.compression.sweep_thresholds(bnn, (x, y), [1e-3]).rows
    assert row.flops == lstm + 2 * 3 * 2
    size = bd.compression.measure_size(net, num_samples=5, example_input=x, seed=0)
    assert set(size.flops["lstm"].tolist()) == {lstm}


class Sums(nn.Linear):
    """A product that is written as a sum, which no counter sees."""

    def forward(self, x):
        return (x[:, None] * self.weight).sum(-1)


class Unknown(nn.Module):
    """A product that is not counted, before one that is."""

    def __init__(self):
        super().__init__()
        self.first, self.last = Sums(K, H), nn.Linear(H, 2)

    def forward(self, x):
        return self.last(self.first(x))


def test_what_is_not_counted_is_named():
    with pytest.warns(CostWarning, match=r"'first' \(Sums\)"):
        assert count_flops(Unknown(), torch.randn(2, K)) == 2 * 2 * H


@pytest.mark.parametrize(
    "forward, name",
    [
        (lambda x: torch.cdist(x, x), "aten._cdist_forward"),
        (lambda x: nn.functional.pdist(x[0]), "aten._pdist_forward"),
        (lambda x: torch.geqrf(x)[0], "aten.geqrf"),
        (
            lambda x: torch.linalg.householder_product(x, x[:, 0]),
            "aten.linalg_householder_product",
        ),
    ],
)
def test_operations_without_a_formula_are_named(forward, name):
    with pytest.warns(CostWarning, match=f"torch.ops.{name} are not counted"):
        assert count_flops(Applies(forward), torch.randn(2, T, T)) == 0


@pytest.mark.filterwarnings("ignore:torch.ao", "ignore:torch.quantize")
def test_quantised_layers_are_named():
    net = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(K, 2)).float())
    with pytest.warns(CostWarning, match=r"torch.ops.quantized.linear_dynamic are not counted"):
        assert count_flops(net, torch.randn(3, K, dtype=torch.float32)) == 0


def test_sweeps_name_what_they_do_not_count():
    net = nn.Sequential(Unknown(), bd.BetaBernoulliDropout(2), nn.Linear(2, 2)).eval()
    x = torch.randn(4, K)
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=4)
    with pytest.warns(CostWarning, match="Sums"):
        bd.compression.sweep_thresholds(bnn, (x, torch.zeros(4).long()), [1e-3])
    with pytest.warns(CostWarning, match="Sums"):
        bd.compression.measure_size(net, num_samples=2, example_input=x)


def test_layers_without_products_are_not_named():
    net = nn.Sequential(
        nn.Embedding(7, K), nn.LayerNorm((T, K)), bd.BetaBernoulliDropout(K), nn.Linear(K, 2)
    )
    assert count_flops(net, torch.zeros(3, T, dtype=torch.long)) == 2 * T * K * 2
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(K, 2))
    assert count_flops(normed, torch.zeros(3, K)) == 2 * K * 2


def test_counting_leaves_network_and_backends_as_they_were():
    net = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))
    fast, onednn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    count_flops(net, torch.zeros(1, 3))
    assert net.training and not any(len(m._forward_hooks) for m in net.modules())
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert torch._C._get_mkldnn_enabled() == onednn
