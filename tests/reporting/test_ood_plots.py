import pytest
import torch

import bayesdrop as bd
from bayesdrop.errors import ConfigError, DataError

pytest.importorskip("matplotlib")
import matplotlib

from bayesdrop.reporting import plots


def sets():
    inside = {"entropy": torch.randn(50), "energy": torch.randn(50) - 9}
    outside = {
        name: {score: values[:40] + shift for score, values in inside.items()}
        for name, shift in (("near", 0.5), ("far", 4.0))
    }
    return inside, outside


@pytest.mark.parametrize("draw", [plots.plot_scores, plots.plot_roc])
def test_every_score_has_a_labelled_panel(draw, tmp_path):
    before = dict(matplotlib.rcParams)
    figure = draw(*sets(), name="digits")
    assert len(figure.axes) == 2
    for axes in figure.axes:
        assert axes.get_xlabel()
        assert axes.get_ylabel()
    assert len(figure.axes[0].get_legend().get_texts()) == 2 + (draw is plots.plot_scores)
    assert plots.save_figure(figure, tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
    assert dict(matplotlib.rcParams) == before


def test_histograms_hold_every_example_of_negative_scores_too():
    figure = plots.plot_scores(*sets())
    for axes in figure.axes:
        for container in axes.containers:
            assert sum(bar.get_height() for bar in container) == pytest.approx(100)


def test_roc_curves_run_from_corner_to_corner_and_name_the_auroc():
    inside, outside = sets()
    axes = plots.plot_roc(inside, outside).axes[0]
    for line in axes.lines[2:]:
        points = line.get_xydata()
        assert points[0].tolist() == [0, 0]
        assert points[-1].tolist() == [1, 1]
    auroc = bd.metrics.compare_ood(inside, outside).metrics["near"]["entropy"]["auroc"]
    assert f"near: AUROC {auroc:.3f}" in {t.get_text() for t in axes.get_legend().get_texts()}


def test_predictions_are_scored():
    net = torch.nn.Sequential(bd.BetaBernoulliDropout(4), torch.nn.Linear(4, 3))
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=9)
    inside, outside = (bd.predict(bnn, s * torch.randn(20, 4), num_samples=4) for s in (1, 3))
    assert len(plots.plot_roc(inside, {"other": outside}).axes) == 5


def test_bad_sets_are_refused():
    inside, outside = sets()
    with pytest.raises(ConfigError, match="plot_roc: expected OOD sets"):
        plots.plot_roc(inside, {})
    with pytest.raises(ConfigError, match="not named 'test set'"):
        plots.plot_roc(inside, {"test set": inside})
    with pytest.raises(ConfigError, match=r"of which \['far'\] have others"):
        plots.plot_scores(inside, {**outside, "far": {"entropy": torch.zeros(3)}})
    with pytest.raises(DataError, match="near scores of at least one example"):
        plots.plot_scores(inside, {"near": {n: v[:0] for n, v in inside.items()}})
