"""Layers with weights and norms of every kind lose the units that masks around them close."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd
from tests.compression.networks import keep, mask
from tests.compression.test_compaction import assert_exact


def conv_mask(kept=(0, 2, 3, 7)):
    return keep(bd.BetaBernoulliDropout(8, unit_dim=-3), kept)


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1),
        nn.ConvTranspose2d(8, 6, 2, stride=2, bias=False),
        nn.ConvTranspose2d(8, 6, 3, dilation=2),
    ],
)
def test_a_transposed_convolution_is_cut_on_both_sides(layer):
    after = keep(bd.BetaBernoulliDropout(6, unit_dim=-3), (1, 4))
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), conv_mask(), layer, nn.BatchNorm2d(6), nn.Tanh(), after,
        nn.Conv2d(6, 2, 3),
    ).double().eval()  # fmt: skip
    net[4].running_mean.normal_()
    small = assert_exact(net, torch.randn(2, 3, 6, 6))
    assert small.get_submodule("3").weight.shape[:2] == (4, 2)


def test_a_constant_before_a_transposed_convolution_stays():
    # A mask before the activation leaves sigmoid(0), which borders and strides meet differently.
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), conv_mask(), nn.Sigmoid(), nn.ConvTranspose2d(8, 6, 3, 2)
    )
    small = assert_exact(net.double().eval(), torch.randn(2, 3, 6, 6))
    assert small.get_submodule("3").in_channels == 8
    assert small.get_submodule("0").out_channels == 4


@pytest.mark.parametrize("width", [1, 2, 3])
def test_convert_masks_a_transposed_convolution(width):
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[width - 1]
    net = nn.Sequential(
        kind(3, 8, 2, stride=2), nn.ReLU(), kind(8, 4, 2), nn.ReLU(), kind(4, 2, 1)
    )
    found = dict(bd.nn.named_dropout_layers(bd.convert(net, "indian-buffet")))
    assert {name: layer.num_units for name, layer in found.items()} == {
        "0_dropout": 8,
        "2_dropout": 4,
    }
    norms = net[0].weight.transpose(0, 1).flatten(1).norm(dim=1)
    assert int(found["0_dropout"].rank.argmin()) == int(norms.argmax())
    net = bd.convert(net).eval()
    for layer in dict(bd.nn.named_dropout_layers(net)).values():
        layer.location.data[::2] = -9.0
    small = assert_exact(net, torch.randn(2, 3, *[4] * width))
    assert small.get_submodule("2").weight.shape[:2] == (4, 2)


class NormAct(nn.BatchNorm2d):
    """As timm's norms with an activation: a forward of its own, with the function."""

    def forward(self, x):
        return F.relu(
            F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, self.training,
                self.momentum, self.eps,
            )
        )  # fmt: skip


class OfBatch(nn.BatchNorm2d):
    """Standardises by the batch in evaluation mode, too."""

    def forward(self, x):
        own = (self.running_mean, self.running_var, self.weight, self.bias)
        return F.batch_norm(x, *own, training=True)


class Same(nn.Conv2d):
    """As timm's convolutions with the padding of TensorFlow."""

    def forward(self, x):
        x = F.pad(x, (1, 0, 0, 1))
        return F.conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)


class Odd(nn.Linear):
    def forward(self, x):
        return F.linear(x + 1, self.weight, self.bias)


class Standardised(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


def test_functions_of_parameters_are_cut_as_their_layers_are():
    net = nn.Sequential(
        Same(3, 8, 3), NormAct(8, eps=0.1), conv_mask(), Same(8, 8, 3, groups=8), NormAct(8),
        Standardised(8, 6, 3), keep(bd.BetaBernoulliDropout(6, unit_dim=-3), (0, 1)), NormAct(6),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), Odd(6, 4), mask(4), Odd(4, 2),
    ).double().eval()  # fmt: skip
    net[1].bias.data.normal_()
    net[4].running_mean.normal_()
    net[7].bias.data.normal_()
    small = assert_exact(net, torch.randn(2, 3, 9, 9))
    assert small.get_submodule("0.conv2d_0").out_channels == 4
    assert small.get_submodule("10.linear_0").out_features == int(net[11].kept().sum())


