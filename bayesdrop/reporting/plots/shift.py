"""Figure of dataset shift: four metrics against severity, for several models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bayesdrop.diagnostics.shift import METRICS, ShiftCurves
from bayesdrop.errors import ConfigError
from bayesdrop.reporting.plots.style import COLOURS, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLES = {
    "accuracy": "accuracy (%)",
    "nll": "NLL (nats per example)",
    "ece": "ECE",
    "entropy": "predictive entropy (nats)",
}


@styled
def plot_shift(curves: Mapping[str, ShiftCurves]) -> Figure:
    """Draw accuracy, NLL, ECE and entropy against severity: means and quartiles over kinds.

    Args:
        curves: Model to what ``measure_shift`` returned, all with the same kinds and severities.

    Raises:
        ConfigError: If there are no curves, or they differ in kinds or severities.
    """
    import numpy as np
    from matplotlib.figure import Figure

    axis_values = {(curve.kinds, curve.severities) for curve in curves.values()}
    if len(axis_values) != 1:
        raise ConfigError(
            "plot_shift",
            expected="curves of at least one model, all of the same kinds and severities",
            got=f"{len(curves)} models with {len(axis_values)} choices",
            hint="Call measure_shift with the same kinds=... and severities=...",
        )
    figure = Figure(figsize=(9.0, 6.4), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True).flatten()
    for axis, metric in zip(axes, METRICS, strict=True):
        for index, (name, curve) in enumerate(curves.items()):
            colour = COLOURS[index % len(COLOURS)]
            severities = [0, *curve.severities]
            kinds = np.array([curve.curve(metric, kind) for kind in curve.kinds])
            low, high = np.quantile(kinds, [0.25, 0.75], axis=0)
            axis.fill_between(severities, low, high, color=colour, alpha=0.15, linewidth=0)
            axis.plot(
                severities, curve.curve(metric), marker="o", markersize=4, color=colour, label=name
            )
        axis.set(ylabel=_TITLES[metric], xticks=severities)
    for axis in axes[2:]:
        axis.set_xlabel("severity (0: as it is)")
    ((kinds_used, _),) = axis_values
    axes[0].set_title(f"{len(kinds_used)} corruptions: mean, and band from quartile to quartile")
    axes[0].legend(loc="best")
    return figure
