"""The units of a layer are where they are said to be, in its tensors and in its weight."""

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.conversion.units import inputs_of, outputs_of, weight_of
from bayesdrop.errors import ConversionWarning

LAYERS = {
    "Linear": (lambda: nn.Linear(4, 6, bias=False), ()),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 2, bias=False), (3, 3)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 6, 2, bias=False), (3,)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 2, bias=False), (3, 3)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(4, 6, 2, bias=False), (3, 3, 3)),
    "groups": (lambda: nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False), (3, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_a_unit_without_its_weights_is_given_and_seen_no_more(name):
    build, positions = LAYERS[name]
    x = torch.randn(5, 4, *positions)
    given = outputs_of(build())
    assert (given.number, given.inputs) == (6, False)
    assert (given.weight_dim is None) == (name == "groups")  # weights of a unit of each group
    if given.weight_dim is not None:
        weight_of(given.module).select(given.weight_dim, 1).zero_()
        zero = given.module(x).movedim(given.unit_dim, 0).flatten(1).eq(0).all(1)
        assert zero.tolist() == [unit == 1 for unit in range(6)]
    seen = inputs_of(build())
    assert (seen.number, seen.inputs) == (4, True)
    weight_of(seen.module).select(seen.weight_dim, 1).zero_()
    for unit in range(4):
        other = x.clone()
        other.select(seen.unit_dim, unit).add_(1)
        assert torch.equal(seen.module(other), seen.module(x)) == (unit == 1)


def test_a_mask_beside_a_mask_has_its_width_and_type():
    net = nn.Sequential(bd.BetaBernoulliDropout(5), nn.Dropout(0.3)).float()
    both = bd.convert(net, "mc-dropout")
    layer = both.get_submodule("1")
    assert (layer.num_units, float(layer.drop_prob)) == (5, pytest.approx(0.3))
    assert {tensor.dtype for tensor in layer.buffers()} == {torch.float32}


def test_the_weights_of_a_dropouts_units_are_those_behind_it():
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Dropout(0.1), nn.Linear(5, 2))
    with torch.no_grad():
        net[0].weight[2] *= 9
        net[3].weight[:, 4] *= 9
    layer = bd.convert(net, "indian-buffet", linear=False).get_submodule("2")
    assert int(layer.rank.argmin()) == 4


def test_a_convolution_with_groups_behind_a_dropout_tells_no_width():
    net = nn.Sequential(
        nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 2, 1)
    )
    with pytest.warns(ConversionWarning, match=r"'1' \(Dropout.*width cannot be told"):
        bd.convert(net)


class Joined(nn.Module):
    """A dropout on the outputs of two convolutions."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.drop = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1), nn.Dropout(0.5)
        self.c = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        return self.c(self.drop(torch.cat([self.a(x), self.b(x)], 1)))


def test_a_dropout_on_units_of_which_some_have_masks_becomes_one_of_all():
    found = bd.nn.named_dropout_layers(bd.convert(Joined(), exclude="b"))
    assert {name: layer.num_units for name, layer in found} == {"a_dropout": 3, "drop": 6}


class Broadcast(nn.Module):
    """A map of one channel is added to three, and a dropout sees the sum."""

    def __init__(self):
        super().__init__()
        self.conv, self.dropout, self.fc = nn.Conv2d(3, 1, 1), nn.Dropout(0.2), nn.Linear(12, 2)

    def forward(self, x):
        return self.fc(self.dropout(self.conv(x) + x).flatten(1))


def test_a_broadcast_sum_tells_no_width():
    with pytest.warns(ConversionWarning, match=r"'dropout'.* its width cannot be told"):
        net = bd.convert(Broadcast(), "mc-dropout", conv=False, input_dropout=False)
    assert net(torch.zeros(2, 3, 2, 2)).shape == (2, 2)
