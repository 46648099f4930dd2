"""Laws of measured latency: networks take turns, and what cannot be measured is named."""

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.compression import latency


def pair():
    net = nn.Sequential(bd.BetaBernoulliDropout(6), nn.Linear(6, 3))
    net[0].set_posterior(torch.tensor([1e-4, 1e-4, 1e-4, 9.0, 9.0, 9.0]))
    x = torch.rand(2, 6)
    return net, bd.compact(net, x), x


def test_times_stand_beside_flops():
    net, small, x = pair()
    table = bd.compression.compare_latency(
        net, small, x, batch_sizes=(1, 5), ways=("eager",), repeats=2
    )
    assert [(row.way, row.batch_size) for row in table.rows] == [("eager", 1), ("eager", 5)]
    assert all(row.before > 0 and row.after > 0 for row in table.rows)
    assert table.flops_speedup == 2.0
    assert table.speedup(5) == table.rows[1].before / table.rows[1].after
    header, lines = table.table()
    assert header[1:] == ["batch 1", "batch 5", "FLOPs"]
    assert lines[0][-1] == "2.0x"
    assert not table.left_out


def test_each_time_is_in_its_column_and_the_full_network_has_no_masks(monkeypatch):
    timed = []
    monkeypatch.setitem(latency._MAKERS, "eager", lambda net, example: timed.append(net) or net)
    monkeypatch.setattr(latency, "both_times", lambda *_, **__: [(4.0, 3.0), (2.0, 1.0)])
    net, small, x = pair()
    (row,) = bd.compression.compare_latency(net, small, x, batch_sizes=(1,), ways=("eager",)).rows
    assert (row.before, row.after, row.before_cpu, row.after_cpu) == (4.0, 2.0, 3.0, 1.0)
    assert not list(bd.nn.named_dropout_layers(timed[0])) and timed[1] is small


def test_onnx_is_measured_where_it_is_installed():
    pytest.importorskip("onnxscript")
    net, small, x = pair()
    table = bd.compression.compare_latency(
        net.float(), small.float(), x.float(), batch_sizes=(1,), ways=("onnx",), repeats=1
    )
    assert table.speedup(1, "onnx") > 0


def test_a_way_that_fails_is_left_out_by_name(monkeypatch):
    def broken(net, example):
        raise RuntimeError("no compiler\nfor this")

    monkeypatch.setitem(latency._MAKERS, "compile", broken)
    net, small, x = pair()
    table = bd.compression.compare_latency(
        net, small, x, batch_sizes=(1,), ways=("eager", "compile"), repeats=1
    )
    assert {row.way for row in table.rows} == {"eager"}
    assert table.left_out == {"compile": "RuntimeError: no compiler"}
    with pytest.raises(bd.errors.ConfigError, match="expected one of .*'eager', 1"):
        table.speedup(1, "compile")


@pytest.mark.parametrize(
    "options", [{"batch_sizes": ()}, {"batch_sizes": (0,)}, {"ways": ()}, {"repeats": 0}]
)
def test_numbers_are_at_least_one(options):
    with pytest.raises(bd.errors.ConfigError, match="at least one entry|>= 1, an int"):
        bd.compression.compare_latency(*pair(), **options)


def test_an_unknown_way_is_refused():
    with pytest.raises(bd.errors.ConfigError, match="way of compare_latency"):
        bd.compression.compare_latency(*pair(), ways=("tensorrt",))


def test_the_table_of_costs_has_the_measured_ratio_of_each_batch_size():
    net, small, x = pair()
    cost = bd.compression.measure_compression(net, small, x, repeats=1)
    assert set(cost.speedup) == {1, 100, 1000}
    ratio = cost.before.latency_ms[100] / cost.after.latency_ms[100]
    assert cost.speedup[100] == ratio
