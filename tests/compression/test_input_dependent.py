import copy
import io
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import bayesdrop as bd
from bayesdrop.compression import count_params
from tests.compression.networks import NETWORKS, keep, mask, randomise

NAMES = ["lenet-500-300", "lenet5-caffe", "vgg", "user module"]
BOTH = pytest.mark.parametrize("per_input", [False, True], ids=["dense", "per input"])


def gates(net):
    return {
        name: module
        for name, module in net.named_modules()
        if isinstance(module, bd.DependentBetaBernoulliDropout)
    }


def dependent(net, x):
    """Gates of which about a third is closed, differently for each example of x."""
    # With a scale of 1 the exact mean of a gate is hardly ever below the threshold.
    net = bd.to_dependent(net, init_shift_scale=0.02).eval()

    def standardise(layer, inputs):
        values = inputs[0].flatten(2).mean(2) if layer.unit_dim == -3 else inputs[0]
        layer.running_mean.copy_(values.mean(0))
        layer.running_var.copy_(values.var(0))

    for layer in gates(net).values():
        layer.shift_loc.data.uniform_(-0.5, 1.5)
    hooks = [layer.register_forward_pre_hook(standardise) for layer in gates(net).values()]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    return net


def masks_of(net, x):
    """Which units are open for which example, by layer."""
    found = {}
    hooks = [
        gate.register_forward_hook(
            lambda layer, inputs, _, name=name: found.update({name: layer.mean_mask(*inputs) != 0})
        )
        for name, gate in gates(net).items()
    ]
    net(x)
    for hook in hooks:
        hook.remove()
    return found


def build(name, examples=6):
    make, shape = NETWORKS[name]
    x = torch.randn(examples, *shape)
    return dependent(randomise(bd.convert(make()), pruned=0.3), x), x


def assert_exact(net, x, *, per_input):
    small = bd.compact(net, x[:2], per_input=per_input)
    assert not any(isinstance(m, bd.BayesianDropout) for m in small.modules())
    with torch.no_grad():
        for rows in (x, x[:2], *x.split(1)):
            expected = net(rows)
            bound = 1e-9 * max(1e-3, float(expected.abs().max()))
            assert float((small(rows) - expected).abs().max()) <= bound
    return small


@BOTH
@pytest.mark.parametrize("name", NAMES)
def test_compact_network_equals_the_masked_network(name, per_input):
    net, x = build(name)
    small = assert_exact(net, x, per_input=per_input)
    assert count_params(small) < 0.8 * count_params(bd.without_dropout(net))
    assert any(bool((open != open[:1]).any()) for open in masks_of(net, x).values())


@BOTH
@pytest.mark.parametrize("name", ["lenet-500-300", "lenet5-caffe"])
def test_compact_network_equals_the_masked_network_in_float32(name, per_input):
    torch.set_default_dtype(torch.float32)
    net, x = build(name)
    small = bd.compact(net, x, per_input=per_input)
    with torch.no_grad():
        assert float((small(x[:1]) - net(x[:1])).abs().max()) < 1e-5


def gate(num_units, **options):
    """A gate of which some units are closed for every input, and more for some."""
    torch.manual_seed(num_units)
    options = {"init_shift_scale": 0.1, **options}
    layer = bd.DependentBetaBernoulliDropout(num_units, **options)
    layer.open &= torch.rand(num_units) < 0.7
    layer.shift_loc.data.uniform_(-0.5, 1.0)
    layer.slope.data.normal_()
    return layer


