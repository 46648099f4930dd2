import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesdrop as bd
from bayesdrop.errors import ConfigError, DataError, ShapeError

pytest.importorskip("matplotlib")
import matplotlib

from bayesdrop.diagnostics import class_averaged_masks, class_correlations
from bayesdrop.reporting import plots


def network():
    """Gates that are open where their input is at least 1, and closed where it is not positive."""
    gate = bd.DependentBetaBernoulliDropout(4, init_shift=0.0, gate_mean="naive")
    fixed = bd.BetaBernoulliDropout(3)
    fixed.location.data[0] = -9.0
    return nn.Sequential(nn.Flatten(), gate, nn.Linear(4, 3), nn.ReLU(), fixed, nn.Linear(3, 2))


def labelled():
    x = torch.tensor([[1, 1, 0, -1], [2, 0, 0, -1], [1, -1, 1, 1], [5, 0, 1, 1], [1, 0, 3, 2.0]])
    return x.reshape(5, 1, 2, 2), torch.tensor([0, 0, 1, 1, 1])


def masks():
    return class_averaged_masks(network(), labelled())


def sticks():
    net = nn.Sequential(bd.IndianBuffetDropout(6), nn.Linear(6, 3), bd.IndianBuffetDropout(3))
    net[0].sticks.set_posterior(torch.linspace(4.0, -6.0, 6).exp())
    net[0].rank_units([1.0, 5.0, 3.0, 4.0, 2.0, 6.0])
    return net


FIGURES = {
    "images": lambda: plots.plot_class_masks(masks()["1"], (1, 2, 2)),
    "correlations": lambda: plots.plot_class_correlations(masks(), class_names=["a", "long"]),
    "sticks": lambda: plots.plot_sticks(sticks()),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_written_and_leave_no_global_state(name, tmp_path):
    before = dict(matplotlib.rcParams)
    loaded = "matplotlib.pyplot" in sys.modules
    figure = FIGURES[name]()
    assert figure.axes[0].get_title(loc="left")
    assert any(axes.get_ylabel() for axes in figure.axes)
    path = plots.save_figure(figure, tmp_path / "figure.png")
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == loaded


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_masks_are_averaged_by_class_in_any_batches(batch_size):
    net, (x, y) = network(), labelled()
    net[1].train()
    loader = DataLoader(TensorDataset(x, y), batch_size=batch_size)
    got = class_averaged_masks(bd.BayesianNetwork(net, bd.Categorical(), 5), loader)
    assert list(got) == ["1", "4"] and net[1].training
    net.eval()
    each = net[1].mean_mask(x.flatten(1)).detach()
    expected = torch.stack([each[:2].mean(0), each[2:].mean(0)])
    torch.testing.assert_close(got["1"], expected, rtol=0, atol=1e-14)
    fixed = net[4].mean_mask().detach().expand(2, -1)
    torch.testing.assert_close(got["4"], fixed, rtol=0, atol=1e-14)


def test_open_units_are_those_of_the_class():
    open_units = masks()["1"] > 0
    assert open_units.tolist() == [[True, True, False, False], [True, False, True, True]]


def test_correlations_are_those_of_numpy_over_open_units():
    values = torch.rand(4, 9)
    values[:, 5:] = 0.0
    expected = torch.from_numpy(np.corrcoef(values[:, :5].numpy()))
    got = class_correlations(values)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    assert torch.equal(class_correlations(values.numpy()), got)
    with pytest.raises(ShapeError, match="class_correlations: expected one layer's"):
        class_correlations(values[0])


def test_masks_that_are_the_same_for_all_classes_correlate_fully():
    got = class_correlations(torch.rand(6).expand(3, 6))
    torch.testing.assert_close(got, torch.ones(3, 3), rtol=0, atol=1e-12)
    assert bool(class_correlations(torch.full((3, 6), 0.3)).isnan().all())


def test_sticks_are_drawn_in_their_order():
    net = sticks()
    top, bottom = plots.plot_sticks(net).axes
    first = torch.as_tensor(top.lines[0].get_ydata())
    torch.testing.assert_close(first, net[0].posterior()["v"].mean.detach(), rtol=0, atol=1e-12)
    for layer, curve in zip((net[0], net[2]), bottom.lines[::2], strict=True):
        values = torch.as_tensor(curve.get_ydata())
        assert bool((values.diff() <= 0).all())
        expected = layer.keep_prob().detach().sort(descending=True).values.clamp(min=1e-6)
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-12)
    assert bottom.get_legend_handles_labels()[1] == [
        f"{name}: {int(net[int(name)].kept().sum())} of {size} kept"
        for name, size in (("0", 6), ("2", 3))
    ]


def test_shared_sticks_are_drawn_once():
    shared = bd.nn.IndianBuffetSticks(5)
    net = nn.ModuleList(bd.HierarchicalIndianBuffetDropout(size, sticks=shared) for size in (5, 4))
    top, bottom = plots.plot_sticks(net).axes
    assert len(top.lines) == 1 and len(bottom.lines) == 4


def test_bad_input_is_refused():
    x, y = labelled()
    net = network()
    with pytest.raises(DataError, match="one label of at least 0 for each example, got none"):
        class_averaged_masks(net, x)
    with pytest.raises(DataError, match=r"got torch.float64 of shape \(5,\)"):
        class_averaged_masks(net, (x, y.double()))
    with pytest.raises(DataError, match="at least one example of each class, got none of \\[1\\]"):
        class_averaged_masks(net, (x, 2 * y))
    with pytest.raises(DataError, match="got an empty data set"):
        class_averaged_masks(net, (x[:0], y[:0]))
    with pytest.raises(ShapeError, match=r"masks \(C, 4\).*got masks of shape \(2, 3\)"):
        plots.plot_class_masks(masks()["4"], (1, 2, 2))
    with pytest.raises(ConfigError, match="expected 2 names, one for each class, got 1"):
        plots.plot_class_masks(masks()["1"], (1, 2, 2), class_names=["a"])
    with pytest.raises(ConfigError, match="expected at least one layer, got none"):
        plots.plot_class_correlations({})
    with pytest.raises(ConfigError, match="with Indian buffet dropout layers, got a Sequential"):
        plots.plot_sticks(net)
