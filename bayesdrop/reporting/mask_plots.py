"""What masks look like: by class where they depend on the input, and by stick."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.inference.batches import Data, batches
from bayesdrop.nn import BayesianDropout, IndianBuffetSticks, MaskContext, named_dropout_layers
from bayesdrop.nn.masks.stick_breaking import StickBreakingDropout
from bayesdrop.nn.mode import evaluation_mode
from bayesdrop.program.program import Program
from bayesdrop.reporting.style import COLOURS, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS = 1000


class _MeanMasks(MaskContext):
    """Runs with mean masks and keeps each layer's last one, ``(N, K)``."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: dict[BayesianDropout, Tensor] = {}

    @override
    def mask(self, layer: BayesianDropout, x: Tensor) -> Tensor | None:
        mask = layer.mean_mask(x)
        self.masks[layer] = mask.expand(x.shape[0], -1)
        return mask


@torch.no_grad()
def class_averaged_masks(network: nn.Module, data: Data) -> dict[str, Tensor]:
    r"""Average each layer's mean mask over the examples of each class.

    .. math:: \bar m_{ck} = \frac{1}{N_c} \sum_{n: y_n = c} E[z_{nk} \mid x_n]

    Args:
        network: A ``BayesianNetwork`` or any module with Bayesian dropout layers; it is not
            changed, and runs in evaluation mode.
        data: Inputs with labels in ``0 .. C - 1``; read batch by batch.

    Returns:
        Layer name to ``(C, K)``. Masks that do not depend on the input are the same for all
        classes.

    Raises:
        DataError: If there are no labels, or a class has no example.

    Example:
        >>> import bayesdrop as bd
        >>> net = nn.Sequential(bd.DependentBetaBernoulliDropout(4), nn.Linear(4, 2))
        >>> class_averaged_masks(net, (torch.randn(6, 4), torch.arange(6) % 2))["0"].shape
        torch.Size([2, 4])
    """
    network = network.network if isinstance(network, Program) else network
    device = next(network.parameters(), torch.empty(0)).device
    totals: dict[str, Tensor] = {}
    counts = torch.zeros(0)
    recorder = _MeanMasks()
    with evaluation_mode(network), recorder:
        for x, y in batches(data, _ROWS):
            labels = _labels(y)
            missing = int(labels.max()) + 1 - len(counts) if len(labels) else 0
            counts = nn.functional.pad(counts, (0, max(0, missing)))
            member = nn.functional.one_hot(labels, len(counts)).T.to(counts)
            counts = counts + member.sum(1)
            network(x.to(device))
            for name, layer in named_dropout_layers(network):
                if layer in recorder.masks:
                    added = member @ recorder.masks[layer].cpu().to(member)
                    former = totals.get(name, torch.zeros(0, layer.num_units))
                    padding = (0, 0, 0, len(counts) - len(former))
                    totals[name] = nn.functional.pad(former, padding) + added
    empty = (counts == 0).nonzero().flatten().tolist()
    if empty or not len(counts):
        raise DataError(
            "class_averaged_masks",
            expected="at least one example of each class",
            got=f"none of {empty}" if empty else "no examples",
            hint="Number the classes 0 .. C - 1, and take a larger sample.",
        )
    return {name: total / counts[:, None] for name, total in totals.items()}


def class_correlations(masks: Tensor) -> Tensor:
    """Return the correlation between classes over the units that some class has open, ``(C, C)``.

    NaN for a class whose open units all have the same mask.

    Args:
        masks: One layer's class averages ``(C, K)``.

    Example:
        >>> class_correlations(torch.rand(3, 5)).shape
        torch.Size([3, 3])
    """
    units = masks.double()[:, (masks != 0).any(0)]
    centred = units - units.mean(1, keepdim=True)
    length = centred.norm(dim=1)
    # What rounding leaves of equal entries is no variation.
    length = torch.where(length > 1e-6 * units.norm(dim=1), length, torch.nan)
    return ((centred @ centred.T) / length / length[:, None]).clamp(-1.0, 1.0)


@styled
def class_mask_images(
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
            "class_mask_images",
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
def class_correlation_maps(
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
            "class_correlation_maps",
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


@styled
def stick_curves(network: nn.Module) -> Figure:
    """Draw learned sticks, and the keep probabilities of the layers that are made of them.

    Args:
        network: A ``BayesianNetwork`` or any module with Indian buffet dropout layers,
            hierarchical ones included.

    Raises:
        ConfigError: If there are none.
    """
    from matplotlib.figure import Figure

    layers = [
        (name, layer)
        for name, layer in named_dropout_layers(network)
        if isinstance(layer, StickBreakingDropout)
    ]
    if not layers:
        raise ConfigError(
            "stick_curves",
            expected="a network with Indian buffet dropout layers",
            got=f"a {type(network).__name__} without",
            hint="Put them in with bd.convert(network, 'indian-buffet').",
        )
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    # What layers share has the first one's colour, and comes once.
    for index, (name, layer) in enumerate(layers):
        colour = COLOURS[index % len(COLOURS)]
        sticks = next(m for m in layer.modules() if isinstance(m, IndianBuffetSticks))
        with torch.no_grad():
            means = sticks.posterior()["v"].mean.cpu()
            keep = layer.keep_prob()[layer.rank.argsort()].cpu()
        if not any(sticks in former.modules() for _, former in layers[:index]):
            top.plot(_order(means), means.numpy(), color=colour, linewidth=1.5)
        label = f"{name}: {int(layer.kept().sum())} of {layer.num_units} kept"
        kept = keep.clamp(min=1e-6).numpy()
        bottom.plot(_order(keep), kept, color=colour, linewidth=1.8, label=label)
        bottom.axhline(layer.threshold, color="#999999", linewidth=1, linestyle="--")
    top.set(ylabel="mean of the stick v", ylim=(-0.02, 1.02), title="Learned sticks")
    bottom.set(ylabel="keep probability", yscale="log", ylim=(7e-7, 1.5))
    bottom.set(xlabel="stick, in order; pruned below the dashed line")
    bottom.legend(loc="best")
    return figure


def _order(values: Tensor) -> list[int]:
    return list(range(1, len(values) + 1))


def _labels(y: Tensor | None) -> Tensor:
    if y is None or y.ndim != 1 or y.is_floating_point() or (len(y) and int(y.min()) < 0):
        got = "none" if y is None else f"{y.dtype} of shape {tuple(y.shape)}"
        raise DataError(
            "class_averaged_masks",
            expected="one label of at least 0 for each example",
            got=got,
            hint="Pass (x, y) with integer labels.",
        )
    return y.long().cpu()


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
