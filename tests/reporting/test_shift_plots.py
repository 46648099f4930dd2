import pytest
import torch

from bayesdrop.diagnostics import measure_shift
from bayesdrop.errors import ConfigError

pytest.importorskip("matplotlib")
import matplotlib

from bayesdrop.reporting import plots


def curves(sharpness, severities=(1, 5)):
    def predict(x):
        return (sharpness * x.flatten(1)[:, :3]).softmax(1)

    data = torch.rand(20, 1, 8, 8), torch.arange(20) % 3
    kinds = ["gaussian-noise", "contrast", "rotation"]
    return measure_shift(predict, data, kinds=kinds, severities=severities)


def test_each_metric_has_a_panel_with_a_curve_for_each_model(tmp_path):
    before = dict(matplotlib.rcParams)
    models = {"a": curves(1.0), "b": curves(5.0)}
    figure = plots.plot_shift(models)
    for axes, metric in zip(figure.axes, ("accuracy", "nll", "ece", "entropy"), strict=True):
        assert axes.get_ylabel()
        for line, curve in zip(axes.lines, models.values(), strict=True):
            assert line.get_xdata().tolist() == [0, 1, 5]
            assert line.get_ydata().tolist() == curve.curve(metric)
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == ["a", "b"]
    assert plots.save_figure(figure, tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
    assert dict(matplotlib.rcParams) == before


def test_curves_that_do_not_go_together_are_refused():
    with pytest.raises(ConfigError, match="plot_shift: expected curves .* 2 models with 2"):
        plots.plot_shift({"a": curves(1.0), "b": curves(1.0, severities=(2,))})
    with pytest.raises(ConfigError, match="got 0 models"):
        plots.plot_shift({})
