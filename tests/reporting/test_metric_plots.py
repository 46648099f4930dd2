import sys

import pytest
import torch

from bayesdrop.errors import ConfigError, ShapeError
from bayesdrop.metrics import regression_calibration, risk_coverage

pytest.importorskip("matplotlib")
import matplotlib

from bayesdrop.reporting import plots
from bayesdrop.reporting.plots import plot_coverage, plot_risk_coverage, plot_uncertain_images


def samples(rows=40):
    return torch.randn(4, rows, 3).softmax(-1)


def result():
    return regression_calibration(torch.randn(5, 60), torch.randn(60), 0.5)


def curve():
    return risk_coverage(samples(), torch.arange(40) % 3)


FIGURES = {
    "coverage": lambda: plot_coverage({"a": result(), "b": result()}),
    "selective": lambda: plot_risk_coverage({"a": curve(), "b": curve()}, target_risk=0.1),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_axis_is_labelled_and_the_file_is_png(name, tmp_path):
    figure = FIGURES[name]()
    for axes in figure.axes:
        assert axes.get_ylabel() and axes.get_xlabel()
    assert figure.axes[0].get_title(loc="left")
    path = plots.save_figure(figure, tmp_path / "figure.png")
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_drawing_leaves_no_global_state():
    before = dict(matplotlib.rcParams)
    loaded = "matplotlib.pyplot" in sys.modules
    for draw in FIGURES.values():
        draw()
    plot_uncertain_images(torch.rand(40, 5, 5), samples())
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == loaded


def test_the_lines_are_the_results():
    values = result()
    line = plot_coverage({"a": values}).axes[0].lines[1]
    assert line.get_ydata().tolist() == values.coverage.tolist()
    values = curve()
    line = plot_risk_coverage({"a": values}).axes[0].lines[0]
    assert line.get_ydata().tolist() == (100 * values.risk).tolist()


def test_reliability_bands_surround_the_accuracy():
    p = torch.tensor([[0.75, 0.25]]).repeat(80, 1)
    figure = plots.plot_reliability({"a": p}, torch.tensor([0] * 60 + [1] * 20))
    (band,) = figure.axes[0].collections
    ends = band.get_paths()[0].vertices[:, 1]
    assert ends.min() < 0.75 < ends.max() and 0.1 < ends.max() - ends.min() < 0.3


@pytest.mark.parametrize("shape", [(5, 5), (1, 5, 5), (3, 5, 5)])
def test_the_grid_shows_the_most_and_the_least_uncertain(shape, tmp_path):
    values = samples()
    entropy = torch.special.entr(values.mean(0)).sum(-1)
    images = torch.arange(40.0).reshape(-1, *[1] * len(shape)) + torch.rand(40, *shape)
    figure = plot_uncertain_images(images, values, torch.arange(40) % 3, rows=1, columns=6)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0].endswith(f"{float(entropy.max()):.2f}")
    assert titles[6].endswith(f"{float(entropy.min()):.2f}")
    first = int(entropy.argmax())
    guess = int(values.mean(0)[first].argmax())
    assert titles[0].startswith(f"{guess}" + ("," if guess == first % 3 else f" ({first % 3}),"))
    plots.save_figure(figure, tmp_path / "figure.png")


def test_fewer_images_than_places_leave_gaps():
    figure = plot_uncertain_images(torch.rand(3, 5, 5), samples(3)[0])
    assert sum(bool(axes.images) for axes in figure.axes) == 6


def test_bad_images_are_refused():
    with pytest.raises(ShapeError, match=r"images of shape \(N, H, W\).*got \(40, 25\). Flat"):
        plot_uncertain_images(torch.rand(40, 25), samples())
    with pytest.raises(ShapeError, match="expected 30 predictions, one for each image, got 40"):
        plot_uncertain_images(torch.rand(30, 5, 5), samples())
    with pytest.raises(ConfigError, match="expected rows and columns of at least 1, got 0 and 8"):
        plot_uncertain_images(torch.rand(40, 5, 5), samples(), rows=0)