CONV = {"unit_dim": -3}
EDGES = {
    "gate before BatchNorm": lambda: nn.Sequential(
        nn.Conv2d(2, 8, 3), gate(8, **CONV), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 4, 3, padding=1), nn.Flatten(), nn.Linear(64, 3),
    ),
    "gate before a sigmoid": lambda: nn.Sequential(
        nn.Conv2d(2, 8, 3), gate(8, **CONV), nn.Sigmoid(), nn.Flatten(), nn.Linear(128, 3)
    ),
    "pooled and flattened": lambda: nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.ReLU(), gate(8, **CONV), nn.AvgPool2d(2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(72, 3),
    ),
    "depthwise next": lambda: nn.Sequential(
        nn.Conv2d(2, 8, 3), gate(8, **CONV), nn.Conv2d(8, 8, 3, groups=8), gate(8, **CONV),
        nn.Conv2d(8, 4, 1, stride=2, dilation=1, bias=False), nn.Flatten(), nn.Linear(4, 3),
    ),
    "circular padding next": lambda: nn.Sequential(
        nn.Conv2d(2, 8, 3), gate(8, **CONV),
        nn.Conv2d(8, 4, 3, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(64, 3),
    ),
    "string padding next": lambda: nn.Sequential(
        nn.Conv2d(2, 8, 3), gate(8, **CONV), nn.Conv2d(8, 4, 3, padding="same"), nn.Flatten(),
        nn.Linear(64, 3),
    ),
    "fixed masks around": lambda: nn.Sequential(
        nn.Conv2d(2, 8, 3), mask(8, **CONV), gate(8, **CONV), mask(8, seed=1, **CONV), nn.ReLU(),
        nn.Conv2d(8, 4, 3), nn.Flatten(), mask(16, seed=2), gate(16), nn.Linear(16, 3),
    ),
    "constant under a gate": lambda: nn.Sequential(
        nn.Conv2d(2, 8, 3), mask(8, **CONV), nn.BatchNorm2d(8), nn.Softplus(), gate(8, **CONV),
        nn.Conv2d(8, 4, 3, padding=1), nn.Flatten(), nn.Linear(64, 3),
    ),
    "gate at input and output": lambda: nn.Sequential(
        gate(2, **CONV), nn.Conv2d(2, 8, 6), nn.Flatten(), gate(8)
    ),
    "unknown operation next": lambda: nn.Sequential(
        nn.Conv2d(2, 8, 3), gate(8, **CONV), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(128, 3)
    ),
}  # fmt: skip


class Tokens(nn.Module):
    """Linear layers on (N, T, K); a gate that is called twice and feeds two layers."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.gate0, self.gate1 = gate(6), gate(8)

    def forward(self, x):
        x = self.gate1(F.relu(self.fc1(self.gate0(x))))
        y = self.gate1(self.fc2(x))
        return self.fc3(y) + self.fc3(x).mean(1, keepdim=True)


class Sequences(nn.Module):
    """Convolutions in one dimension around a sum."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(6, 8, 3, padding=1), nn.Conv1d(8, 8, 3, padding=1)
        self.gate0, self.gate1 = gate(6, unit_dim=-2), gate(8, unit_dim=-2)

    def forward(self, x):
        x = F.relu(self.conv1(self.gate0(x)))
        return (x + self.gate1(self.conv2(x))).flatten(1)


@BOTH
@pytest.mark.parametrize("name", [*EDGES, "tokens", "sequences"])
def test_every_order_of_layers_is_exact(name, per_input):
    net = {"tokens": Tokens, "sequences": Sequences, **EDGES}[name]().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.bias.data.normal_()
    shape = {"tokens": (4, 6), "sequences": (6, 5)}.get(name, (2, 6, 6))
    assert_exact(net, torch.randn(5, *shape), per_input=per_input)


def test_gradients_are_the_masked_network_s():
    net, x = build("lenet5-caffe")
    small = bd.compact(net, x)
    grads = []
    for network in (net, small):
        inputs = x.clone().requires_grad_()
        network(inputs).square().sum().backward()
        grads.append(inputs.grad)
    torch.testing.assert_close(*grads, rtol=0, atol=1e-12)


@pytest.mark.parametrize("gate_mean", ["exact", "naive"])
def test_the_gate_s_tensors_give_the_mean_mask(gate_mean):
    layer = gate(6, gate_mean=gate_mean).eval()
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.1, 2.0)
    x, gate_of = torch.randn(100, 6), layer.mean_gate()
    torch.testing.assert_close(layer.mean_mask(x), gate_of(x), rtol=1e-12, atol=1e-14)


def by_sign(num_units, **options):
    """A gate that is open where its input is at least 1, and closed where it is not positive."""
    return bd.DependentBetaBernoulliDropout(
        num_units, init_slope=1.0, init_shift=0.0, init_shift_scale=1e-6, **options
    ).eval()


def lenet_by_sign():
    """LeNet-500-300 whose pixels are open where positive and whose other gates are all open."""
    net = bd.to_dependent(bd.convert(bd.networks.lenet_500_300()), init_shift_scale=0.02).eval()
    net.set_submodule("fc1_dropout", by_sign(784))
    for name in ("fc2_dropout", "fc3_dropout"):
        net.get_submodule(name).slope.data.zero_()
    return net


def positive(*counts, size=784):
    x = -torch.ones(len(counts), size)
    for row, count in zip(x, counts, strict=True):
        row[:count] = 1.0
    return x


def test_one_example_is_computed_with_its_own_inputs():
    small = bd.compact(lenet_by_sign(), positive(3, 5), per_input=True)
    rest = 2 * (500 * 300 + 300 * 10)
    for count in (1, 30, 784):
        assert bd.compression.count_flops(small, positive(count)) == 2 * count * 500 + rest
    # A batch has the units that any example has: 30 of them.
    assert bd.compression.count_flops(small, positive(30, 10)) == 2 * 30 * 500 + rest


