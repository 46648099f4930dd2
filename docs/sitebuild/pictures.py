"""A picture of every registered prior: what it learns of a problem whose answer is known."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

import bayesdrop as bd

UNITS, NEEDED, DRAWS = 16, 6, 40
_TICKS = (1, 6, 11, 16)
_USED, _UNUSED, _PRIOR = "#1b6ca8", "#d1603d", "#8a8a8a"


def _problem() -> tuple[Tensor, Tensor]:
    """A linear regression on sixteen inputs, of which the first six matter."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, UNITS, generator=generator)
    weight = torch.zeros(UNITS, 1)
    weight[:NEEDED, 0] = torch.linspace(1.5, 0.5, NEEDED)
    return x, x @ weight + 0.5 * torch.randn(400, 1, generator=generator)


def _trained(key: str, epochs: int) -> tuple[bd.nn.BayesianLayer, bd.BayesianNetwork]:
    linear = nn.Linear(UNITS, 1)
    if issubclass(bd.nn.layers[key], bd.BayesianDropout):
        layer: bd.nn.BayesianLayer = bd.nn.make(key, UNITS)
        layer.bind_weights(linear, 1)
        network = nn.Sequential(layer, linear)
    else:
        layer = bd.nn.make(key, linear)
        network = nn.Sequential(layer)
    x, y = _problem()
    bnn = bd.BayesianNetwork(network, bd.Gaussian(0.5), num_data=len(x))
    exact = isinstance(layer, bd.nn.TwoValuedMask) and not hasattr(layer, "temperature")
    bd.fit(
        bnn,
        (x, y),
        epochs=epochs,
        batch_size=100,
        learning_rate=0.02,
        variational_learning_rate=0.1,
        objective=bd.inference.objectives.DisARM() if exact else None,
        seed=0,
        progress=False,
    )
    return layer, bnn.eval()


def _univariate(law: Any) -> Any:
    """Return the law of single units, out of ``to_event`` and the like."""
    while hasattr(law, "base_dist") and law.event_shape:
        law = law.base_dist
    return law


def _range(law: Any) -> tuple[float, float]:
    draws = law.sample((400,)).flatten()
    if draws.min() >= 0 and draws.max() <= 1:
        return 0.002, 0.998
    low, high = np.quantile(draws.numpy(), [0.02, 0.98])
    margin = 0.3 * (high - low) + 1e-3
    return (max(low - margin, 1e-3) if draws.min() >= 0 else low - margin), high + margin


def _density(law: Any, grid: Tensor) -> Tensor | None:
    """Return the densities of units on a grid, ``(G, K)``; None if it is no density of each."""
    try:
        values = law.log_prob(grid.reshape(-1, *[1] * max(len(law.batch_shape), 0))).exp()
    except (ValueError, RuntimeError, NotImplementedError):
        return None
    values = values.reshape(len(grid), -1)
    return values if torch.isfinite(values).all() else None


def _draw_density(axes: Axes, name: str, prior: TorchDistribution, q: TorchDistribution) -> bool:
    before, after = _univariate(prior), _univariate(q)
    if before.event_shape or after.event_shape or after.batch_shape[-1:] != (UNITS,):
        return False
    grid = torch.linspace(*_range(after), 300)
    lines = _density(before, grid), _density(after, grid)
    if lines[0] is None or lines[1] is None or not lines[1].any():  # a point has no density
        return False
    top = 0.0
    for unit, colour, label in ((-1, _UNUSED, "not needed"), (0, _USED, "needed")):
        values = lines[1][:, unit]
        axes.plot(grid.numpy(), values.numpy(), color=colour, label=f"posterior, {label}")
        top = max(top, float(values.quantile(0.97)))
    seen = float(torch.trapezoid(lines[0][:, 0], grid))
    label = "prior" if seen > 0.1 else f"prior, of which {1 - seen:.1%} is below {grid[0]:.3f}"
    axes.plot(grid.numpy(), lines[0][:, 0].numpy(), "--", color=_PRIOR, label=label)
    axes.set(title=f"{name}: density", xlabel=name, ylim=(0, 1.4 * top + 1e-3))
    axes.legend(fontsize=7)
    return True


def _draw_means(axes: Axes, name: str, prior: TorchDistribution, q: TorchDistribution) -> None:
    for law, colour, label in ((prior, _PRIOR, "prior"), (q, _USED, "posterior")):
        mean = law.sample((300,)).double().reshape(300, -1).mean(0)
        axes.plot(range(1, len(mean) + 1), mean.numpy(), "o-", ms=3, color=colour, label=label)
    axes.set(title=f"{name}: mean of 300 draws", xlabel="component")
    axes.legend(fontsize=7)


