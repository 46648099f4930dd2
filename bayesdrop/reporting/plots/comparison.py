"""The figure of a comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayesdrop.reporting.estimates import metric_title
from bayesdrop.reporting.plots.style import COLOURS, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bayesdrop.reporting.compare import Comparison

_COLUMNS = 3


@styled
def plot_comparison(comparison: Comparison) -> Figure:
    """Draw every metric of every row with its interval, and the single seeds as dots.

    Args:
        comparison: What ``compare_predictions`` returned.
    """
    from matplotlib.figure import Figure

    rows, bootstrap = comparison.rows, comparison.bootstrap
    metrics = bootstrap.metrics
    lines = -(-len(metrics) // _COLUMNS)
    height = lines * (1.1 + 0.32 * len(rows))
    figure = Figure(figsize=(11.0, height), layout="constrained")
    axes = figure.subplots(lines, _COLUMNS, squeeze=False, sharey=True)
    for axis in axes.reshape(-1)[len(metrics) :]:
        axis.set_axis_off()
    for axis, metric in zip(axes.reshape(-1), metrics, strict=False):
        for place, row in enumerate(rows):
            colour = COLOURS[place % len(COLOURS)]
            found = row.estimates[metric]
            axis.plot(
                [found.lower, found.upper], [place] * 2, color=colour, linewidth=3, alpha=0.5
            )
            axis.plot([found.value], [place], marker="o", markersize=6, color=colour)
            if len(row.members) > 1:
                seeds = [bootstrap.values[name][metric] for name in row.members]
                axis.plot(seeds, [place] * len(seeds), "|", markersize=9, color=colour)
        better = "higher" if metric.startswith("auroc") else "lower"
        axis.set(xlabel=f"{metric_title(metric)}, {better} is better")
    for axis in axes[:, 0]:
        axis.set_yticks(range(len(rows)), [row.name for row in rows])
    axes[0, 0].invert_yaxis()
    level = f"{100 * bootstrap.level:g} %"
    axes[0, 0].set_title(f"{level} intervals over test examples; ticks are seeds")
    return figure