@BOTH
def test_an_input_with_all_units_closed_gives_the_bias_s_output(per_input):
    net = lenet_by_sign()
    small = assert_exact(net, positive(0, 5, 0), per_input=per_input)
    with torch.no_grad():
        assert torch.equal(small(positive(0)), small(-5 * torch.ones(1, 784)))
    if per_input:
        assert bd.compression.count_flops(small, positive(0)) == 2 * (500 * 300 + 300 * 10)


@BOTH
@pytest.mark.parametrize("pooled", [False, True])
def test_maps_with_all_channels_closed_are_exact(pooled, per_input):
    after = [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)]
    after = after if pooled else [nn.Conv2d(4, 3, 3, padding=1)]
    net = nn.Sequential(by_sign(4, unit_dim=-3), *after).eval()
    x = torch.cat([-torch.ones(1, 4, 6, 6), torch.randn(3, 4, 6, 6)])
    assert_exact(net, x, per_input=per_input)


def test_units_that_are_closed_for_every_input_go():
    net, x = build("lenet-500-300")
    gates(net)["fc2_dropout"].prune(torch.arange(500) >= 17)
    gates(net)["fc3_dropout"].prune(torch.arange(300) >= 0)
    small = assert_exact(net, x, per_input=False)
    kept = int(gates(net)["fc2_dropout"].kept().sum())
    assert 0 < kept <= 17 and small.fc1.out_features <= kept
    torch.testing.assert_close(small(x), small(x[:1]).expand(6, -1), rtol=0, atol=1e-12)
    assert small.fc3.in_features == 1


def test_per_input_is_the_compact_network_where_masks_are_fixed():
    net = randomise(bd.convert(bd.networks.lenet_500_300()))
    x = torch.randn(2, 784)
    assert bd.compact(net, x, per_input=True).code == bd.compact(net, x).code


def test_masks_of_an_unknown_kind_are_refused_by_name():
    class Attentive(bd.BetaBernoulliDropout):
        input_dependent = True

    net = nn.Sequential(Attentive(3), nn.Linear(3, 2))
    message = r"have a mean_gate\(\), got Attentive '0', whose mask depends on its input"
    with pytest.raises(bd.errors.CompactionError, match=message):
        bd.compact(net, torch.ones(1, 3))
    with pytest.raises(bd.errors.CompactionError, match=message):
        bd.compression.measure_per_input(net, torch.ones(1, 3))


def test_compact_leaves_its_argument_alone():
    net, x = build("user module")
    net.train()
    before = copy.deepcopy(net.state_dict())
    bd.compact(net, x)
    bd.compression.measure_per_input(net, x)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())


def test_onnx_equals_torch_for_any_batch_and_any_mask(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    small = bd.compact(lenet_by_sign(), positive(9, 2), per_input=True).float()
    x = positive(9, 0, 500).float()
    bd.save_plain(small, tmp_path / "small.onnx", x, format="onnx")
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    for rows in (x, x[1:2], x[2:]):
        (got,) = session.run(["output"], {"input": rows.numpy()})
        assert torch.allclose(torch.from_numpy(got), small(rows), rtol=0, atol=1e-5)


def test_state_round_trip():
    net, x = build("lenet5-caffe", examples=2)
    small, file = bd.compact(net, x, per_input=True), io.BytesIO()
    torch.save(small.state_dict(), file)
    file.seek(0)
    other = bd.compact(net, x, per_input=True)
    for value in other.state_dict().values():
        value.zero_()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), small(x))


# -- cost --------------------------------------------------------------------------------------


def test_cost_equals_the_hand_count_for_lenet_500_300():
    cost = bd.compression.measure_per_input(lenet_by_sign(), positive(10, 20, 0))
    assert cost.units == {"fc1_dropout": 10.0, "fc2_dropout": 500.0, "fc3_dropout": 300.0}
    assert cost.units_total == {"fc1_dropout": 784, "fc2_dropout": 500, "fc3_dropout": 300}
    assert cost.flops == cost.flops_needed == 2 * (10 * 500 + 500 * 300 + 300 * 10)
    assert cost.flops_total == 1_090_000 and cost.num_examples == 3
    assert cost.speedup == 1_090_000 / cost.flops