def _draw_values(axes: Axes, masks: Tensor) -> None:
    groups = masks[:, :NEEDED].flatten().numpy(), masks[:, NEEDED:].flatten().numpy()
    axes.hist(groups, bins=30, color=(_USED, _UNUSED), label=("needed", "not needed"))
    axes.set(title="values of forty masks", xlabel="z", yticks=[])
    axes.legend(fontsize=7)


def _masks(layer: bd.BayesianDropout, bnn: bd.BayesianNetwork, x: Tensor) -> Tensor:
    rows = []
    for row in range(DRAWS):
        latents = {owner: owner.draw_latents() for _, owner in bd.nn.named_owners(bnn.network)}
        recorded = bd.nn.RecordedMasks(bd.nn.PosteriorSample(latents, shared=False))
        with recorded:
            bnn.network(x[row : row + 1])
        mask = recorded.masks.get(layer)
        mask = layer.mean_mask(x[row : row + 1]) if mask is None else mask
        rows.append(mask.reshape(-1, UNITS)[0])
    return torch.stack(rows)


def _draw_mask_layer(axes: Any, layer: bd.BayesianDropout, masks: Tensor) -> None:
    prior, posterior = layer.prior(), layer.posterior()
    if prior:
        name = max(prior, key=lambda name: prior[name].event_shape.numel())
        if not _draw_density(axes[0], name, prior[name], posterior[name]):
            _draw_means(axes[0], name, prior[name], posterior[name])
    else:
        _draw_values(axes[0], masks)
    colours = [_USED] * NEEDED + [_UNUSED] * (UNITS - NEEDED)
    axes[1].bar(range(1, UNITS + 1), layer.keep_prob().tolist(), color=colours)
    axes[1].set(title="probability to be kept", xlabel="input", ylim=(0, 1.05), xticks=_TICKS)
    _draw_matrix(axes[2], masks, "masks", "viridis", low=0.0)


def _draw_weight_layer(axes: Any, layer: bd.nn.BayesianWeights) -> None:
    mean, variance = (values.reshape(-1) for values in layer.weight_moments())
    deviation = variance.sqrt()
    kept = layer.kept().reshape(-1)
    colours = np.where(kept, _USED, _PRIOR)
    places = range(1, UNITS + 1)
    axes[0].bar(
        places, mean.tolist(), yerr=(2 * deviation).tolist(), color=colours, ecolor="#444444"
    )
    axes[0].set(title="weights, mean and two deviations", xlabel="input", xticks=_TICKS)
    noise = torch.randn(DRAWS, UNITS, generator=torch.Generator().manual_seed(0))
    laws = layer.posterior()
    if "weight" in laws:
        draws = laws["weight"].sample((DRAWS,)).reshape(DRAWS, -1)
    else:
        draws = mean + noise * deviation
    _draw_matrix(axes[1], draws, "draws of the weights", "RdBu")


def _draw_matrix(axes: Axes, rows: Tensor, title: str, colours: str, low: Any = None) -> None:
    high = float(rows.abs().max()) or 1.0
    shown = axes.imshow(
        rows.numpy(), aspect="auto", cmap=colours, vmin=-high if low is None else low, vmax=high,
        interpolation="nearest", extent=(0.5, UNITS + 0.5, DRAWS, 0),
    )  # fmt: skip
    axes.set(title=title, xlabel="input", ylabel="draw", xticks=_TICKS)
    axes.figure.colorbar(shown, ax=axes)


def draw(key: str, path: Path, *, epochs: int = 80) -> None:
    """Train a layer on the problem and write its picture.

    Args:
        key: One of ``bd.nn.layers``.
        path: Where the picture goes, a PNG.
        epochs: Length of the fit, four steps each.
    """
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", category=UserWarning)
        torch.manual_seed(0)
        layer, bnn = _trained(key, epochs)
        with torch.no_grad(), mpl.rc_context({"font.size": 9, "axes.titlesize": 9}):
            of_units = isinstance(layer, bd.BayesianDropout)
            figure = Figure(figsize=(10, 2.8), layout="constrained")
            axes = figure.subplots(1, 3 if of_units else 2)
            if of_units:
                _draw_mask_layer(axes, layer, _masks(layer, bnn, _problem()[0]))
            else:
                _draw_weight_layer(axes, layer)
            figure.savefig(path, dpi=110)
