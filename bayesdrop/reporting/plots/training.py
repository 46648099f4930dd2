"""Figure of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bayesdrop.reporting.plots.style import COLOURS, stacked_axes, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@styled
def plot_history(stages: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Draw loss, NLL and KL, validation error and units kept over the epochs of all stages.

    Args:
        stages: Stage name to the records of ``fit``, in the order they ran.
    """
    figure, axes = stacked_axes(7.2, 7.0, rows=3, height_ratios=(3, 2, 2), sharex=True)
    start, scale = 0, "log"
    ends: list[int] = []
    for records in stages.values():
        epochs = [start + record["epoch"] for record in records]
        for index, key in enumerate(("loss", "nll", "kl")):
            values = [record[key] for record in records]
            if not any(values):
                continue
            # Concrete dropout's KL lacks a constant and is negative.
            scale = "linear" if min(values) < 0 else scale
            label = {"loss": "loss = NLL + KL", "nll": "NLL", "kl": "KL"}[key]
            axes[0].plot(epochs, values, color=COLOURS[index], label=label)
        if records and "val_error" in records[0]:
            errors = [record["val_error"] for record in records]
            axes[1].plot(epochs, errors, color=COLOURS[3], label="validation, mean mask")
        _plot_units(axes[2], epochs, [record.get("units", []) for record in records])
        start += len(records)
        ends.append(start)
    for axis in axes:
        for end in ends[:-1]:
            axis.axvline(end + 0.5, color="#999999", linewidth=1, linestyle=":")
    axes[0].set(yscale=scale, ylabel="nats per example", title=_stage_title(stages))
    axes[1].set(ylabel="validation error (%)")
    axes[2].set(ylabel="units kept", xlabel="epoch", ylim=(0, None))
    for axis in (axes[0], axes[2]):
        _legend_once(axis)
    return figure


def _plot_units(axes: Axes, epochs: Sequence[int], units: Sequence[Sequence[int]]) -> None:
    if not units or not units[0]:
        return
    for layer, counts in enumerate(zip(*units, strict=True)):
        colour = COLOURS[(layer + 2) % len(COLOURS)]
        axes.plot(epochs, counts, color=colour, label=f"dropout layer {layer + 1}")


def _stage_title(stages: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    parts = [f"{name} ({len(records)} epochs)" for name, records in stages.items()]
    return "Training: " + ", then ".join(parts)


def _legend_once(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    if unique:
        axes.legend(unique.values(), unique.keys(), loc="best")
