"""Draw the two figures of the methods' table, from the committed results alone.

    python benchmarks/method_figures.py

``methods.png`` has a point for every seed; ``shift.png`` the means over seeds and corruptions.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tables_methods import TITLES

from bayesdrop.reporting.plots import save_figure
from bayesdrop.reporting.plots.style import COLOURS, styled

ROOT = Path(__file__).parent
FILES = {
    "LeNet-500-300, MNIST": "methods-lenet-500-300-mnist.json",
    "LeNet-500-300, Fashion": "methods-lenet-500-300-fashion-mnist.json",
    "LeNet5-Caffe, MNIST": "methods-lenet5-caffe-mnist.json",
    "LeNet5-Caffe, Fashion": "methods-lenet5-caffe-fashion-mnist.json",
}
PALETTE = (
    *COLOURS,
    "#7a8b2a",
    "#a0522d",
    "#2f2f2f",
    "#c0a000",
    "#5f9ea0",
    "#b56bb5",
    "#8fbc5a",
    "#d98880",
    "#1f4e79",
    "#999999",
)
"""Colours of the methods, whichever way they predict; an ensemble has one of its own."""

_METHODS = {key: "ensemble" if key[1] == "ensemble" else key[0] for key in TITLES}
_BY_METHOD = dict(zip(dict.fromkeys(_METHODS.values()), itertools.cycle(PALETTE), strict=False))
COLOUR_OF = {key: _BY_METHOD[method] for key, method in _METHODS.items()}
"""A colour for each row of the tables, the same for both ways of a method."""

METRICS = {
    "error": ("error %", 1),
    "nll": ("NLL", 1),
    "ece": ("ECE", 1),
    "aurc": ("AURC x 1000", 1000),
    "auroc": ("AUROC", 1),
}
CURVES = {"accuracy": "accuracy %", "nll": "NLL", "ece": "ECE"}


def load() -> dict[str, dict]:
    """Return the results that are there, by title of the setting."""
    paths = {title: ROOT / "results" / name for title, name in FILES.items()}
    found = {title: json.loads(p.read_text()) for title, p in paths.items() if p.exists()}
    if not found:
        raise FileNotFoundError("method_figures: expected results of benchmarks/methods.py.")
    return found


def rows(result: dict) -> dict[tuple[str, str], list[dict]]:
    """Return the entries of each row of the table, in its order."""
    return {
        key: result["methods"][key[0]]["rows"][key[1]]
        for key in TITLES
        if key[1] in result["methods"].get(key[0], {"rows": {}})["rows"]
    }


@styled
def dots(results: dict[str, dict]) -> Figure:
    heights = [2 + len(rows(result)) for result in results.values()]
    figure = Figure(figsize=(13, 0.25 * sum(heights)), layout="constrained")
    ratios = {"height_ratios": heights}
    axes = figure.subplots(len(results), len(METRICS), squeeze=False, gridspec_kw=ratios)
    for line, (setting, result) in zip(axes, results.items(), strict=True):
        found = rows(result)
        for ax, (metric, (title, factor)) in zip(line, METRICS.items(), strict=True):
            for height, (key, entries) in enumerate(found.items()):
                values = [factor * entry[metric] for entry in entries]
                ax.plot(values, [height] * len(values), "o", alpha=0.7, color=COLOUR_OF[key])
            ax.set_yticks(range(len(found)), [TITLES[key] for key in found])
            ax.invert_yaxis()
            ax.locator_params(axis="x", nbins=3)
            ax.tick_params(labelleft=ax is line[0])
            ax.set_title(title)
        line[0].set_ylabel(setting)
    return figure


@styled
def curves(results: dict[str, dict]) -> Figure:
    figure = Figure(figsize=(12, 1.0 + 2.4 * len(results)), layout="constrained")
    axes = figure.subplots(len(results), len(CURVES), squeeze=False)
    for line, (setting, result) in zip(axes, results.items(), strict=True):
        for ax, (metric, title) in zip(line, CURVES.items(), strict=True):
            _curves(ax, result, metric)
            ax.set_title(title)
            ax.set_xlabel("severity")
        line[0].set_ylabel(setting)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _curves(ax: Axes, result: dict, metric: str) -> None:
    found = rows(result)
    for key, entries in found.items():
        if key[1] == "mean" and (key[0], "sampled") in found:
            continue  # one curve a method: its samples, where it has any
        seeds = [entry["shift"][metric] for entry in entries]
        mean = [sum(values) / len(values) for values in zip(*seeds, strict=True)]
        ax.plot(
            range(len(mean)),
            mean,
            marker=".",
            color=COLOUR_OF[key],
            label=TITLES[key],
        )


def main() -> None:
    results = load()
    save_figure(dots(results), ROOT / "figures" / "methods.png")
    save_figure(curves(results), ROOT / "figures" / "shift.png")


if __name__ == "__main__":
    main()
