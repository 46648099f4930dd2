import json
import math

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.compression.width import WidthRow, WidthSweep
from bayesdrop.errors import ConfigError
from bayesdrop.reporting.plots import plot_widths

WIDTHS = (0.25, 0.5, 0.75, 1.0)
KEYS = ["nested", "variational-nested"]


def dense(key="nested", **options):
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    return bd.convert(net, key, input_dropout=False, **options).eval()


def convolutional():
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 16, 3),
    )
    for module in net:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
    return bd.convert(net, "variational-nested", exclude="7").eval()


def prefix_masks(net, width):
    return {
        name: layer.prefix_mask(layer.groups_at(width))
        for name, layer in net.named_modules()
        if isinstance(layer, bd.BayesianDropout)
    }


@pytest.mark.parametrize("build", [dense, convolutional], ids=["dense", "BatchNorm"])
@pytest.mark.parametrize("width", WIDTHS)
def test_plain_network_equals_the_one_with_prefix_masks(build, width):
    net = build()
    x = torch.randn(5, 6) if build is dense else torch.randn(5, 1, 8, 8)
    small = bd.cut_to_width(net, width, x)
    with torch.no_grad(), bd.impose_masks(net, prefix_masks(net, width)):
        torch.testing.assert_close(small(x), net(x), rtol=1e-9, atol=1e-9)
    assert not any(isinstance(m, bd.BayesianDropout) for m in small.modules())
    weighted = [m for m in small.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    widths = [m.weight.shape[0] for m in weighted]
    full = [16, 8, 3] if build is dense else [8, 4, 3]
    assert widths == [math.ceil(width * w) for w in full[:-1]] + [3]


@pytest.mark.parametrize("key", KEYS)
def test_a_narrower_network_is_a_prefix_of_a_wider_one(key):
    net, x = dense(key), torch.randn(2, 6)
    nets = [bd.cut_to_width(net, width, x) for width in WIDTHS]
    for small, large in zip(nets, nets[1:], strict=False):
        for name in ("0", "2", "4"):
            a, b = small.get_submodule(name), large.get_submodule(name)
            rows, columns = a.weight.shape
            assert torch.equal(a.weight, b.weight[:rows, :columns])
            assert torch.equal(a.bias, b.bias[:rows])
    for name in ("0", "2", "4"):
        assert torch.equal(nets[-1].get_submodule(name).weight, net.get_submodule(name).weight)


def test_with_importance_the_narrower_units_are_among_the_wider_ones():
    net, x = dense(ordering="importance"), torch.randn(2, 6)
    previous = torch.zeros(0)
    for width in WIDTHS:
        first = bd.cut_to_width(net, width, x).get_submodule("0").weight
        assert all(bool((first == row).all(1).any()) for row in previous)
        previous = first
    quarter = bd.cut_to_width(net, 0.25, x).get_submodule("0").weight
    norms = net.get_submodule("2").weight.norm(dim=0)
    chosen = norms.argsort(descending=True)[:4].sort().values
    assert torch.equal(quarter, net.get_submodule("0").weight[chosen])


def test_layers_may_have_widths_of_their_own():
    net, x = dense(), torch.randn(2, 6)
    small = bd.cut_to_width(net, {"2_dropout": 5, "4_dropout": 0.5}, x)
    assert small.get_submodule("2").weight.shape == (4, 5)
    partly = bd.cut_to_width(net, {"2_dropout": 0.5}, x)
    assert partly.get_submodule("2").weight.shape == (8, 8)
    with pytest.raises(ConfigError, match="unknown nested dropout layer 'fc'"):
        bd.cut_to_width(net, {"fc": 0.5}, x)


def test_the_network_is_not_changed_and_everything_works_at_a_width():
    net = dense("variational-nested")
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=20)
    x, y = torch.randn(10, 6), torch.randint(3, (10,))
    held = bd.compression.hold_width(bnn, 0.5)
    assert held.units() == [8, 4] and bnn.units() == [16, 8]
    assert bd.kl_divergence(held).item() == 0.0
    prediction = bd.predict(held, x, num_samples=3)
    expected = bd.cut_to_width(bnn, 0.5, x)(x).softmax(-1)
    for sample in prediction.samples:
        torch.testing.assert_close(sample, expected)
    assert math.isfinite(held.train().loss(x, y).loss.item())


