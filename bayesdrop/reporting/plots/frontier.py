"""Figure of the frontier along the pruning threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayesdrop.compression.frontier import Frontier
from bayesdrop.reporting.plots.style import COLOURS, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def plot_frontier(frontier: Frontier, *, chosen: float | None = None) -> Figure:
    """Draw error, NLL and ECE against the FLOPs of the compact network.

    Args:
        frontier: What ``sweep_thresholds`` returned.
        chosen: A threshold to mark, such as ``choose_threshold``'s.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    rows = sorted(frontier.rows, key=lambda row: (row.flops, row.error))
    share = [100.0 * row.flops / max(1, frontier.flops_total) for row in rows]
    titles = {"error": "error (%)", "nll": "NLL (nats per example)", "ece": "ECE"}
    for index, (axis, (key, title)) in enumerate(zip(axes, titles.items(), strict=True)):
        values = [getattr(row, key) for row in rows]
        axis.plot(share, values, marker="o", markersize=4, color=COLOURS[index + 1])
        for row, x, y in zip(rows, share, values, strict=True):
            if row.threshold == chosen:
                axis.plot(
                    [x],
                    [y],
                    marker="*",
                    markersize=14,
                    color="black",
                    label=f"threshold {chosen:.3g}",
                )
                axis.legend(loc="best")
        axis.set(xlabel="FLOPs (% of the full network)", ylabel=title)
    axes[0].set_title("As the pruning threshold moves")
    return figure