class Functions(nn.Module):
    """Functions of parameters of its own, two of one kind, and one that is no layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.vector, self.scale, self.shift = (
            nn.Parameter(torch.randn(*shape)) for shape in ((6, 6), (6, 6), (6,), (6,), (6,))
        )
        self.register_buffer("mean", torch.randn(6))
        self.register_buffer("variance", torch.rand(6) + 0.5)
        self.mask, self.behind = mask(6), mask(6, seed=1)

    def forward(self, x):
        x = self.mask(F.linear(x, self.first))
        x = F.batch_norm(x, self.mean, self.variance, self.scale, self.shift, eps=0.1)
        x = self.behind(F.linear(F.relu(x), self.second))
        return F.linear(x, self.vector).unsqueeze(1)


def test_functions_of_one_module_are_layers_with_names_of_their_own():
    net = Functions().double().eval()
    small = assert_exact(net, torch.randn(3, 6))
    kept = [int(layer.kept().sum()) for layer in (net.mask, net.behind)]
    rows = [len(small.get_parameter(f"linear_{number}.weight")) for number in (0, 1)]
    assert rows == kept
    assert not any(value.is_meta for value in small.state_dict().values())


def test_a_norm_by_the_batch_stays_a_function():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), conv_mask(), OfBatch(8), nn.Conv2d(8, 2, 1))
    small = assert_exact(net.double().eval(), torch.randn(4, 3, 6, 6))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in small.modules())


def test_functions_that_share_a_parameter_stay_whole():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 6))
            self.mask, self.head = mask(6), nn.Linear(6, 2)

        def forward(self, x):
            x = self.mask(F.linear(x, self.weight))
            return self.head(F.linear(x, self.weight))

    small = assert_exact(Tied().double().eval(), torch.randn(2, 6))
    assert small.get_parameter("linear_0.weight").shape == (6, 6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("constant", [False, True])
def test_a_convolution_with_groups_keeps_as_many_units_of_each(groups, padding, bias, constant):
    middle = (conv_mask((0, 1, 2, 4)), nn.Sigmoid()) if constant else (nn.ReLU(), conv_mask())
    own = {"padding": padding, "groups": groups, "bias": bias}
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), *middle, nn.Conv2d(8, 12, 3, **own),
        nn.ReLU(), keep(bd.BetaBernoulliDropout(12, unit_dim=-3), (0, 1, 2, 4)),
        nn.Conv2d(12, 2, 1),
    ).double().eval()  # fmt: skip
    small = assert_exact(net, torch.randn(2, 3, 6, 6))
    grouped = small.get_submodule("3")
    # Of 12 outputs in two groups, 0 to 2 and 4 are of the first; in four, 0 to 2 and 4 of two.
    assert grouped.groups == groups // 2
    assert grouped.out_channels == {2: 4, 4: 6}[groups]
    if not constant:
        assert grouped.in_channels == {2: 3, 4: 4}[groups]
    assert small.get_submodule("6").in_channels == 4


def test_a_depthwise_multiplier_goes_with_its_channel():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), conv_mask(), nn.Conv2d(8, 16, 3, groups=8),
        keep(bd.BetaBernoulliDropout(16, unit_dim=-3), (0, 1, 6, 10)), nn.Conv2d(16, 2, 1),
    ).double().eval()  # fmt: skip
    small = assert_exact(net, torch.randn(2, 3, 6, 6))
    assert (small.get_submodule("3").groups, small.get_submodule("3").out_channels) == (2, 4)
    # Unit 10 is made of channel 5, which is closed, and is the constant bias.
    assert small.get_submodule("0").out_channels == 2


@pytest.mark.parametrize("affine", [True, False])
def test_a_group_norm_loses_whole_groups(affine):
    norm = nn.GroupNorm(4, 8, affine=affine)
    if affine:
        norm.bias.data.normal_()
    after = keep(bd.BetaBernoulliDropout(8, unit_dim=-3), (1, 6, 7))
    net = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), after, nn.Conv2d(8, 2, 1)).double()
    small = assert_exact(net.eval(), torch.randn(2, 3, 6, 6))
    assert (small.get_submodule("1").num_groups, small.get_submodule("0").out_channels) == (2, 4)
    assert small.get_submodule("4").in_channels == 3
    net = nn.Sequential(nn.Conv2d(3, 8, 3), conv_mask((0, 1, 2)), norm, nn.Conv2d(8, 2, 1))
    small = assert_exact(net.double().eval(), torch.randn(2, 3, 6, 6))
    assert (small.get_submodule("2").num_groups, small.get_submodule("0").out_channels) == (2, 3)


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_an_embedding_loses_the_dimensions_that_a_mask_closes(kind):
    words = kind(9, 6)
    net = nn.Sequential(words, keep(bd.BetaBernoulliDropout(6), (1, 2)), nn.Linear(6, 3))
    small = bd.compact(net.double().eval(), torch.randint(9, (2, 5)))
    x = torch.randint(9, (4, 7))
    torch.testing.assert_close(small(x), net(x), rtol=0, atol=1e-12)
    assert small.get_submodule("0").embedding_dim == 2


def test_an_embedding_that_renorms_its_vectors_stays_whole():
    net = nn.Sequential(nn.Embedding(9, 6, max_norm=0.5), mask(6), nn.Linear(6, 3))
    small = bd.compact(net.double().eval(), torch.randint(9, (2, 5)))
    assert small.get_submodule("0").embedding_dim == 6
    x = torch.randint(9, (4, 7))
    torch.testing.assert_close(small(x), net(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{"affine": True}, {}, {"track_running_stats": True}])
@pytest.mark.parametrize("first", [True, False])
def test_instance_norm_keeps_units_apart(options, first):
    norm = nn.InstanceNorm2d(8, **options)
    if norm.affine:
        norm.bias.data.normal_()
    if norm.track_running_stats:
        norm.running_mean.normal_()
    middle = (conv_mask(), norm) if first else (norm, conv_mask())
    net = nn.Sequential(nn.Conv2d(3, 8, 3), *middle, nn.ReLU(), nn.Conv2d(8, 2, 3)).double()
    small = assert_exact(net.eval(), torch.randn(2, 3, 6, 6))
    assert small.get_submodule("0").out_channels == 4
    assert small.get_submodule("4").in_channels == 4


@pytest.mark.parametrize("slopes", [1, 8])
@pytest.mark.parametrize("first", [True, False])
def test_prelu_keeps_units_apart(slopes, first):
    middle = (conv_mask(), nn.PReLU(slopes)) if first else (nn.PReLU(slopes), conv_mask())
    net = nn.Sequential(nn.Conv2d(3, 8, 3), *middle, nn.Conv2d(8, 2, 3)).double()
    middle[1 if first else 0].weight.data.normal_()
    small = assert_exact(net.eval(), torch.randn(2, 3, 6, 6))
    assert small.get_submodule("0").out_channels == small.get_submodule("3").in_channels == 4


@pytest.mark.parametrize("norm", [nn.LayerNorm(6), nn.RMSNorm(6), nn.GroupNorm(2, 6)])
def test_a_norm_over_units_sees_all_of_them_and_what_follows_is_cut(norm):
    before, after = (
        keep(bd.BetaBernoulliDropout(6), (1, 4)),
        keep(bd.BetaBernoulliDropout(6), (0, 1)),
    )
    net = nn.Sequential(nn.Linear(3, 6), before, norm, after, nn.Linear(6, 2)).double().eval()
    small = assert_exact(net, torch.randn(2, 3))
    assert small.get_submodule("4").in_features == 2
