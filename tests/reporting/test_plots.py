import sys

import pytest
import torch

from bayesdrop.errors import BayesdropError

pytest.importorskip("matplotlib")
import matplotlib

from bayesdrop.reporting import plots


def history():
    record = {"epoch": 1, "loss": 2.0, "nll": 1.0, "kl": 1.0, "units": [3, 2], "val_error": 9.0}
    return {"plain": [{**record, "kl": 0.0, "units": []}], "sparse": [record]}


FIGURES = {
    "reliability": lambda: plots.plot_reliability(
        {"a": torch.eye(3).repeat(4, 1), "b": torch.full((12, 3), 1 / 3)}, torch.arange(12) % 3
    ),
    "keep_prob": lambda: plots.plot_keep_probabilities({"fc1": torch.tensor([0.9, 0.0, 1e-4])}),
    "input": lambda: plots.plot_input_keep_probabilities(torch.linspace(0, 1, 48), (3, 4, 4)),
    "history": lambda: plots.plot_history(history()),
    "ood": lambda: plots.plot_scores(
        {"entropy": torch.zeros(4)}, {"other": {"entropy": torch.ones(3)}}
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_axis_is_labelled_and_the_file_is_png(name, tmp_path):
    figure = FIGURES[name]()
    for axes in figure.axes:
        assert axes.get_ylabel()
    assert figure.axes[0].get_title() or figure.axes[0].get_title(loc="left")
    path = plots.save_figure(figure, tmp_path / "new" / "figure.png")
    assert path.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("name", FIGURES)
def test_drawing_leaves_no_global_state(name):
    before = dict(matplotlib.rcParams)
    loaded = "matplotlib.pyplot" in sys.modules
    FIGURES[name]()
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == loaded


def test_the_reliability_curve_passes_through_accuracy_and_confidence():
    p = torch.tensor([[0.75, 0.25]]).repeat(8, 1)
    figure = plots.plot_reliability({"a": p}, torch.tensor([0] * 6 + [1] * 2))
    _, curve = figure.axes[0].lines
    assert curve.get_xydata().tolist() == [[0.75, 0.75]]


def test_a_folder_that_cannot_be_written_raises(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BayesdropError, match="expected a folder that can be written"):
        plots.save_figure(FIGURES["ood"](), tmp_path / "file" / "x.png")