def test_recalibration_gives_the_statistics_of_the_width():
    net, x = convolutional(), torch.randn(40, 1, 8, 8)
    held = bd.compression.hold_width(net, 0.5, recalibrate=x, batch_size=40)
    norm = held.get_submodule("4")
    inputs = []
    handle = norm.register_forward_hook(lambda module, args, output: inputs.append(args[0]))
    with torch.no_grad():
        held(x)
    handle.remove()
    # The layer before used its batch's variance then, the unbiased one of its 1440 values now.
    torch.testing.assert_close(norm.running_mean, inputs[0].mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    assert norm.momentum == 0.1 and not norm.training
    assert not torch.equal(norm.running_mean, net.get_submodule("4").running_mean)
    small = bd.cut_to_width(net, 0.5, x[:2], recalibrate=x)
    torch.testing.assert_close(small(x), bd.compact(held, x[:2])(x), rtol=1e-2, atol=1e-2)


@pytest.fixture(scope="module")
def sweep():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bnn = bd.BayesianNetwork(dense(), bd.Categorical(), num_data=20)
        x = torch.randn(60, 6, dtype=next(bnn.parameters()).dtype)
        y = bnn(x).argmax(1)
        return bd.compression.sweep_widths(
            bnn, (x, y), WIDTHS, ood={"far": 9 * x}, repeats=1, seed=0
        )


def test_sweep_has_a_row_for_each_width(sweep):
    assert [row.width for row in sweep.rows] == list(WIDTHS)
    assert [row.units for row in sweep.rows] == [(4, 2), (8, 4), (12, 6), (16, 8)]
    # 2 (6 w + w v + 3 v), and biases, by hand
    assert [row.flops for row in sweep.rows] == [2 * (24 + 8 + 6), 184, 2 * (72 + 72 + 18), 496]
    assert sweep.rows[0].params == 24 + 4 + 8 + 2 + 6 + 3
    assert sweep.num_samples == 1
    for row in sweep.rows:
        assert row.latency_ms > 0 and row.nll > 0 and 0 <= row.auroc["far"] <= 1
    assert json.loads(json.dumps(sweep.to_dict()))["area"] == pytest.approx(sweep.area)
    assert str(sweep).count("\n") == 1 + len(WIDTHS)
    assert len(plot_widths({"a": sweep, "b": sweep}, chosen=0.5).axes) == 4


def rows(*values):
    made = [
        WidthRow(w, (1,), 1, f, ms, error=e, nll=n, ece=0.0, auroc={}) for w, f, ms, e, n in values
    ]
    return WidthSweep(tuple(made), 1, 1, 1)


def test_area_is_the_average_accuracy_over_widths():
    assert rows((0.5, 1, 1, 20.0, 1), (1.0, 2, 2, 10.0, 1)).area == pytest.approx(85.0)
    uneven = rows((0.2, 1, 1, 50.0, 1), (0.4, 2, 1, 10.0, 1), (1.0, 3, 2, 0.0, 1))
    assert uneven.area == pytest.approx((0.2 * 70 + 0.6 * 95) / 0.8)
    assert math.isnan(rows((1.0, 1, 1, 20.0, 1)).area)
    for units in (8, {"dropout": 0.5}):  # which are no shares of the groups
        assert math.isnan(
            rows((0.5, 1, 1, 20.0, 1), (1.0, 2, 2, 10.0, 1), (units, 3, 3, 0, 1)).area
        )


def test_choosing_a_width():
    table = rows((0.25, 10, 0.1, 9.0, 0.3), (0.5, 20, 0.3, 5.0, 0.2), (1.0, 40, 0.2, 5.0, 0.1))
    assert bd.choose_width(table, max_flops=20) == 0.5
    assert bd.choose_width(table, max_flops=100) == 1.0
    assert bd.choose_width(table, max_latency_ms=0.25) == 1.0
    assert bd.choose_width(table, max_latency_ms=0.25, max_flops=20) == 0.25
    assert bd.choose_width(table, min_accuracy=95.0) == 0.5
    assert bd.choose_width(table, min_accuracy=91.0) == 0.25
    with pytest.raises(ConfigError, match="a width within the limits"):
        bd.choose_width(table, min_accuracy=99.0)
    with pytest.raises(ConfigError, match="in percent"):
        bd.choose_width(table, min_accuracy=0.99)
    with pytest.raises(ConfigError, match="none of them"):
        bd.choose_width(table)


def test_networks_without_nested_layers_are_refused():
    with pytest.raises(ConfigError, match="nested dropout layers"):
        bd.cut_to_width(nn.Linear(2, 2), 0.5, torch.ones(1, 2))
    with pytest.raises(ConfigError, match="a BayesianNetwork that classifies"):
        bd.compression.sweep_widths(nn.Linear(2, 2), torch.ones(1, 2), [0.5])
    bnn = bd.BayesianNetwork(bd.NestedDropout(2), bd.Categorical(), num_data=1)
    with pytest.raises(ConfigError, match="widths to be a sequence .*, got 0.5"):
        bd.compression.sweep_widths(bnn, (torch.ones(1, 2), torch.zeros(1).long()), 0.5)


def test_sampled_weights_are_averaged_at_each_width():
    net = bd.convert(dense(), "sparse-variational")
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=20)
    x, y = torch.randn(20, 6), torch.randint(3, (20,))
    result = bd.compression.sweep_widths(bnn, (x, y), [0.5, 1.0], num_samples=4, repeats=1, seed=0)
    assert result.num_samples == 4
    assert result.rows[0].flops < result.rows[1].flops


@pytest.mark.parametrize(("width", "units"), [(48, 48), (2, 2), (1, 64), (0.25, 16)])
def test_an_integer_is_a_number_of_units_and_one_is_full_width(width, units):
    net = nn.Sequential(nn.Linear(4, 64), bd.NestedDropout(64), nn.Linear(64, 3))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=50)
    assert bd.compression.hold_width(bnn, width).units() == [units]
    cut = bd.cut_to_width(net, width, torch.randn(2, 4))
    assert cut.get_submodule("0").out_features == units
