import pytest
import torch
from torch import nn

import bayesdrop as bd

pytest.importorskip("matplotlib")
import matplotlib

from bayesdrop.reporting import plots


def bayesian():
    net = nn.Sequential(
        bd.BetaBernoulliDropout(4), nn.Linear(4, 5), nn.ReLU(), bd.BetaBernoulliDropout(5),
        nn.Linear(5, 3),
    )  # fmt: skip
    for layer in (net[0], net[3]):
        layer.location.data = torch.linspace(-6.0, 3.0, layer.num_units)
    return bd.BayesianNetwork(net, bd.Categorical(), num_data=100)


def test_sizes_are_drawn_by_layer_and_in_total(tmp_path):
    before = dict(matplotlib.rcParams)
    size = bd.compression.measure_size(bayesian(), num_samples=30, example_input=torch.rand(1, 4))
    figure = plots.plot_size(size)
    assert len(figure.axes) == 6
    for axes in figure.axes:
        assert axes.get_xlabel()
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["0", "3", "total"]
    for quantity, axes in zip(("units", "params", "flops"), figure.axes[3:], strict=True):
        (bars,) = axes.containers
        assert sum(bar.get_height() for bar in bars) == pytest.approx(100)
        middle = float(size.total(quantity).double().mean())
        assert axes.get_xlim()[0] <= middle <= axes.get_xlim()[1]
    assert plots.save_figure(figure, tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
    assert dict(matplotlib.rcParams) == before


def test_the_frontier_has_a_point_for_each_threshold_and_a_star():
    data = torch.rand(30, 4), torch.arange(30) % 3
    frontier = bd.compression.sweep_thresholds(bayesian(), data, [0.0, 0.3, 0.6])
    chosen = bd.compression.choose_threshold(frontier, max_flops=frontier.flops_total)
    figure = plots.plot_frontier(frontier, chosen=chosen)
    for axes, key in zip(figure.axes, ("error", "nll", "ece"), strict=True):
        line, star = axes.lines
        assert sorted(line.get_ydata()) == sorted(getattr(row, key) for row in frontier.rows)
        (row,) = [row for row in frontier.rows if row.threshold == chosen]
        assert star.get_ydata().tolist() == [getattr(row, key)]
        assert axes.get_ylabel()
    assert len(plots.plot_frontier(frontier).axes[0].lines) == 1
