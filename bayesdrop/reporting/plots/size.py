"""Figure of the posterior over size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayesdrop.compression.size import SizePosterior
from bayesdrop.reporting.plots.style import COLOURS, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLES = {"units": "active units", "params": "parameters", "flops": "FLOPs per example"}


@styled
def plot_size(size: SizePosterior, *, level: float = 0.9) -> Figure:
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
