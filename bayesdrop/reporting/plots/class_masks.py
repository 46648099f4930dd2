"""Figures of the classes' average masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

from torch import Tensor

from bayesdrop.diagnostics.class_masks import class_correlations
from bayesdrop.errors import ConfigError, ShapeError
from bayesdrop.reporting.plots.style import styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def plot_class_masks(
    masks: Tensor, image_shape: Sequence[int], *, class_names: Sequence[str] | None = None
) -> Figure:
    """Draw the class averages of the input layer's masks where its pixels are.

    Args:
        masks: Class averages ``(C, K)`` of all ``K = channels * H * W`` inputs; channels are
            averaged.
        image_shape: ``(channels, H, W)``.
        class_names: Titles; the default is the number.

    Raises:
        ShapeError: If the sizes do not fit.
    """
    from matplotlib.figure import Figure

    if masks.ndim != 2 or len(image_shape) != 3 or masks.shape[1] != prod(image_shape):
        raise ShapeError(
            "plot_class_masks",
            expected=f"masks (C, {prod(image_shape)}) for images of shape (channels, H, W)",
            got=f"masks of shape {tuple(masks.shape)} and images {tuple(image_shape)}",
            hint="Is it the layer that masks the input?",
        )
    names = _names(class_names, len(masks))
    columns = min(5, len(masks))
    rows = -(-len(masks) // columns)
    figure = Figure(figsize=(1.7 * columns + 1.0, 1.9 * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    pixels = masks.detach().cpu().reshape(len(masks), *image_shape).mean(1)
    for axes, image, name in zip(grid, pixels, names, strict=False):
        drawn = axes.imshow(
            image.numpy(), cmap="cividis", vmin=0.0, vmax=1.0, interpolation="nearest"
        )
        axes.set(title=name, xticks=[], yticks=[])
        axes.grid(False)
    for axes in grid[len(masks) :]:
        axes.remove()
    bar = figure.colorbar(drawn, ax=list(grid[: len(masks)]), shrink=0.8)
    bar.set_label("mean mask of the class")
    return figure


@styled
def plot_class_correlations(
    masks: Mapping[str, Tensor], *, class_names: Sequence[str] | None = None
) -> Figure:
    """Draw each layer's correlation between the classes' average masks.

    Args:
        masks: What ``class_averaged_masks`` returned.
        class_names: Names of the classes; the default is the number.

    Raises:
        ConfigError: If there is no layer.
    """
    from matplotlib.figure import Figure

    if not masks:
        raise ConfigError(
            "plot_class_correlations",
            expected="at least one layer",
            got="none",
            hint="Has the network Bayesian dropout layers?",
        )
    figure = Figure(figsize=(3.1 * len(masks) + 0.8, 3.4), layout="constrained")
    grid = figure.subplots(1, len(masks), squeeze=False)[0]
    for axes, (layer, values) in zip(grid, masks.items(), strict=True):
        names = _names(class_names, len(values))
        drawn = axes.imshow(
            class_correlations(values).cpu().numpy(),
            cmap="RdBu_r",
            vmin=-1.0,
            vmax=1.0,
            interpolation="nearest",
        )
        turned = {"rotation": 90} if max(map(len, names)) > 2 else {}
        axes.set_xticks(range(len(names)), names, **turned)
        axes.set_yticks(range(len(names)), names)
        axes.grid(False)
        axes.set(title=layer, xlabel="class")
    grid[0].set(ylabel="class")
    bar = figure.colorbar(drawn, ax=list(grid), shrink=0.8)
    bar.set_label("correlation of mean masks")
    return figure


def _names(names: Sequence[str] | None, count: int) -> list[str]:
    result = [str(i) for i in range(count)] if names is None else list(names)
    if len(result) != count:
        raise ConfigError(
            "class_names",
            expected=f"{count} names, one for each class",
            got=f"{len(result)}",
            hint="load_data(...).class_names has them in order.",
        )
    return result
