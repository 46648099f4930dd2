import copy
import io
import operator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd
from bayesdrop.compression import count_params
from tests.compression.networks import NETWORKS, keep, mask, randomise


def difference(net, small, x):
    with torch.no_grad():
        return float((copy.deepcopy(net).eval()(x) - small(x)).abs().max())


def assert_exact(net, x):
    small = bd.compact(net, x)
    assert not any(isinstance(m, bd.BayesianDropout) for m in small.modules())
    assert difference(net, small, x) < 1e-12
    assert difference(net, small, torch.randn_like(torch.cat([x, x]))) < 1e-12
    return small


@pytest.mark.parametrize("name", NETWORKS)
def test_compact_network_equals_the_masked_network(name):
    build, shape = NETWORKS[name]
    net = randomise(bd.convert(build()))
    x = torch.randn(2, *shape)
    small = assert_exact(net, x)
    assert count_params(small) < 0.6 * count_params(bd.without_dropout(net))
    assert bd.compression.count_flops(small, x) < 0.6 * bd.compression.count_flops(net, x)


@pytest.mark.parametrize("name", NETWORKS)
def test_compact_network_equals_the_masked_network_in_float32(name):
    torch.set_default_dtype(torch.float32)
    build, shape = NETWORKS[name]
    net = randomise(bd.convert(build()))
    x = torch.randn(2, *shape)
    assert difference(net, bd.compact(net, x), x) < 1e-5


def test_units_go_from_both_sides_of_a_mask():
    net = bd.convert(bd.networks.lenet_500_300())
    keep(net.fc1_dropout, range(264))
    keep(net.fc2_dropout, range(140))
    keep(net.fc3_dropout, range(65))
    small = bd.compact(net, torch.rand(2, 784))
    shapes = [tuple(getattr(small, name).weight.shape) for name in ("fc1", "fc2", "fc3")]
    assert shapes == [(140, 264), (65, 140), (10, 65)]
    assert bd.compression.count_flops(small, torch.rand(2, 784)) == 2 * (
        264 * 140 + 140 * 65 + 65 * 10
    )


def test_channels_and_their_features_go_together():
    net = bd.convert(bd.networks.lenet5_caffe())
    keep(net.conv1_dropout, range(5))
    keep(net.conv2_dropout, range(1, 9))
    keep(net.fc1_dropout, range(0, 800, 5))
    small = assert_exact(net, torch.randn(2, 1, 28, 28))
    assert small.conv1.weight.shape == (5, 1, 5, 5)
    assert small.conv2.weight.shape == (8, 5, 5, 5)
    kept = [i for i in range(16, 9 * 16) if i % 5 == 0]
    assert small.fc1.in_features == len(kept)


def test_residual_branch_is_cut_where_the_identity_is_not():
    from tests.compression.networks import resnet18

    net = randomise(bd.convert(resnet18()), pruned=0.0)
    keep(net.layer1.get_submodule("0").conv2_dropout, range(7))
    small = bd.compact(net, torch.randn(2, 3, 32, 32))
    block = small.layer1.get_submodule("0")
    assert block.conv2.out_channels == block.bn2.num_features == 7
    assert block.conv1.in_channels == small.layer1.get_submodule("1").conv2.out_channels == 64


def test_nothing_pruned_keeps_every_size():
    net = bd.convert(bd.networks.lenet5_caffe())
    for _, layer in bd.BayesianNetwork(net, bd.Categorical(), 10).named_dropout_layers():
        layer.location.data.fill_(5.0)
    plain = bd.networks.lenet5_caffe()
    small = assert_exact(net, torch.randn(2, 1, 28, 28))
    assert {k: v.shape for k, v in small.state_dict().items()} == {
        k: v.shape for k, v in plain.state_dict().items()
    }


