"""Figure of learned sticks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bayesdrop.errors import ConfigError
from bayesdrop.nn import StickBreakingDropout, named_dropout_layers
from bayesdrop.reporting.plots.style import COLOURS, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def plot_sticks(network: nn.Module) -> Figure:
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
            "plot_sticks",
            expected="a network with Indian buffet dropout layers",
            got=f"a {type(network).__name__} without",
            hint="Put them in with bd.convert(network, 'indian-buffet').",
        )
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    # What layers share has the first one's colour, and comes once.
    for index, (name, layer) in enumerate(layers):
        colour = COLOURS[index % len(COLOURS)]
        sticks = layer.sticks
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
