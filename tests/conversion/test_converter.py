import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd
from bayesdrop.errors import ConfigError, ConversionWarning
from bayesdrop.nn import named_weight_layers
from tests.compression.networks import NETWORKS, Block


def layers(net):
    return {
        name: (layer.num_units, layer.unit_dim)
        for name, layer in net.named_modules()
        if isinstance(layer, bd.BayesianDropout)
    }


def dropouts(net):
    return [m for m in net.modules() if isinstance(m, (nn.Dropout, nn.Dropout2d))]


def convs_then(*tail):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), *tail)


@pytest.mark.parametrize("name", NETWORKS)
def test_converted_network_trains_as_a_bayesian_network(name):
    build, shape = NETWORKS[name]
    net = bd.convert(build())
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=8)
    x, y = torch.randn(4, *shape), torch.tensor([0, 1, 2, 0])
    bnn.loss(x, y).loss.backward()
    for layer in layers(net):
        assert bool(net.get_submodule(layer).location.grad.isfinite().all())
    assert net.eval()(x).shape == (4, bnn.network(x).shape[1])


@pytest.mark.parametrize("name", NETWORKS)
def test_masks_of_one_give_the_original_network(name):
    build, shape = NETWORKS[name]
    original = build().eval()
    net = bd.convert(original)
    ones = {layer: torch.ones(units) for layer, (units, _) in layers(net).items()}
    x = torch.randn(2, *shape)
    with torch.no_grad(), bd.impose_masks(net, ones):
        assert torch.equal(net(x), original(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_argument_is_not_changed_and_state_is_kept(name):
    original = NETWORKS[name][0]()
    children = [name for name, _ in original.named_modules()]
    state = copy.deepcopy(original.state_dict())
    net = bd.convert(original)
    assert [name for name, _ in original.named_modules()] == children
    assert all(torch.equal(state[k], v) for k, v in original.state_dict().items())
    converted = net.state_dict()
    assert all(torch.equal(converted[k], v) for k, v in state.items())
    assert not {p.data_ptr() for p in net.parameters()} & {
        p.data_ptr() for p in original.parameters()
    }


def test_layers_of_lenet5():
    assert layers(bd.convert(bd.networks.lenet5_caffe())) == {
        "conv1_dropout": (20, -3),
        "conv2_dropout": (50, -3),
        "fc1_dropout": (800, -1),
        "fc2_dropout": (500, -1),
    }


def test_layers_of_resnet18_gate_every_branch_and_no_identity():
    net = bd.convert(NETWORKS["resnet18"][0]())
    found = layers(net)
    assert len(found) == 20 + 1
    assert found["layer2.0.downsample.0_dropout"] == (128, -3)
    assert found["layer1.0.conv2_dropout"] == (64, -3)
    graph = {node.name: node for node in net.graph.nodes}
    gated = graph["layer1_0_conv2_dropout"]
    assert gated.args[0].target == "layer1.0.bn2"
    assert [user.name for user in gated.users] == ["add"]


def test_user_module_loses_its_dropouts_to_masks():
    net = bd.convert(Block())
    assert list(layers(net)) == ["conv1_dropout", "conv2_dropout", "fc1_dropout", "fc2_dropout"]
    assert dropouts(net) == []


def test_replace_dropout_can_be_refused():
    net = bd.convert(Block(), replace_dropout=False)
    assert len(dropouts(net)) == 2 and len(layers(net)) == 4
    x = torch.randn(3, 2, 6, 6)
    assert torch.equal(net.eval()(x), net.eval()(x))


def test_standalone_dropout_is_replaced_in_place_where_its_width_is_known():
    net = convs_then(nn.Dropout2d(0.2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2))
    assert layers(bd.convert(net, linear=False, conv=False)) == {"3": (4, -3)}
    dense = nn.Sequential(
        nn.Dropout(0.1), nn.ReLU(), nn.Linear(5, 2), nn.Dropout(0.1), nn.Linear(2, 2)
    )
    assert layers(bd.convert(dense, linear=False)) == {"0": (5, -1), "3": (2, -1)}
    before_conv = nn.Sequential(nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(3, 2, 1))
    assert layers(bd.convert(before_conv, linear=False)) == {"1": (3, -3)}


def test_a_dropout_of_rate_zero_is_no_dropout():
    net = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.0), nn.Unflatten(1, (5, 1)), nn.Dropout(0.0))
    assert layers(bd.convert(net)) == {"0_dropout": (4, -1)}
    given = bd.convert(net, "mc-dropout", linear=False, drop_prob=0.2, exclude="3")
    assert layers(given) == {"1": (5, -1)}