@pytest.mark.parametrize("layer", ["conv1_dropout", "conv2_dropout", "fc1_dropout", "fc2_dropout"])
def test_pruning_a_whole_layer_gives_the_constant_network(layer):
    net = bd.convert(bd.networks.lenet5_caffe())
    keep(getattr(net, layer), [])
    small = assert_exact(net, torch.randn(3, 1, 28, 28))
    outputs = small(torch.randn(3, 1, 28, 28))
    assert bool((outputs == outputs[:1]).all())
    assert all(parameter.numel() > 0 for parameter in small.parameters())


def test_compact_leaves_its_argument_alone():
    net = randomise(bd.convert(NETWORKS["user module"][0]()))
    net.train()
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=10)
    before = copy.deepcopy(bnn.state_dict())
    bd.compact(bnn, torch.randn(2, 2, 6, 6))
    assert all(torch.equal(before[k], v) for k, v in bnn.state_dict().items())
    assert all(module.training for module in net.modules())


def test_compacting_a_network_and_its_bayesian_network_is_the_same():
    net = randomise(bd.convert(bd.networks.lenet_500_300()))
    x = torch.randn(2, 784)
    one, two = bd.compact(net, x), bd.compact(bd.BayesianNetwork(net, bd.Categorical(), 5), x)
    assert torch.equal(one(x), two(x))


def test_network_without_masks_is_only_traced():
    net = NETWORKS["user module"][0]()
    small = assert_exact(net, torch.randn(2, 2, 6, 6))
    assert count_params(small) == count_params(net)


class Stack(nn.Sequential):
    """A Sequential with a name."""


