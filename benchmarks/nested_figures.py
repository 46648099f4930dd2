"""Draw the figures of nested dropout, from the committed results alone.

    python benchmarks/nested_figures.py

``nested.png``: what one network is worth at each of its widths, means and standard errors over
seeds of ``nested.py``. ``nested_vae.png``: auto-encoders cut to their first features, of
``nested_vae.py``.
"""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.figure import Figure
from rows import DATA, NETWORKS
from tables_nested import TITLES, VAE_TITLES, results

from bayesdrop.reporting.plots import save_figure
from bayesdrop.reporting.plots.style import COLOURS, styled

ROOT = Path(__file__).parent
FIGURES = {"error": "error %", "nll": "NLL", "ece": "ECE", "auroc": "OOD AUROC"}
STYLES = {"separate": ":", "vnd": "-", "vnd-shared": "-"}
SHOWN = ("separate", "nested-uniform", "nested-geometric", "vnd", "vnd-shared", "vnd-shared-full")
"""The tables have the other methods too."""


@styled
def nested_figure() -> Figure:
    """Error, NLL, ECE and AUROC against the FLOPs of each width; a row for each setting."""
    settings = results()
    figure = Figure(figsize=(3.4 * len(FIGURES), 2.7 * len(settings)), layout="constrained")
    axes = figure.subplots(len(settings), len(FIGURES), squeeze=False)
    for row, ((network, data), result) in zip(axes, settings.items(), strict=True):
        for index, (method, title) in enumerate((name, TITLES[name]) for name in SHOWN):
            entry = result["methods"].get(method)
            if entry is None:
                continue
            for axis, key in zip(row, FIGURES, strict=True):
                middle, spread = (
                    [_figure(at, key) for at in entry[part]] for part in ("mean", "standard_error")
                )
                style = {"color": COLOURS[index % len(COLOURS)], "markersize": 3}
                axis.errorbar(
                    [at["width"] for at in entry["mean"]],
                    middle,
                    yerr=spread,
                    marker="o",
                    linestyle=STYLES.get(method, "--"),
                    label=title,
                    **style,
                )
        for axis, label in zip(row, FIGURES.values(), strict=True):
            axis.set(ylabel=label, xlabel="share of the groups")
        row[0].set_title(f"{NETWORKS[network]}, {DATA[data]}")
    axes[0, 0].legend(fontsize=7)
    return figure


def _figure(at: dict, key: str) -> float:
    return next(iter(at["auroc"].values())) if key == "auroc" else at[key]


@styled
def vae_figure() -> Figure:
    """The bound and the squared error against the number of features that are kept."""
    result = json.loads((ROOT / "results" / "nested-vae.json").read_text())
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, 2)
    for index, (method, title) in enumerate(VAE_TITLES.items()):
        rows = result["mean"][method]
        for axis, key, sign in ((axes[0], "elbo", -1), (axes[1], "squared_error", 1)):
            axis.errorbar(
                [int(width) for width in rows],
                [sign * row[key][0] for row in rows.values()],
                yerr=[row[key][1] for row in rows.values()],
                marker="o",
                markersize=3,
                linestyle=":" if method == "plain-small" else "-",
                color=COLOURS[index % len(COLOURS)],
                label=title,
            )
    axes[0].set(xlabel="features kept", ylabel="minus the held-out ELBO, nats", yscale="log")
    axes[1].set(xlabel="features kept", ylabel="squared error of an image")
    axes[0].legend(fontsize=7)
    return figure


if __name__ == "__main__":
    save_figure(nested_figure(), ROOT / "figures" / "nested.png")
    save_figure(vae_figure(), ROOT / "figures" / "nested_vae.png")
