"""Figures of size: its posterior, and the frontier along the pruning threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayesdrop.compression.frontier import Frontier
from bayesdrop.compression.size import SizePosterior
from bayesdrop.reporting.style import COLOURS, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLES = {"units": "active units", "params": "parameters", "flops": "FLOPs per example"}


@styled
def size_figure(size: SizePosterior, *, level: float = 0.9) -> Figure:
    """Draw each layer's size as a share of the full one, and the totals' histograms.

    Args:
        size: What ``measure_size`` returned.
        level: Posterior probability of the intervals.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 6.0), layout="constrained")
    axes = figure.subplots(2, 3)
    summary = size.summary(level)
    for column, quantity in enumerate(_TITLES):
        top, bottom = axes[:, column]
        rows = [row for row in summary if row.quantity == quantity]
        for place, row in enumerate(rows):
            scale = 100.0 / max(1, row.full)
            colour = COLOURS[1] if row.layer == "total" else COLOURS[2]
            low, mean, high = (scale * value for value in (row.lower, row.mean, row.upper))
            top.plot([low, high], [place, place], color=colour, linewidth=3, alpha=0.6)
            top.plot([mean], [place], marker="o", markersize=5, color=colour)
        top.set_yticks(range(len(rows)), [row.layer for row in rows])
        top.invert_yaxis()
        top.set(xlabel=f"{_TITLES[quantity]} (% of the full network)", xlim=(0, None))
        total = size.total(quantity).double().numpy()
        bottom.hist(
            total,
            bins=_bins(total),
            color=COLOURS[1],
            alpha=0.6,
            weights=np.full(len(total), 100.0 / len(total)),
        )
        bottom.set(xlabel=f"{_TITLES[quantity]}, all layers", ylabel="share of samples (%)")
    axes[0, 0].set(ylabel="layer", title=f"Size of drawn networks, {100 * level:g} % intervals")
    return figure


def _bins(total: np.ndarray) -> int | list[float]:
    # A bin for each number, where there are few: else some bins hold two and others one.
    low, high = int(total.min()), int(total.max())
    return 30 if high - low > 40 else [edge - 0.5 for edge in range(low, high + 2)]


@styled
def frontier_figure(frontier: Frontier, *, chosen: float | None = None) -> Figure:
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
