"""What is cut from a convolution's weights is laid out in memory as they are."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd
from bayesdrop.inference import open_units
from bayesdrop.inference.closed_units import ClosedUnits
from bayesdrop.ops.layout import memory_format_of
from tests.compression.networks import close_every_other_unit

FORMATS = [torch.contiguous_format, torch.channels_last]


def network(memory_format, groups=2):
    net = nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=groups), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Flatten()),
        nn.Linear(32, 3),
    )
    net = bd.convert(net.to(memory_format=memory_format))
    for layer in net.modules():
        if isinstance(layer, bd.BayesianDropout):
            close_every_other_unit(layer)
    return net.eval()


def layouts(net):
    weights = [m.weight for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert weights
    # Of one pixel: either layout is both.
    return {memory_format_of(weight) for weight in weights if weight.shape[-1] > 1}


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("options", [{}, {"keep_posterior": True}, {"members": 2}], ids=str)
def test_of_a_compact_network(memory_format, options):
    groups = 1 if "members" in options else 2  # so that members become one convolution in groups
    net, x = network(memory_format, groups), torch.randn(2, 1, 8, 8)
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=8)
    small = bd.compact(bnn, x, **options)
    assert bd.compression.count_params(small) < bd.compression.count_params(net)
    assert layouts(small) == {memory_format}


@pytest.mark.parametrize("memory_format", FORMATS)
def test_of_random_weights_made_plain(memory_format):
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten())
    net = bd.convert(
        net.to(memory_format=memory_format), "sparse-variational", output_dropout=True
    )
    assert layouts(bd.compact(net.eval(), torch.randn(2, 1, 8, 8))) == {memory_format}


@pytest.mark.parametrize("memory_format", FORMATS)
def test_of_a_step_without_closed_units(memory_format):
    net = network(memory_format)
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=8)
    bnn(torch.randn(2, 1, 8, 8))
    units = ClosedUnits(bnn)
    units.close()
    with units.absent(torch.optim.Adam(net.parameters())):
        assert net.get_submodule("4").weight.shape[1] < 8
        assert layouts(net) == {memory_format}


@pytest.mark.parametrize("memory_format", FORMATS)
def test_of_a_prediction_without_closed_units(memory_format, monkeypatch):
    seen, conv2d = [], F.conv2d

    def looked_at(x, weight, *args):
        seen.append((len(weight), memory_format_of(weight)))
        return conv2d(x, weight, *args)

    monkeypatch.setattr(F, "conv2d", looked_at)
    for name in ("_WORK_OF_PASS", "_WORK_OF_GRAPH"):
        monkeypatch.setattr(open_units, name, 0)
    bnn = bd.BayesianNetwork(network(memory_format), bd.Categorical(), num_data=8)
    bd.predict(bnn, torch.randn(32, 1, 8, 8), num_samples=2, seed=0)
    assert (4, memory_format) in seen
