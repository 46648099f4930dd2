import pytest
import torch
from torch import nn

import bayesdrop as bd

SHAPES = {
    "lenet-300-100": (1, 28, 28),
    "lenet-500-300": (1, 28, 28),
    "lenet5-caffe": (1, 28, 28),
    "vgg": (3, 32, 32),
    "vgg11": (3, 32, 32),
    "resnet": (3, 16, 16),
    "resnet18": (3, 32, 32),
    "text-encoder": (5,),
    "text-lstm": (5,),
    "text-mean": (5,),
}
WORDS = ("text-encoder", "text-lstm", "text-mean")


def needed(name):
    if name == "text-encoder":
        pytest.importorskip("transformers")


@pytest.mark.parametrize("name", bd.networks.registry)
def test_network_gives_one_logit_per_class(name):
    needed(name)
    net = bd.networks.build(name, num_classes=7)
    x = torch.zeros(2, *SHAPES[name])
    assert net(x.long() if name in WORDS else x).shape == (2, 7)


@pytest.mark.parametrize("name", bd.networks.registry)
def test_dropout_is_in_the_network_only_when_asked_for(name):
    needed(name)

    def rates(net):
        modules = [module for module in net.modules() if isinstance(module, nn.Dropout)]
        return [module.p for module in modules if module.p]

    plain, dropped = (bd.networks.build(name, dropout=p) for p in (0.0, 0.25))
    layers = {"resnet": 1, "resnet18": 1, "text-lstm": 1, "text-encoder": 5}.get(name, 2)
    assert rates(plain) == [] and rates(dropped) == [0.25] * layers
    assert list(plain.state_dict()) == list(dropped.state_dict())


def test_layers_have_readable_names():
    names = [name for name, _ in bd.networks.lenet_500_300().named_children()]
    assert names == ["flatten", "fc1", "relu1", "fc2", "relu2", "fc3"]


def test_vgg_has_thirteen_convolutions_of_the_published_widths():
    widths = [m.out_channels for m in bd.networks.vgg().modules() if isinstance(m, nn.Conv2d)]
    assert widths == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6


def test_vgg11_has_the_published_widths():
    net = bd.networks.vgg11()
    widths = [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [96, 192, 384, 384, 768, 768, 768, 768]
    assert (net.fc1.in_features, net.fc1.out_features) == (768, 256)


def test_units_are_those_of_the_paper():
    def units(net):
        return bd.BayesianNetwork(bd.convert(net), bd.Categorical(), 1).units_total()

    assert units(bd.networks.lenet_500_300()) == [784, 500, 300]
    assert units(bd.networks.lenet5_caffe()) == [20, 50, 800, 500]
    assert units(bd.networks.vgg()) == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 8


def test_unknown_network_is_named():
    with pytest.raises(bd.errors.ConfigError, match="Did you mean 'lenet5-caffe'"):
        bd.networks.build("lenet5-cafe")


@pytest.mark.parametrize("name", WORDS)
def test_padding_does_not_change_what_a_text_gets(name):
    needed(name)
    torch.manual_seed(0)
    net, words = bd.networks.build(name), torch.tensor([[5, 7, 2]])
    torch.testing.assert_close(net(words), net(nn.functional.pad(words, (0, 4))))