def test_a_dropout_behind_masks_that_are_joined_is_removed():
    class Fire(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1), nn.Conv2d(6, 2, 1))
            self.drop, self.end = nn.Dropout(0.5), nn.Linear(2, 2)

        def forward(self, x):
            x = self.drop(torch.cat([F.relu(self.a(x)), F.relu(self.b(x))], 1))
            return self.end(self.c(x).mean((2, 3)))

    net = bd.convert(Fire())
    assert dropouts(net) == [] and sorted(layers(net))[:2] == ["a_dropout", "b_dropout"]


def test_dropout_of_unknown_width_is_left_alone():
    net = nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (2, 2)), nn.Dropout(0.1), nn.Flatten())
    with pytest.warns(ConversionWarning, match=r"'2' \(Dropout.*width cannot be told"):
        converted = bd.convert(net)
    assert list(layers(converted)) == ["0_dropout"] and len(dropouts(converted)) == 1


def test_units_are_never_masked_twice():
    tail = (nn.Dropout2d(0.1), nn.MaxPool2d(2), nn.Dropout(0.1), nn.Flatten(), nn.Linear(36, 2))
    net = bd.convert(convs_then(*tail))
    assert list(layers(net)) == ["0_dropout", "7_dropout"] and dropouts(net) == []
    again = bd.convert(bd.convert(bd.networks.lenet5_caffe(), linear=False))
    assert len(layers(again)) == 4


def test_one_dropout_module_used_twice_becomes_two_layers():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2, self.drop = nn.Linear(4, 5), nn.Linear(5, 6), nn.Dropout(0.1)
            self.fc3 = nn.Linear(6, 2)

        def forward(self, x):
            return self.fc3(self.drop(self.fc2(self.drop(self.fc1(x)))))

    net = bd.convert(Twice(), linear=False)
    assert sorted(layers(net).values()) == [(5, -1), (6, -1)]


def test_convolutions_of_one_and_three_dimensions_and_depthwise():
    net = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 4, 3, groups=4),
                        nn.Conv1d(4, 2, 1))  # fmt: skip
    assert layers(bd.convert(net)) == {"0_dropout": (4, -2), "2_dropout": (4, -2)}
    net = nn.Sequential(nn.Conv3d(2, 4, 3), nn.Conv3d(4, 2, 1))
    assert layers(bd.convert(net)) == {"0_dropout": (4, -4)}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"conv": False}, ["fc1", "fc2"]),
        ({"linear": False}, ["conv1", "conv2"]),
        ({"select": "conv*"}, ["conv1", "conv2"]),
        ({"select": ["conv1", "fc2"]}, ["conv1", "fc2"]),
        ({"exclude": "fc*"}, ["conv1", "conv2"]),
        ({"select": lambda name, module: module.weight.numel() < 1000}, ["conv1"]),
    ],
)
def test_selection(options, expected):
    net = bd.convert(bd.networks.lenet5_caffe(), **options)
    assert list(layers(net)) == [f"{name}_dropout" for name in expected]


def test_input_units_can_be_left_out():
    net = bd.convert(bd.networks.lenet_500_300(), input_dropout=False)
    assert list(layers(net)) == ["fc2_dropout", "fc3_dropout"]


def test_options_and_overrides_reach_the_layers():
    net = bd.convert(
        bd.networks.lenet5_caffe(),
        temperature=0.5,
        kl_scale=2.0,
        overrides={"conv*": {"kl_scale": 16.0}, "conv1": {"kl_scale": 40.0}},
    )
    assert [m.kl_scale for m in net.modules() if isinstance(m, bd.BayesianDropout)] == [
        40.0, 16.0, 2.0, 2.0,
    ]  # fmt: skip
    assert float(net.fc1_dropout.temperature) == 0.5


