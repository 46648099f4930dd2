"""The images a network is most and least sure about."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bayesdrop.errors import ConfigError, ShapeError
from bayesdrop.metrics.checks import Array
from bayesdrop.metrics.uncertainty import (
    ExampleRow,
    entropy_parts,
    example_table,
    least_uncertain,
    most_uncertain,
)
from bayesdrop.reporting.plots.style import styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def plot_uncertain_images(
    images: Array,
    predictions: Array,
    labels: Array | None = None,
    *,
    rows: int = 2,
    columns: int = 8,
) -> Figure:
    """Draw the images with the highest predictive entropy, and below them those with the lowest.

    Each is captioned with its predicted class, its label if that is another one, and its entropy.

    Args:
        images: ``(N, C, H, W)`` with one or three channels, or ``(N, H, W)``; each image is scaled
            to its own darkest and brightest pixel.
        predictions: Posterior samples ``(S, N, classes)``, or probabilities ``(N, classes)``.
        labels: The true classes ``(N,)``, if known.
        rows: Rows of either kind.
        columns: Images in a row.

    Raises:
        ConfigError: If there are no rows or columns.
        ShapeError: If the images are not such, or not as many as predictions.
        DataError: If the probabilities make no sense.
    """
    from matplotlib.figure import Figure

    pictures = _pictures(images, rows, columns)
    raw = torch.as_tensor(predictions)
    entropy = entropy_parts(raw if raw.ndim == 3 else raw[None]).predictive_entropy
    if len(entropy) != len(pictures):
        raise ShapeError(
            "plot_uncertain_images",
            expected=f"{len(pictures)} predictions, one for each image",
            got=str(len(entropy)),
            hint="Do both come from the same data?",
        )
    figure = Figure(figsize=(1.15 * columns, 1.45 * 2 * rows + 0.6), layout="constrained")
    halves = figure.subfigures(2, 1, squeeze=False)[:, 0]
    picks = {"Most uncertain": most_uncertain, "Least uncertain": least_uncertain}
    for half, (title, pick) in zip(halves, picks.items(), strict=True):
        chosen = example_table(raw, labels, indices=pick(entropy, rows * columns)).rows
        half.suptitle(f"{title}: predicted (true), entropy in nats", fontsize=11)
        axes = half.subplots(rows, columns, squeeze=False).reshape(-1)
        for axis in axes:
            axis.set_axis_off()
        for axis, row in zip(axes, chosen, strict=False):
            if isinstance(row, ExampleRow):
                axis.imshow(pictures[row.index].numpy(), cmap="gray", interpolation="nearest")
                wrong = row.label is not None and row.label != row.predicted
                axis.set_title(
                    f"{row.predicted}{f' ({row.label})' if wrong else ''}, "
                    f"{row.predictive_entropy:.2f}",
                    loc="center",
                    fontsize=8,
                    color="#b0306a" if wrong else "#333333",
                )
    return figure


def _pictures(images: Array, rows: int, columns: int) -> Tensor:
    """Return images ``(N, H, W)`` or ``(N, H, W, 3)`` in [0, 1]."""
    if rows < 1 or columns < 1:
        raise ConfigError(
            "plot_uncertain_images",
            expected="rows and columns of at least 1",
            got=f"{rows} and {columns}",
            hint="The defaults are 2 and 8.",
        )
    values = torch.as_tensor(images).detach().to("cpu", torch.float32)
    if values.ndim == 4 and values.shape[1] == 1:
        values = values.squeeze(1)
    if values.ndim == 4 and values.shape[1] == 3:
        values = values.permute(0, 2, 3, 1)
    elif values.ndim != 3:
        raise ShapeError(
            "plot_uncertain_images",
            expected="images of shape (N, H, W), (N, 1, H, W) or (N, 3, H, W)",
            got=str(tuple(values.shape)),
            hint="Flat inputs? Use x.reshape(-1, 28, 28).",
        )
    flat = values.reshape(len(values), -1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    return ((flat - low) / (high - low).clamp(min=1e-12)).reshape(values.shape)
