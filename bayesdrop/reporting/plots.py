"""Figures of a report. They use matplotlib's figure objects, never pyplot's global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bayesdrop.errors import BayesdropError
from bayesdrop.metrics.reliability_diagram import reliability
from bayesdrop.reporting.style import COLOURS, stacked_axes, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FEWEST = 5


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG and return its path.

    Raises:
        BayesdropError: If the file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, format="png")
    except OSError as error:
        raise BayesdropError(
            f"figure {path}",
            expected="a folder that can be written",
            got=str(error),
            hint="Choose another --out.",
        ) from error
    return path


@styled
def reliability_diagram(
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


@styled
def keep_probability_curves(
    keep_probs: Mapping[str, Tensor], *, threshold: float = 1e-3
) -> Figure:
    """Draw each layer's keep probabilities from the largest to the smallest.

    Args:
        keep_probs: Layer name to keep probabilities ``(K,)``.
        threshold: Units below it are pruned; 0 has no line.
    """
    figure, (axes,) = stacked_axes(6.4, 4.0)
    for index, (name, value) in enumerate(keep_probs.items()):
        kept = int((value >= threshold).sum())
        rank = 100 * torch.arange(1, len(value) + 1) / len(value)
        axes.plot(
            rank.numpy(),
            value.detach().sort(descending=True).values.clamp(min=1e-6).numpy(),
            color=COLOURS[index % len(COLOURS)],
            linewidth=1.8,
            label=f"{name}: {kept} of {len(value)} kept",
        )
    if threshold > 0:
        axes.axhline(threshold, color="#999999", linewidth=1, linestyle="--")
        axes.annotate(
            f"pruned below {threshold:g}",
            (1.0, threshold),
            xycoords=("axes fraction", "data"),
            xytext=(-4, -4),
            textcoords="offset points",
            ha="right",
            va="top",
            color="#777777",
            fontsize=8,
        )
    axes.set(
        yscale="log",
        ylim=(7e-7, 1.5),
        xlim=(0, 100),
        xlabel="units of the layer, sorted (%)",
        ylabel="keep probability",
        title="Keep probabilities by layer",
    )
    axes.legend(loc="lower left")
    return figure


@styled
def input_keep_image(keep_prob: Tensor, image_shape: Sequence[int]) -> Figure:
    """Draw the keep probabilities of the input layer where its pixels are.

    Args:
        keep_prob: Keep probabilities of all ``C * H * W`` inputs; channels are averaged.
        image_shape: ``(C, H, W)``.
    """
    figure, (axes,) = stacked_axes(4.4, 3.8)
    pixels = keep_prob.detach().cpu().reshape(tuple(image_shape)).mean(0)
    image = axes.imshow(
        pixels.numpy(), cmap="cividis", vmin=0.0, vmax=1.0, interpolation="nearest"
    )
    bar = figure.colorbar(image, ax=axes, shrink=0.9)
    bar.set_label("keep probability")
    axes.grid(False)
    axes.set(title="Keep probability of each input pixel", xlabel="column", ylabel="row")
    _integer_ticks(axes, pixels.shape)
    return figure


@styled
def training_history(stages: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
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


@styled
def ood_histogram(
    in_distribution: Tensor,
    out_of_distribution: Mapping[str, Tensor],
    *,
    score: str = "predictive entropy (nats)",
    name: str = "test set",
) -> Figure:
    """Draw the distribution of an uncertainty score on known and unknown images.

    Args:
        in_distribution: Scores of the test set ``(N,)``.
        out_of_distribution: Data-set name to scores ``(M,)``.
        score: Axis label.
        name: Name of the test set.
    """
    figure, (axes,) = stacked_axes(6.4, 4.0)
    groups = {name: in_distribution, **out_of_distribution}
    top = max(float(values.max()) for values in groups.values())
    edges = torch.linspace(0.0, max(top, 1e-6), 31).tolist()
    for index, (label, values) in enumerate(groups.items()):
        colour = COLOURS[(2, 1, 3, 4, 5, 0)[index % 6]]
        weights = torch.full_like(values, 100.0 / len(values)).numpy()
        title = f"{label} (out)" if index else f"{label} (in)"
        style: dict[str, Any] = {"color": colour, "alpha": 0.45, "label": title}
        axes.hist(values.numpy(), bins=edges, weights=weights, **style)
    axes.set(xlabel=score, ylabel="share of the images (%)", xlim=(0, None))
    axes.set(title="Uncertainty on known and unknown images")
    axes.legend()
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


def _integer_ticks(axes: Axes, shape: Sequence[int]) -> None:
    step = max(1, max(shape) // 7)
    axes.set_xticks(range(0, shape[1], step))
    axes.set_yticks(range(0, shape[0], step))
