"""Figures of width sweeps: how good one network is at each of its widths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bayesdrop.compression.width import WidthRow, WidthSweep
from bayesdrop.reporting.plots.style import COLOURS, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def plot_widths(
    sweeps: WidthSweep | Mapping[str, WidthSweep], *, chosen: float | None = None
) -> Figure:
    """Draw accuracy, NLL, ECE and OOD AUROC against the FLOPs of each width.

    Args:
        sweeps: What ``sweep_widths`` returned, or several by name.
        chosen: A width to mark, such as ``choose_width``'s.
    """
    from matplotlib.figure import Figure

    named = {"": sweeps} if isinstance(sweeps, WidthSweep) else dict(sweeps)
    sets = sorted({name for sweep in named.values() for row in sweep.rows for name in row.auroc})
    titles = ["accuracy (%)", "NLL (nats per example)", "ECE", *(f"AUROC, {n}" for n in sets)]
    figure = Figure(figsize=(3.5 * len(titles), 3.6), layout="constrained")
    axes = figure.subplots(1, len(titles), squeeze=False)[0]
    for index, (name, sweep) in enumerate(named.items()):
        colour = COLOURS[(index + 1) % len(COLOURS)]
        flops = [row.flops for row in sweep.rows]
        for axis, title in zip(axes, titles, strict=True):
            values = [_value(row, title, sets, titles) for row in sweep.rows]
            axis.plot(flops, values, marker="o", markersize=4, color=colour, label=name or None)
            for row, value in zip(sweep.rows, values, strict=True):
                if chosen is not None and row.width == chosen:
                    axis.plot([row.flops], [value], marker="*", markersize=13, color="black")
    for axis, title in zip(axes, titles, strict=True):
        axis.set(xlabel="FLOPs per example", ylabel=title)
    if len(named) > 1:
        axes[0].legend(loc="best")
    axes[0].set_title("One network at every width")
    return figure


def _value(row: WidthRow, title: str, sets: list[str], titles: list[str]) -> float:
    place = titles.index(title)
    if place < 3:
        return (row.accuracy, row.nll, row.ece)[place]
    return row.auroc.get(sets[place - 3], float("nan"))