CONV = {"unit_dim": -3}
EDGES = {
    "mask before BatchNorm, padded conv next": lambda: Stack(
        nn.Conv2d(2, 8, 3), mask(8, **CONV), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 4, 3, padding=1), nn.Flatten(), nn.Linear(64, 3),
    ),
    "mask before BatchNorm, unpadded conv next": lambda: Stack(
        nn.Conv2d(2, 8, 3), mask(8, **CONV), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3),
    ),
    "mask before BatchNorm without affine": lambda: Stack(
        nn.Linear(32, 8), mask(8), nn.BatchNorm1d(8, affine=False), nn.ReLU(), nn.Linear(8, 3)
    ),
    "mask after BatchNorm, not homogeneous": lambda: Stack(
        nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), mask(8, **CONV), nn.SiLU(),
        nn.AvgPool2d(2, padding=1), nn.Flatten(), nn.Linear(72, 3),
    ),
    "sigmoid makes a constant one half": lambda: Stack(
        nn.Linear(32, 8), mask(8), nn.Sigmoid(), nn.Linear(8, 3, bias=False)
    ),
    "two masks in a row": lambda: Stack(
        nn.Linear(32, 8), mask(8), mask(8, seed=1), nn.ReLU(), mask(8, seed=2), nn.Linear(8, 3)
    ),
    "mask folded forwards through Flatten": lambda: Stack(
        nn.Conv2d(2, 8, 3), nn.ReLU(), mask(8, **CONV), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(32, 3),
    ),
    "mask behind Flatten, not homogeneous": lambda: Stack(
        nn.Conv2d(2, 2, 3), nn.Flatten(), mask(32), nn.Softplus(), nn.Linear(32, 3)
    ),
    "mask between layers along another dimension": lambda: Stack(
        nn.Conv2d(2, 8, 3), nn.Linear(4, 8), mask(8, **CONV), nn.Linear(8, 8), nn.ReLU(),
        mask(8, seed=1, **CONV), nn.Softplus(), nn.Flatten(), nn.Linear(256, 3),
    ),
    "GroupNorm of constants that differ": lambda: Stack(
        nn.Conv2d(2, 8, 3), keep(bd.BetaBernoulliDropout(8, **CONV), (0, 5)), nn.BatchNorm2d(8),
        nn.GroupNorm(4, 8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3),
    ),
    "mask at the output": lambda: Stack(nn.Linear(32, 8), nn.Tanh(), mask(8)),
    "mask at input and output only": lambda: Stack(mask(32)),
    "depthwise": lambda: Stack(
        nn.Conv2d(2, 8, 3), nn.ReLU(), mask(8, **CONV),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU6(),
        mask(8, seed=1, **CONV), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(64, 3),
    ),
    "depthwise, mask straight after": lambda: Stack(
        nn.Conv2d(2, 8, 3), nn.Conv2d(8, 8, 3, groups=8), mask(8, **CONV), nn.GELU(),
        nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(16, 3),
    ),
    "grouped convolution keeps its input": lambda: Stack(
        nn.Conv2d(2, 8, 3), nn.ReLU(), mask(8, **CONV), nn.Conv2d(8, 4, 3, groups=2),
        nn.Flatten(), nn.Linear(16, 3),
    ),
    "circular padding": lambda: Stack(
        nn.Conv2d(2, 8, 3), mask(8, **CONV), nn.BatchNorm2d(8),
        nn.Conv2d(8, 4, 3, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(64, 3),
    ),
    "unknown operation": lambda: Stack(
        nn.Conv2d(2, 8, 3), mask(8, **CONV), nn.GroupNorm(2, 8), nn.ReLU(), mask(8, **CONV),
        nn.Conv2d(8, 4, 3, padding="same"), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    ),
    "mean mask folded backwards through pooling": lambda: Stack(
        nn.Conv2d(2, 8, 3), nn.LeakyReLU(inplace=True), nn.AvgPool2d(2), mask(8, **CONV),
        nn.Softplus(), nn.Flatten(), nn.Linear(32, 3),
    ),
    "constant under a mask folded forwards": lambda: Stack(
        nn.Conv2d(2, 8, 3), mask(8, **CONV), nn.BatchNorm2d(8), mask(8, seed=1, **CONV),
        nn.Conv2d(8, 4, 3, padding=1), nn.Flatten(), nn.Linear(64, 3),
    ),
    "constant under a mask folded backwards": lambda: Stack(
        nn.Conv2d(2, 8, 3), mask(8, **CONV), nn.Sigmoid(), nn.BatchNorm2d(8),
        mask(8, seed=1, **CONV), nn.Softplus(), nn.Conv2d(8, 4, 3, padding=1), nn.Flatten(),
        nn.Linear(64, 3),
    ),
    "constant at the border of a padded average": lambda: Stack(
        nn.Conv2d(2, 8, 3), mask(8, **CONV), nn.Sigmoid(), nn.AvgPool2d(2, padding=1),
        nn.Flatten(), nn.Linear(72, 3),
    ),
    "constant under another divisor": lambda: Stack(
        nn.Conv2d(2, 8, 3), mask(8, **CONV), nn.Sigmoid(), nn.AvgPool2d(2, divisor_override=3),
        nn.Flatten(), nn.Linear(32, 3),
    ),
    "constant into a layer that a mask is folded into": lambda: Stack(
        nn.Linear(32, 8), mask(8), nn.Sigmoid(), nn.Linear(8, 8), mask(8, seed=1),
        nn.Softplus(), nn.Linear(8, 3),
    ),
    "norms without weights": lambda: Stack(
        nn.Conv2d(2, 8, 3), mask(8, **CONV), nn.InstanceNorm2d(8), nn.ReLU(),
        mask(8, seed=1, **CONV), nn.GroupNorm(4, 8, affine=False),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), mask(8, seed=2, **CONV),
        nn.BatchNorm2d(8, affine=False), nn.Flatten(), nn.Linear(128, 3),
    ),
}  # fmt: skip
IMAGE = {name for name in EDGES if "2d" in str(EDGES[name]())}


@pytest.mark.parametrize("name", EDGES)
def test_every_order_of_layers_works_under_the_default_dtype_of_torch(name):
    torch.set_default_dtype(torch.float32)
    net, x = EDGES[name]().eval(), torch.randn(3, *((2, 6, 6) if name in IMAGE else (32,)))
    torch.testing.assert_close(bd.compact(net, x[:2])(x), net(x))


@pytest.mark.parametrize("name", EDGES)
def test_every_order_of_layers_is_exact(name):
    net = EDGES[name]()
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            if module.affine:
                module.weight.data.normal_()
                module.bias.data.normal_()
    assert_exact(net, torch.randn(2, 2, 6, 6) if name in IMAGE else torch.randn(2, 32))