def test_random_weights_go_in_before_the_masks():
    plain = nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)
    )
    # Spike and slab: the rate of the masks is nn.Dropout's, that of the weights is given.
    only = {"linear": False, "conv": False}
    weights = {"dropout": "gaussian-dropconnect", "drop_prob": 0.2, "exclude": "0"}
    net = bd.convert(plain, "mc-dropout", weights=weights, **only)
    assert {name: layer.key for name, layer in named_weight_layers(net)} == {
        "3": "gaussian-dropconnect",
        "5": "gaussian-dropconnect",
    }
    assert float(net.get_submodule("3").drop_prob) == pytest.approx(0.2)
    assert layers(net) == {"2": (6, -1)}
    assert float(net.get_submodule("2").keep_prob()[0]) == pytest.approx(0.7)
    x = torch.randn(5, 4)
    torch.testing.assert_close(net.eval()(x), plain.eval()(x))
    # As by two calls, where no nn.Dropout is in the way; the name alone is enough.
    bare = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    once = bd.convert(bare, "beta-bernoulli", weights="sparse-variational")
    twice = bd.convert(bd.convert(bare, "sparse-variational"), "beta-bernoulli")
    assert repr(once) == repr(twice)
    assert list(layers(once)) == ["0_dropout", "2_dropout"]


@pytest.mark.parametrize("weights", ["beta-bernoulli", "sparse", {"drop_prob": 0.2}])
def test_random_weights_of_unknown_name_are_refused(weights):
    with pytest.raises(ConfigError, match="random weights"):
        bd.convert(nn.Linear(3, 2), weights=weights)


def test_modes_and_dtypes_are_kept():
    original = NETWORKS["vgg"][0]().to(torch.float32)
    original.bn1.eval()
    net = bd.convert(original)
    assert net.training and net.conv1_dropout.training and not net.bn1.training
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert not bd.convert(original.eval()).conv1_dropout.training


def test_sites_are_named_after_the_layers():
    net = bd.convert(bd.networks.lenet_500_300())
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=10)
    assert [name for name, _ in bnn.named_dropout_layers()] == [
        "fc1_dropout", "fc2_dropout", "fc3_dropout",
    ]  # fmt: skip


def test_without_dropout_undoes_convert():
    for name in ("user module", "lenet5-caffe"):
        build, shape = NETWORKS[name]
        original = build().eval()
        net = bd.convert(original)
        plain = bd.without_dropout(bd.BayesianNetwork(net, bd.Categorical(), num_data=5))
        x = torch.randn(2, *shape)
        assert layers(plain) == {} and len(layers(net)) == 4
        assert torch.equal(plain(x), original(x))
        assert set(plain.state_dict()) == set(original.state_dict())
        assert not any(module.training for module in bd.without_dropout(net).modules())
    for training in (True, False):
        plain = bd.without_dropout(bd.BetaBernoulliDropout(3).train(training))
        assert isinstance(plain, nn.Identity) and plain.training == training


def test_without_dropout_keeps_the_mean_of_weights_that_are_pruned():
    random = bd.nn.SparseVariational(nn.Linear(3, 2), init_log_variance=20.0)
    assert not random.kept().any()
    plain = bd.without_dropout(nn.Sequential(random))[0]
    assert type(plain) is nn.Linear and torch.equal(plain.weight, random.weight)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        if x.sum() > 0:
            return self.fc(x)
        return x


class Looping(Branching):
    def forward(self, x):
        for _ in range(x.shape[0]):
            x = self.fc(x)
        return x


@pytest.mark.parametrize("build", [Branching, Looping])
def test_control_flow_is_converted_and_compacted_by_parts(build):
    net = bd.convert(build()).eval()
    assert type(net) is build and net.fc.mask.num_units == 3
    net.fc.mask.set_posterior(torch.tensor([1e-5, 3.0, 5.0]))
    for x in (torch.ones(2, 3), -torch.ones(2, 3)):
        small = bd.compact(net, x)
        torch.testing.assert_close(small(x), net(x))
        assert not list(bd.nn.named_dropout_layers(small))


