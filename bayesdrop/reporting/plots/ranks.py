"""Figure of simulation-based calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from bayesdrop.diagnostics.simulation import SimulationBasedCalibration
from bayesdrop.metrics.binomial import binomial_interval
from bayesdrop.reporting.plots.style import COLOURS, stacked_axes, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def plot_ranks(results: Mapping[str, SimulationBasedCalibration]) -> Figure:
    """Draw what share of the true values central intervals of every probability hold.

    A right posterior lies on the diagonal, up to the grey band: 95 % of the shares of as many
    simulations lie in it. Below are posteriors that are too narrow, above those too wide.

    Args:
        results: A name for each result, such as ``{"1 mask": ..., "8 masks": ...}``.
    """
    figure, (axes,) = stacked_axes(5.0, 4.6)
    levels = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
    count = float(min(result.num_simulations for result in results.values()))
    low, high = binomial_interval(levels * count, torch.full_like(levels, count))
    axes.fill_between(levels, low, high, color="#dddddd", linewidth=0)
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--")
    for index, (name, result) in enumerate(results.items()):
        ranks = torch.cat(list(result.ranks.values()), 1).flatten().double()
        far = ((ranks + 0.5) / (result.num_draws + 1) - 0.5).abs() * 2
        shares = (far.unsqueeze(0) <= levels.unsqueeze(1)).double().mean(1)
        axes.plot(levels, shares, color=COLOURS[index % len(COLOURS)], linewidth=2, label=name)
    axes.set(xlabel="probability of a central interval", ylabel="share of true values in it")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set(title=f"Simulation-based calibration, {count:.0f} simulations")
    axes.legend(loc="upper left")
    return figure