class Sums(nn.Module):
    """Branches that keep different units meet in sums; one feeds several layers."""

    def __init__(self):
        super().__init__()
        self.stem, self.right = nn.Linear(6, 12), nn.Linear(12, 12)
        self.left, self.side = nn.Linear(12, 12), nn.Linear(12, 12)
        self.mask0, self.mask1, self.mask2 = mask(12), mask(12, seed=1), mask(12, seed=2)
        self.mask3, self.mask4, self.head = mask(12, seed=3), mask(12, seed=4), nn.Linear(12, 4)

    def forward(self, x):
        h = self.mask0(torch.relu(self.stem(x)))
        a = self.mask1(torch.sigmoid(self.left(h)))
        b = self.mask2(torch.relu(self.right(h)))
        total = a + b
        total += h
        total = total + torch.sigmoid(self.mask4(self.side(h)))
        return self.head(self.mask3(F.leaky_relu(total))) + self.head(total)


class Tokens(nn.Module):
    """Linear layers on (N, T, K), and an unknown reshaping."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(10, 3)
        self.mask0, self.mask1, self.mask2 = mask(6, seed=3), mask(8), mask(5, seed=1)

    def forward(self, x):
        x = self.mask1(F.relu(self.fc1(self.mask0(x))))
        x = self.mask2(torch.tanh(self.fc2(x)))
        return self.fc3(x.permute(0, 2, 1).reshape(x.shape[0], -1)) + x.mean(dim=(1, 2))[:, None]


class Shared(nn.Module):
    """Layers called twice, one of them in place, tied weights, a weight that is read, a hook."""

    def __init__(self):
        super().__init__()
        self.twice, self.tied, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.tied.weight = self.head.weight
        self.read, self.hooked = nn.Linear(8, 8), nn.Linear(8, 8)
        self.hooked.register_forward_hook(lambda module, inputs, output: output + 1.0)
        self.masks = nn.ModuleList(mask(8, seed=i) for i in range(5))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.twice(self.masks[0](x)))
        y = self.twice(self.masks[1](x))
        x = self.relu(y) + y
        x = torch.relu(self.tied(self.masks[2](x)))
        x = torch.relu(self.hooked(self.masks[3](x)))
        return self.head(self.masks[4](self.read(x))) + F.linear(x, self.read.weight)


class SequenceConv(nn.Module):
    """One-dimensional convolution, pooled by a mean; the mask layer is called twice."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(6, 8, 3), nn.Conv1d(8, 8, 3, padding=1)
        self.mask, self.head = mask(8, unit_dim=-2), nn.Linear(8, 3)

    def forward(self, x):
        x = self.mask(self.conv1(x))
        return self.head(torch.flatten(self.mask(F.relu_(self.conv2(x))).mean(2, keepdim=True), 1))


@pytest.mark.parametrize(
    ("build", "shape"),
    [(Sums, (6,)), (Tokens, (2, 6)), (Shared, (8,)), (SequenceConv, (6, 7))],
    ids=["sums", "tokens", "shared weights", "1d"],
)
def test_every_topology_is_exact(build, shape):
    assert_exact(build(), torch.randn(3, *shape))