class Hidden(nn.Module):
    """A feed-forward block as T5 has it: a dropout between activation and last layer."""

    def __init__(self):
        super().__init__()
        self.wi, self.wo, self.dropout = nn.Linear(3, 5), nn.Linear(5, 3), nn.Dropout(0.2)

    def forward(self, x):
        return self.wo(self.dropout(F.relu(self.wi(x))))


class Head(nn.Module):
    """A head as RoBERTa has it: one dropout before each of two layers."""

    def __init__(self):
        super().__init__()
        self.dense, self.out, self.dropout = nn.Linear(3, 3), nn.Linear(3, 2), nn.Dropout(0.2)

    def forward(self, x):
        return self.out(self.dropout(torch.tanh(self.dense(self.dropout(x)))))


class Encoder(Branching):
    def __init__(self):
        super().__init__()
        self.ff, self.head = Hidden(), Head()

    def forward(self, x):
        return self.head(super().forward(self.ff(x)))


def test_units_are_masked_once_by_parts():
    net = bd.convert(Encoder())
    assert set(layers(net)) == {f"{n}.mask" for n in ("fc", "ff.wo", "head.dense", "head.out")}
    assert dropouts(net) == []
    rates = bd.convert(Encoder(), "mc-dropout", select=lambda n, _: n.startswith("ff"))
    assert list(layers(rates)) == ["ff.wo.mask"] and rates.ff.wo.mask.drop_prob == 0.2


class Reused(Branching):
    def forward(self, x):
        return self.fc(F.relu(self.fc(x)))


def two_places():
    shared = nn.Linear(3, 3)
    return nn.Sequential(shared, nn.ReLU(), shared)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (Reused, r"called once in forward, got 'fc', called 2 times\. Pass exclude='fc'"),
        (two_places, r"called once in forward, got '0', called 2 times\. Pass exclude='0'"),
        (nn.ReLU, "at least one Linear"),
    ],
)
def test_network_that_cannot_be_converted_is_refused_with_the_reason(build, message):
    with pytest.raises(bd.errors.ConversionError, match=message):
        bd.convert(build())


def test_empty_selection_is_refused():
    with pytest.raises(bd.errors.ConversionError, match=r"got none of \['fc1', 'fc2', 'fc3'\]"):
        bd.convert(bd.networks.lenet_500_300(), linear=False)


@pytest.mark.parametrize("argument", ["select", "exclude"])
def test_pattern_without_a_layer_is_refused(argument):
    with pytest.raises(bd.errors.ConfigError, match="unknown layer 'fc_1'. Did you mean 'fc1'"):
        bd.convert(bd.networks.lenet_500_300(), **{argument: "fc_1"})


def test_override_without_a_layer_and_unknown_names_are_refused():
    net = bd.networks.lenet_500_300()
    with pytest.raises(bd.errors.ConfigError, match="unknown layer 'conv1'"):
        bd.convert(net, overrides={"conv1": {"kl_scale": 40}})
    with pytest.raises(bd.errors.ConfigError, match="Did you mean 'beta-bernoulli'"):
        bd.convert(net, "beta-bernouli")
    with pytest.raises(bd.errors.ConfigError, match="temprature"):
        bd.convert(net, temprature=0.1)


class WindowAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(4, 4)

    def forward(self, x):
        windows = x.unflatten(1, (2, 4)).flatten(0, 1)
        return self.proj(windows).unflatten(0, (-1, 2)).flatten(1)


def test_layers_that_see_windows_of_an_example_are_left():
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), WindowAttention(), nn.Linear(8, 2))
    with pytest.warns(ConversionWarning, match=r"'2\.proj'.*it sees windows"):
        masked = bd.convert(net)
    assert not any(name.startswith("2.") for name, _ in bd.nn.named_dropout_layers(masked))
    data = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
    bnn = bd.BayesianNetwork(masked, bd.Categorical(), num_data=4)
    assert len(bd.fit(bnn, data, epochs=1, batch_size=2, progress=False).history) == 1
