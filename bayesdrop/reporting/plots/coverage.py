"""Figures of a regression's calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from bayesdrop.metrics.binomial import binomial_interval
from bayesdrop.metrics.coverage import RegressionCalibration
from bayesdrop.reporting.plots.style import COLOURS, stacked_axes, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def plot_coverage(results: Mapping[str, RegressionCalibration]) -> Figure:
    """Draw observed against nominal coverage, and below it the histograms of PIT values.

    The bands are 95 % confidence intervals of the coverage; the grey band of the histogram holds
    the bars of a calibrated prediction, 95 % of each.

    Args:
        results: Method name to what ``regression_calibration`` returned.
    """
    figure, (top, bottom) = stacked_axes(6.0, 6.2, rows=2, height_ratios=(3, 2))
    top.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--", label="calibrated")
    for index, (name, result) in enumerate(results.items()):
        colour = COLOURS[index % len(COLOURS)]
        level = result.level.numpy()
        low, high = result.lower.numpy(), result.upper.numpy()
        top.fill_between(level, low, high, color=colour, alpha=0.15, linewidth=0)
        title = name if result.crps is None else f"{name}: CRPS {result.crps:.3g}"
        top.plot(level, result.coverage.numpy(), "o-", markersize=4, color=colour, label=title)
        share = 100.0 * result.pit_count / result.num_targets
        edges = torch.linspace(0.0, 1.0, len(share) + 1)
        bottom.stairs(share.numpy(), edges.numpy(), color=colour, linewidth=1.6)
    for result in list(results.values())[:1]:
        bins, count = len(result.pit_count), torch.tensor(float(result.num_targets))
        ends = binomial_interval(count / bins, count)
        least, most = (100.0 * float(end) for end in ends)
        bottom.axhspan(least, most, color="#999999", alpha=0.25, linewidth=0)
    top.set(xlabel="nominal probability", ylabel="share of targets inside")
    top.set(xlim=(0, 1), ylim=(-0.02, 1.02), title="Coverage of central intervals")
    top.legend(loc="upper left")
    bottom.set(xlabel="PIT value", ylabel="share of targets (%)", xlim=(0, 1), ylim=(0, None))
    return figure