def test_two_inputs_and_two_outputs_are_exact():
    class TwoStreams(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(4, 6), nn.Linear(5, 6)
            self.mask, self.head = mask(6), nn.Linear(6, 2)

        def forward(self, a, b):
            h = self.mask(torch.relu(self.left(a) + self.right(b)))
            return self.head(h), h

    net, inputs = TwoStreams().eval(), (torch.randn(3, 4), torch.randn(3, 5))
    small = bd.compact(net, inputs)
    for expected, got in zip(net(*inputs), small(*inputs), strict=True):
        assert torch.allclose(expected, got, rtol=0, atol=1e-12)


def test_state_and_pickle_round_trip():
    net = randomise(bd.convert(bd.networks.lenet5_caffe()))
    x = torch.randn(2, 1, 28, 28)
    small, file = bd.compact(net, x), io.BytesIO()
    torch.save(small, file)
    assert b"bayesdrop" not in file.getvalue()
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert torch.equal(again(x), small(x))
    other = bd.compact(net, x)
    for parameter in other.parameters():
        parameter.data.zero_()
    other.load_state_dict(small.state_dict())
    assert torch.equal(other(x), small(x))


def test_compact_network_can_be_trained_on():
    net = randomise(bd.convert(bd.networks.lenet_500_300()))
    net.fc2.weight.requires_grad_(False)
    small = bd.compact(net, torch.randn(2, 784))
    small(torch.randn(2, 784)).sum().backward()
    assert small.fc1.weight.grad is not None and small.fc2.weight.grad is None


def test_an_auto_encoder_is_refused_by_its_latents_and_not_by_its_trace():
    vae = bd.networks.vae(10, input_shape=4, latent_size=2, latent_dropout="indian-buffet")
    with pytest.raises(
        bd.errors.CompactionError, match="got a VariationalAutoencoder, each example of"
    ):
        bd.compact(vae, torch.zeros(1, 4))


def test_masks_that_depend_on_the_input_are_refused():
    class Dependent(bd.BetaBernoulliDropout):
        input_dependent = True

    with pytest.raises(bd.errors.CompactionError, match="'0', whose mask depends on its input"):
        bd.compact(nn.Sequential(Dependent(3), nn.Linear(3, 2)), torch.ones(1, 3))


def test_check_catches_what_differs():
    class Noisy(nn.Module):
        def forward(self, x):
            return F.dropout(x, 0.5)

    with pytest.raises(bd.errors.CompactionError, match="draw random numbers"):
        bd.compact(nn.Sequential(Noisy(), mask(50), nn.Linear(50, 3)), torch.ones(5, 50))


@pytest.mark.gpu
def test_compact_network_stays_on_its_device():
    net = randomise(bd.convert(NETWORKS["user module"][0]())).cuda()
    x = torch.randn(2, 2, 6, 6, device="cuda")
    small = bd.compact(net, x)
    assert {t.device.type for t in small.state_dict().values()} == {"cuda"}
    assert difference(net, small, x) < 1e-12


def test_a_bayesian_network_that_has_seen_data_needs_no_example(tmp_path):
    def build():
        net = nn.Sequential(bd.BetaBernoulliDropout(6), nn.Linear(6, 3))
        return bd.BayesianNetwork(net, bd.Categorical(), num_data=50)

    bnn, x = build(), torch.randn(5, 6)
    with pytest.raises(bd.errors.ConfigError, match=r"Pass compact\(\.\.\., example"):
        bd.compact(bnn)
    bnn.network[0].location.data[:2] = -9.0
    expected = bnn.eval()(x)
    small = bd.compact(bnn)
    assert small.get_submodule("1").in_features == 4
    torch.testing.assert_close(small(x), expected)
    bd.save(bnn, tmp_path / "model.pt")  # the shape is saved with the network
    torch.testing.assert_close(bd.compact(bd.load(build(), tmp_path / "model.pt"))(x), expected)


@pytest.mark.parametrize("wrong", [nn.Linear, None, len], ids=str)
def test_what_is_no_network_is_refused_by_name(wrong):
    for example in ((), (torch.ones(1, 2),)):
        with pytest.raises(
            bd.errors.ConfigError, match="a BayesianNetwork or another module, got"
        ):
            bd.compact(wrong, *example)


def test_an_example_with_a_gap_is_refused_by_name():
    x = torch.ones(3, 4)
    x[1, 2] = torch.nan
    net = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 2))
    with pytest.raises(bd.errors.DataError, match="compact: expected an example .* got NaN"):
        bd.compact(net, x)


def test_masks_of_nested_modules_are_folded_into_weights():
    body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
    net = randomise(bd.convert(nn.Sequential(body, nn.Linear(8, 3))))
    small = assert_exact(net, torch.randn(2, 6))
    assert not any(node.target in (torch.mul, operator.mul) for node in small.graph.nodes)