@pytest.mark.parametrize("per_batch", [1, 4, 100])
def test_cost_equals_a_sum_over_examples(per_batch):
    net, x = build("lenet-500-300", examples=7)
    bnn = bd.BayesianNetwork(net, bd.Categorical(), 7)
    cost = bd.compression.measure_per_input(bnn, x, batch_size=per_batch)
    masks = masks_of(net, x).values()
    flops = needed = 0.0
    for a, b, c in zip(*masks, strict=True):
        counts = [int(m.sum()) for m in (a, b, c)] + [10]
        flops += sum(2 * i * o for i, o in zip(counts[:-1], counts[1:], strict=True))
        static = [int(layer.kept().sum()) for layer in gates(net).values()][1:] + [10]
        needed += sum(2 * i * o for i, o in zip(counts[:-1], static, strict=True))
    assert list(cost.units.values()) == pytest.approx(
        [float(m.double().sum(1).mean()) for m in masks], rel=1e-12
    )
    assert cost.flops == pytest.approx(flops / 7, rel=1e-12)
    assert cost.flops_needed == pytest.approx(needed / 7, rel=1e-12)
    assert cost.flops < cost.flops_needed


def test_cost_equals_the_hand_count_for_convolutions():
    net = bd.to_dependent(bd.convert(bd.networks.lenet5_caffe()), init_shift_scale=0.02).eval()
    for layer in gates(net).values():
        layer.slope.data.zero_()
    net.conv1.weight.data.mul_(1e-3)
    net.conv1.bias.data.fill_(1.0)
    net.set_submodule("conv1_dropout", by_sign(20, unit_dim=-3))
    net.conv1.bias.data[6:] = -1.0  # closed, though not for good
    net.fc1_dropout.shift_loc.data[5 * 16 :] = -1.0  # features of the first five channels are open
    cost = bd.compression.measure_per_input(net, torch.randn(3, 1, 28, 28))
    assert cost.units["conv1_dropout"] == 6 and cost.units["fc1_dropout"] == 80
    inside, first, second = 24 * 24 * 25, 8 * 8 * 25, 80 * 500 + 500 * 10
    assert cost.flops == 2 * (6 * inside + 6 * 50 * first + second)
    assert cost.flops_needed == 2 * (20 * inside + 6 * 50 * first + second)


@pytest.mark.parametrize("name", ["lenet-500-300", "lenet5-caffe", "user module"])
def test_cost_is_what_the_per_input_network_does(name):
    net, x = build(name, examples=4)
    small = bd.compact(net, x, per_input=True)
    measured = sum(bd.compression.count_flops(small, row) for row in x.split(1)) / 4
    needed = bd.compression.measure_per_input(net, x).flops_needed
    if name == "user module":  # The sum sees the first mask's zeros too: nothing is gathered.
        assert needed < measured
    else:
        assert needed == pytest.approx(measured, rel=1e-12)


@pytest.mark.parametrize("name", ["lenet-500-300", "lenet5-caffe", "vgg", "user module"])
def test_cost_of_fixed_masks_is_the_compact_network_s(name):
    make, shape = NETWORKS[name]
    net, x = randomise(bd.convert(make())), torch.randn(3, *shape)
    cost = bd.compression.measure_per_input(net, x)
    assert cost.flops == cost.flops_needed == bd.compression.count_flops(bd.compact(net, x), x)
    assert cost.flops_total == bd.compression.count_flops(net, x)
    assert list(cost.units.values()) == bd.BayesianNetwork(net, bd.Categorical(), 9).units()


def test_cost_of_the_published_units():
    net = bd.convert(bd.networks.lenet_500_300())
    for name, count in (("fc1_dropout", 100), ("fc2_dropout", 36), ("fc3_dropout", 34)):
        keep(net.get_submodule(name), range(count))
    cost = bd.compression.measure_per_input(net, torch.zeros(1, 784))
    assert cost.speedup == (784 * 500 + 500 * 300 + 3000) / (100 * 36 + 36 * 34 + 34 * 10)


def test_cost_reads_a_loader_and_is_json():
    net, x = build("lenet-500-300", examples=5)
    y = torch.zeros(5).long()
    loader = DataLoader(list(zip(x, y, strict=True)), batch_size=2)
    cost = bd.compression.measure_per_input(net, loader)
    assert cost == bd.compression.measure_per_input(net, (x, y))
    plain = json.loads(json.dumps(cost.to_dict()))
    assert plain["speedup"] == cost.speedup > plain["speedup_needed"] > 1.0


def test_no_examples_are_refused():
    net = lenet_by_sign()
    with pytest.raises(bd.errors.DataError, match="at least one example, got an empty data set"):
        bd.compression.measure_per_input(net, torch.zeros(0, 784))
    loader = DataLoader(torch.zeros(3, 784), batch_size=4, drop_last=True)
    with pytest.raises(bd.errors.DataError, match="at least one batch, got none"):
        bd.compression.measure_per_input(net, loader)
