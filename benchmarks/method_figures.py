"""Draw the two figures of the methods' table, from the committed results alone.

    python benchmarks/method_figures.py

``methods.png`` has a point for every seed; ``shift.png`` the means over seeds and corruptions.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rows import read
from tables_methods import TITLES, shown

from bayesdrop.reporting.plots import save_figure
from bayesdrop.reporting.plots.style import COLOURS, styled

ROOT = Path(__file__).parent
SETTINGS = {
    "LeNet-500-300, MNIST": ("lenet-500-300", "mnist"),
    "LeNet5-Caffe, MNIST": ("lenet5-caffe", "mnist"),
    "LeNet5-Caffe, Fashion": ("lenet5-caffe", "fashion-mnist"),
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

_SHOWN = {key for setting in SETTINGS.values() for key in shown(*setting)}
_METHODS = {k: "ensemble" if k[1] == "ensemble" else k[0] for k in TITLES if k in _SHOWN}
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


Rows = dict[tuple[str, str], list[dict]]


def load() -> dict[str, Rows]:
    """Return the entries of each row of the tables, by title of the setting."""
    found = {}
    for title, setting in SETTINGS.items():
        methods = read("methods-{}-{}.json".format(*setting))["methods"]
        found[title] = {key: methods[key[0]]["rows"][key[1]] for key in shown(*setting)}
    return found


@styled
def dots(results: dict[str, Rows]) -> Figure:
    heights = [2 + len(found) for found in results.values()]
    figure = Figure(figsize=(13, 0.25 * sum(heights)), layout="constrained")
    ratios = {"height_ratios": heights}
    axes = figure.subplots(len(results), len(METRICS), squeeze=False, gridspec_kw=ratios)
    for line, (setting, found) in zip(axes, results.items(), strict=True):
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
def curves(results: dict[str, Rows]) -> Figure:
    figure = Figure(figsize=(12, 1.0 + 2.4 * len(results)), layout="constrained")
    axes = figure.subplots(len(results), len(CURVES), squeeze=False)
    for line, (setting, found) in zip(axes, results.items(), strict=True):
        for ax, (metric, title) in zip(line, CURVES.items(), strict=True):
            _curves(ax, found, metric)
            ax.set_title(title)
            ax.set_xlabel("severity")
        line[0].set_ylabel(setting)
    pairs = [ax.get_legend_handles_labels() for ax in axes[:, 0]]
    by_label = {
        label: handle
        for handles, labels in pairs
        for handle, label in zip(handles, labels, strict=True)
    }
    figure.legend(by_label.values(), by_label.keys(), loc="outside lower center", ncols=4)
    return figure


def _curves(ax: Axes, found: Rows, metric: str) -> None:
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
