"""Networks that take ``(T, N, ...)`` are timed and exported by their examples, not their steps."""

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.compression.batch_dim import batch_dims
from bayesdrop.compression.cost import batch_of

K = 4


class Network(nn.Module):
    """A recurrent layer that gets sequences first, whatever the network gets."""

    def __init__(self, turned):
        super().__init__()
        self.layer, self.last, self.turned = nn.GRU(K, 6), nn.Linear(6, 2), turned

    def forward(self, x, *others):
        return self.last(self.layer(x.transpose(0, 1) if self.turned else x)[0][-1])


@pytest.mark.parametrize("shape", [(5, 3, K), (3, 3, K), (1, 1, K)])
@pytest.mark.parametrize("turned, dim", [(False, 1), (True, 0)])
def test_the_dimension_of_the_examples_is_found(shape, turned, dim):
    x = torch.randn(shape)
    assert batch_dims(Network(turned), (x,)) == [dim]
    assert not Network(turned).layer._forward_pre_hooks


def test_other_inputs_have_their_own():
    x, lengths, state = torch.randn(5, 3, K), torch.ones(3), torch.randn(1, 3, 6)
    assert batch_dims(Network(False), (x, lengths, state)) == [1, 0, 1]
    assert batch_dims(Network(True), (x, torch.ones(5), torch.randn(1, 5))) == [0, 0, 0]


def test_a_network_without_such_layers_is_not_run():
    assert batch_dims(nn.Linear(9, 2), (torch.ones(1, 1),)) == [0]  # which it does not take


@pytest.mark.parametrize("size", [2, 7])
def test_passes_are_timed_with_as_many_examples_as_asked_for(size):
    x, lengths = torch.arange(60.0).view(5, 3, K), torch.arange(3)
    big, counts = batch_of(Network(False), (x, lengths), size)
    assert big.shape == (5, size, K) and counts.tolist() == [n % 3 for n in range(size)]
    for n in range(size):
        assert torch.equal(big[:, n], x[:, n % 3])


@pytest.mark.parametrize("format", ["export", "onnx"])
def test_an_exported_network_takes_any_number_of_sequences(format, tmp_path):
    net = nn.TransformerEncoderLayer(K, 2, 6).eval()
    bd.save_plain(net, tmp_path / "network", torch.randn(5, 1, K), format=format)
    again = bd.load_plain(tmp_path / "network")
    for shape in ((5, 3, K), (7, 2, K)):
        x = torch.randn(shape)
        assert torch.allclose(again(x), net(x), rtol=0, atol=1e-6)
