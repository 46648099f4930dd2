import json

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.compression import cost, count_bytes, count_params, measure_latency
from bayesdrop.errors import ConfigError
from tests.compression.networks import keep


def test_flops_and_parameters_equal_hand_counts_for_lenet_500_300():
    net = bd.networks.lenet_500_300()
    assert bd.compression.count_flops(net, torch.zeros(1, 1, 28, 28)) == 2 * (
        784 * 500 + 500 * 300 + 300 * 10
    )
    assert count_params(net) == 784 * 500 + 500 + 500 * 300 + 300 + 300 * 10 + 10
    assert count_bytes(net) == 8 * count_params(net)


def test_flops_and_parameters_equal_hand_counts_for_lenet5():
    net = bd.networks.lenet5_caffe()
    hand = 24 * 24 * 20 * 25 + 8 * 8 * 50 * 20 * 25 + 800 * 500 + 500 * 10
    assert bd.compression.count_flops(net, torch.zeros(3, 1, 28, 28)) == 2 * hand
    assert count_params(net) == 20 * 25 + 20 + 50 * 500 + 50 + 800 * 500 + 500 + 5000 + 10


def test_bytes_are_those_of_buffers_too():
    # Two parameters and two running statistics of three numbers, and an int64.
    assert count_bytes(nn.BatchNorm1d(3)) == 8 * (4 * 3 + 1)


def test_the_first_two_rounds_are_not_timed(monkeypatch):
    clock = [0.0]

    def slow_at_first():
        clock[0] += 1.0 if clock[0] < 2.0 else 0.001

    monkeypatch.setattr(cost, "_now", lambda device: clock[0])
    (time,) = cost.time_in_turns([slow_at_first], device=torch.device("cpu"), repeats=1)
    assert time == pytest.approx(1.0)  # ms


def test_flops_are_per_example():
    net = bd.networks.lenet_500_300()
    assert bd.compression.count_flops(net, torch.zeros(7, 784)) == bd.compression.count_flops(
        net, torch.zeros(1, 784)
    )


def test_counting_leaves_modes_and_statistics_alone():
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    net[2].eval()
    bd.compression.count_flops(net, torch.randn(5, 4))
    measure_latency(net, example_input=torch.randn(5, 4), repeats=1)
    assert [module.training for module in net.modules()] == [True, True, True, False]
    assert bool((net[1].running_mean == 0).all())


def test_table_compares_the_plain_networks():
    net = bd.convert(bd.networks.lenet_500_300())
    keep(net.fc1_dropout, range(264))
    keep(net.fc2_dropout, range(140))
    keep(net.fc3_dropout, range(65))
    x = torch.rand(2, 784)
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=10)
    table = bd.compression.measure_compression(
        bnn, bd.compact(bnn, x), x, batch_sizes=(1, 3), repeats=2
    )
    assert table.params_total == 545_810
    assert table.params == 264 * 140 + 140 + 140 * 65 + 65 + 65 * 10 + 10
    flops = 264 * 140 + 140 * 65 + 65 * 10
    assert table.flops_speedup == (784 * 500 + 500 * 300 + 300 * 10) / flops
    assert set(table.before.latency_ms) == set(table.after.latency_ms) == {1, 3}
    assert all(value > 0 for value in table.after.latency_ms.values())
    plain = json.loads(json.dumps(table.to_dict()))
    assert plain["bytes"] < plain["bytes_total"] and plain["flops_total"] == 1_090_000
    assert plain["latency_ms"]["threads"] == torch.get_num_threads()


def test_table_is_markdown():
    net = nn.Linear(4, 2)
    table = bd.compression.measure_compression(
        net, net, torch.rand(2, 4), batch_sizes=(1,), repeats=1
    )
    lines = str(table).splitlines()
    assert len(lines) == 2 + 3 + 1
    assert {line.count("|") for line in lines} == {5}
    assert "| parameters | 10 | 10 | 1.0x |" in lines


def test_empty_example_is_refused():
    with pytest.raises(bd.errors.DataError, match=r"at least one example, got .*\(0, 4\)"):
        bd.compression.count_flops(nn.Linear(4, 2), torch.zeros(0, 4))


@pytest.mark.parametrize("function", ["compact", "without_dropout", "hold_width", "quantise"])
def test_a_class_is_no_network(function):
    place = bd.conversion if function == "without_dropout" else bd.compression
    options = {"width": 0.5} if function == "hold_width" else {}
    with pytest.raises(ConfigError, match=f"{function}: expected a .*, got .*Linear"):
        getattr(place, function)(nn.Linear, **options)


@pytest.mark.parametrize("function", ["measure_sparsity", "cut_lora_ranks", "measure_size"])
def test_none_is_no_network(function):
    with pytest.raises(ConfigError, match=f"{function}: expected .*module, got a NoneType"):
        getattr(bd.compression, function)(None)


@pytest.mark.parametrize(
    "options", [{"repeats": 0}, {"repeats": 2.5}, {"batch_sizes": 1}, {"batch_sizes": [-1]}]
)
def test_a_pass_is_timed_at_least_once_on_one_example(options):
    net, x = nn.Linear(4, 2), torch.rand(2, 4)
    with pytest.raises(ConfigError, match=">= 1, an int|batch_sizes to be a sequence"):
        bd.compression.measure_compression(net, net, x, **options)


def test_a_slow_network_is_timed_twice_when_the_seconds_are_over():
    passes = []

    class Counted(nn.Module):
        def forward(self, x):
            passes.append(len(x))
            return x

    net = Counted()
    measure_latency(net, example_input=torch.randn(2, 4), batch_size=3, repeats=9, seconds=0.0)
    assert passes.count(3) == 3  # and one of two that is looked at
    measure_latency(net, example_input=torch.randn(2, 4), batch_size=3, repeats=4)
    assert passes.count(3) == 3 + 6
