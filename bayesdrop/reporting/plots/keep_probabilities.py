"""Figures of keep probabilities: of each layer's units, and of input pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bayesdrop.reporting.plots.style import COLOURS, stacked_axes, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@styled
def plot_keep_probabilities(
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
def plot_input_keep_probabilities(keep_prob: Tensor, image_shape: Sequence[int]) -> Figure:
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


def _integer_ticks(axes: Axes, shape: Sequence[int]) -> None:
    step = max(1, max(shape) // 7)
    axes.set_xticks(range(0, shape[1], step))
    axes.set_yticks(range(0, shape[0], step))
