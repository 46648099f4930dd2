"""Masks before the activation: a dropped unit is act(0), and compact stays exact."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd
from bayesdrop.errors import ConfigError
from tests.compression.networks import randomise

ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def prune(net, share=0.5):
    """Give half of the units of every mask a keep probability of nearly zero."""
    for _, layer in bd.nn.named_dropout_layers(net):
        layer.location.data.fill_(3.0)[: int(share * layer.num_units)] = -9.0
    return net


def mlp(activation):
    return nn.Sequential(
        nn.Linear(5, 8), activation(), nn.Dropout(0.5), nn.Linear(8, 6), nn.BatchNorm1d(6),
        activation(), nn.Linear(6, 3),
    )  # fmt: skip


def conv(activation, padding):
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=padding), nn.BatchNorm2d(6), activation(), nn.MaxPool2d(2),
        nn.Conv2d(6, 4, 3, padding=padding), activation(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(16, 3),
    )  # fmt: skip


def masked(net):
    return prune(randomise(bd.convert(net, position="before-activation"))).eval()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_compact_is_exact_for_linear_layers(name):
    net = masked(mlp(ACTIVATIONS[name]))
    x = torch.randn(7, 5)
    small = bd.compact(net, x)
    assert torch.allclose(small(x), net(x), rtol=0, atol=1e-12)
    sizes = [tuple(m.weight.shape) for m in small.modules() if isinstance(m, nn.Linear)]
    assert sizes == [(4, 5), (3, 4), (3, 3)]


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_compact_is_exact_for_convolutions(name, padding):
    net = masked(conv(ACTIVATIONS[name], padding))
    x = torch.randn(4, 2, 12, 12)
    small = bd.compact(net, x)
    assert torch.allclose(small(x), net(x), rtol=0, atol=1e-12)
    sizes = [tuple(m.weight.shape[:2]) for m in small.modules() if isinstance(m, nn.Conv2d)]
    # A border of zeros is no border of act(0), so that no bias can stand for such a channel.
    stays = padding == 1 and name in ("sigmoid", "softplus")
    assert sizes == [(3, 2), (2, 6 if stays else 3)]


def test_a_dropped_unit_is_the_activation_of_zero():
    net = masked(nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2)))
    with bd.impose_masks(net, {"0_dropout": torch.zeros(4)}):
        assert torch.equal(net(torch.randn(2, 3)), net.get_submodule("2")(torch.full((2, 4), 0.5)))


def named(net):
    return [name for name, _ in bd.nn.named_dropout_layers(net)]


class Functional(nn.Module):
    """Functions instead of modules, a gated unit, and a block that is added."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        x = self.a(x)
        x = x * torch.sigmoid(x)
        x = x + self.b(F.gelu(x))
        return self.d(torch.tanh(self.c(x)))


def test_masks_stand_before_activations_and_not_on_the_output():
    net = bd.convert(Functional(), position="before-activation")
    assert named(net) == ["a_dropout", "b_dropout", "c_dropout"]
    calls = [str(node.target) for node in net.graph.nodes if node.op == "call_module"]
    assert calls == ["a", "a_dropout", "b", "b_dropout", "c", "c_dropout", "d"]
    small = bd.compact(prune(randomise(net)).eval(), torch.randn(5, 4))
    assert small(torch.randn(2, 4)).shape == (2, 4)


def test_masks_stand_after_the_norm():
    net = bd.convert(conv(nn.ReLU, 1), position="before-activation")
    order = [type(net.get_submodule(str(n.target))).__name__ for n in net.graph.nodes
             if n.op == "call_module"]  # fmt: skip
    assert order[:4] == ["Conv2d", "BatchNorm2d", "BetaBernoulliDropout", "ReLU"]
    assert net.get_submodule("0_dropout").unit_dim == -3


def test_a_rate_after_the_activation_is_taken_over():
    net = bd.convert(mlp(nn.Tanh), "mc-dropout", position="before-activation")
    assert named(net) == ["0_dropout", "3_dropout"]
    assert float(net.get_submodule("0_dropout").keep_prob()[0]) == 0.5
    assert not any(isinstance(m, nn.Dropout) for m in net.modules())


def test_the_default_is_after_the_activation():
    net = mlp(nn.ReLU)
    assert bd.convert(net).code == bd.convert(net, position="after-activation").code


def test_other_positions_are_refused():
    with pytest.raises(ConfigError, match="Did you mean 'before-activation'"):
        bd.convert(mlp(nn.ReLU), position="before-activations")
    with pytest.raises(ConfigError, match="got random weights and position='before-activation'"):
        bd.convert(mlp(nn.ReLU), "sparse-variational", position="before-activation")


class Sequence(nn.Module):
    """An LSTM of inputs (T, N, K), with two layers on its states."""

    def __init__(self):
        super().__init__()
        self.lstm, self.a, self.b = nn.LSTM(3, 4), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.b(F.relu(self.a(self.lstm(x)[0])))


def test_the_dimension_of_examples_reaches_every_mask_and_compact_stays_exact():
    net = prune(bd.convert(Sequence(), batch_dim=1, exclude="lstm")).eval()
    assert [layer.batch_dim for _, layer in bd.nn.named_dropout_layers(net)] == [1, 1]
    x = torch.randn(5, 7, 3)
    assert torch.allclose(bd.compact(net, x)(x), net(x), rtol=0, atol=1e-12)
    masks = []
    layer = net.get_submodule("b_dropout").train()
    layer.register_forward_hook(lambda _, inputs, output: masks.append(output))
    layer(torch.ones(5, 7, 6))
    assert torch.equal(masks[0], masks[0][:1].expand(5, 7, 6))


def test_the_layout_of_heads_is_not_for_options_to_choose():
    encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0)
    net = bd.convert(nn.Sequential(encoder, nn.Linear(4, 2)), unit_dim=-1, batch_dim=1)
    mask = net.get_submodule("0.self_attn.out_proj.mask")
    assert (mask.unit_dim, mask.batch_dim) == (-2, 0)
