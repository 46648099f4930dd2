"""Figure of learned sticks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bayesdrop.errors import ConfigError
from bayesdrop.nn import named_dropout_layers
from bayesdrop.reporting.plots.style import COLOURS, stacked_axes, styled

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
    layers = dict(named_dropout_layers(network))
    with torch.no_grad():
        found = {name: layer.order_curves() for name, layer in layers.items()}
    curves = {name: values for name, values in found.items() if values}
    if not curves:
        raise ConfigError(
            "plot_sticks",
            expected="a network with Indian buffet dropout layers",
            got=f"a {type(network).__name__} without",
            hint="Put them in with bd.convert(network, 'indian-buffet').",
        )
    figure, (top, bottom) = stacked_axes(6.4, 5.6, rows=2, sharex=True)
    drawn: list[Tensor] = []
    # What layers share has the first one's colour, and comes once.
    for index, (name, (means, keep)) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        if not any(torch.equal(means, former) for former in drawn):
            top.plot(_order(means), means.cpu().numpy(), color=colour, linewidth=1.5)
        drawn.append(means)
        layer = layers[name]
        label = f"{name}: {int(layer.kept().sum())} of {layer.total()} kept"
        shown = keep.cpu().clamp(min=1e-6).numpy()
        bottom.plot(_order(keep), shown, color=colour, linewidth=1.8, label=label)
        bottom.axhline(layer.threshold, color="#999999", linewidth=1, linestyle="--")
    top.set(ylabel="mean of the stick v", ylim=(-0.02, 1.02), title="Learned sticks")
    bottom.set(ylabel="keep probability", yscale="log", ylim=(7e-7, 1.5))
    bottom.set(xlabel="stick, in order; pruned below the dashed line")
    bottom.legend(loc="best")
    return figure


def _order(values: Tensor) -> list[int]:
    return list(range(1, len(values) + 1))
