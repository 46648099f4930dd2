"""Figure of a classifier's calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bayesdrop.metrics.reliability_diagram import reliability
from bayesdrop.reporting.plots.style import COLOURS, stacked_axes, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FEWEST = 5


@styled
def plot_reliability(
    predictions: Mapping[str, Tensor], labels: Tensor, *, bins: int = 15
) -> Figure:
    """Draw accuracy against confidence, and how many predictions have which confidence.

    The bins are those of ECE, the bands 95 % confidence intervals of each bin's accuracy. Bins
    with fewer than five examples say nothing about accuracy and are left out of the curve.

    Args:
        predictions: Method name to class probabilities ``(N, C)``.
        labels: The true classes ``(N,)``.
        bins: Equal-width bins of confidence.
    """
    figure, axes = stacked_axes(6.0, 5.6, rows=2, height_ratios=(3, 1), sharex=True)
    top, bottom = axes
    top.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--", label="calibrated")
    edges = (torch.arange(bins + 1) / bins).numpy()
    for index, (name, probabilities) in enumerate(predictions.items()):
        shown = reliability(probabilities, labels, num_bins=bins)
        filled = shown.count >= _FEWEST
        mean, accuracy, lower, upper = (
            values[filled].numpy()
            for values in (shown.confidence, shown.accuracy, shown.lower, shown.upper)
        )
        colour = COLOURS[index % len(COLOURS)]
        top.fill_between(mean, lower, upper, color=colour, alpha=0.15, linewidth=0)
        top.plot(mean, accuracy, marker="o", markersize=4, color=colour, label=name)
        bottom.stairs(shown.count.clamp(min=0.5).numpy(), edges, color=colour, linewidth=1.5)
    top.set(ylabel="accuracy", ylim=(-0.02, 1.02))
    top.set(title=f"Reliability with 95 % bands, bins of at least {_FEWEST} examples")
    top.legend(loc="upper left")
    bottom.set(xlabel="confidence (largest class probability)", ylabel="examples", xlim=(0, 1.01))
    bottom.set(yscale="log", ylim=(0.7, None))
    bottom.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    return figure
