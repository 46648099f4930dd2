"""Figures of out-of-distribution detection: every score's histogram, and ROC curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bayesdrop.errors import ConfigError
from bayesdrop.metrics import ood_metrics, uncertainty_scores
from bayesdrop.metrics.checks import Array, as_scores
from bayesdrop.metrics.prediction import Prediction
from bayesdrop.metrics.ties import tied
from bayesdrop.reporting.plots.style import COLOURS, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AXES = {
    "entropy": "predictive entropy (nats)",
    "max_probability": "1 - largest probability",
    "mutual_information": "mutual information (nats)",
    "energy": "energy",
    "logit_norm": "minus the norm of the expected logits",
}
_BINS = 40
_IN = "#0b7a75"

Scores = Mapping[str, Array] | Prediction
"""Scores by name, or a classifier's prediction."""


@styled
def plot_scores(
    inside: Scores, outside: Mapping[str, Scores], *, name: str = "test set"
) -> Figure:
    """Draw the distribution of every score on the test set and on each OOD set, a panel a score.

    Args:
        inside: Scores of the in-distribution test set, by name, or its prediction.
        outside: OOD set to the same.
        name: Name of the test set.

    Raises:
        ConfigError: If there is no OOD set, or one lacks a score.
        DataError: If scores are empty or not finite.
    """
    from matplotlib.figure import Figure

    groups = _groups("plot_scores", inside, outside, name)
    scores = list(groups[name])
    figure = Figure(figsize=(4.2 * len(scores), 3.6), layout="constrained")
    axes = figure.subplots(1, len(scores), squeeze=False)[0]
    for axis, score in zip(axes, scores, strict=True):
        everything = np.concatenate([values[score] for values in groups.values()])
        low, high = float(everything.min()), float(everything.max())
        edges = np.linspace(low, high if high > low else low + 1.0, _BINS + 1)
        for index, (label, values) in enumerate(groups.items()):
            style: dict[str, Any] = {"color": _colour(index), "alpha": 0.45}
            weights = np.full(len(values[score]), 100.0 / len(values[score]))
            title = f"{label} ({'out' if index else 'in'})"
            axis.hist(values[score], bins=edges, weights=weights, label=title, **style)
        axis.set(xlabel=_AXES.get(score, score), ylabel="share of the examples (%)")
    axes[0].set_title("Known and unknown inputs: a higher score is more unknown")
    axes[0].legend()
    return figure


@styled
def plot_roc(inside: Scores, outside: Mapping[str, Scores], *, name: str = "test set") -> Figure:
    """Draw the share of OOD examples found against that of known ones flagged, a panel a score.

    Args:
        inside: Scores of the in-distribution test set, by name, or its prediction.
        outside: OOD set to the same.
        name: Name of the test set.

    Raises:
        ConfigError: If there is no OOD set, or one lacks a score.
        DataError: If scores are empty or not finite.
    """
    from matplotlib.figure import Figure
    from sklearn.metrics import roc_curve

    groups = _groups("plot_roc", inside, outside, name)
    own = groups.pop(name)
    figure = Figure(figsize=(4.2 * len(own), 4.0), layout="constrained")
    axes = figure.subplots(1, len(own), squeeze=False)[0]
    for axis, score in zip(axes, own, strict=True):
        axis.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--")
        axis.axhline(0.95, color="#cccccc", linewidth=1, linestyle=":")
        for index, (label, values) in enumerate(groups.items()):
            positive = np.repeat([0, 1], [len(own[score]), len(values[score])])
            both = tied(torch.from_numpy(np.concatenate([own[score], values[score]]))).numpy()
            false_rate, true_rate, _ = roc_curve(positive, both)
            auroc = ood_metrics(own[score], values[score])["auroc"]
            title = f"{label}: AUROC {auroc:.3f}"
            axis.plot(false_rate, true_rate, color=_colour(index + 1), label=title)
        axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), title=_AXES.get(score, score))
        axis.set(xlabel=f"share of {name} flagged", ylabel="share of OOD examples found")
        axis.legend(loc="lower right")
    return figure


def _colour(index: int) -> str:
    others = [colour for colour in COLOURS if colour != _IN]
    return others[(index - 1) % len(others)] if index else _IN


def _groups(
    who: str, inside: Scores, outside: Mapping[str, Scores], name: str
) -> dict[str, dict[str, np.ndarray]]:
    groups: dict[str, dict[str, np.ndarray]] = {}
    for label, value in {name: inside, **outside}.items():
        scores = uncertainty_scores(value) if isinstance(value, Prediction) else value
        groups[label] = {key: as_scores(who, label, item).numpy() for key, item in scores.items()}
    own = groups[name]
    bad = [label for label, scores in groups.items() if set(scores) != set(own)]
    if bad or not outside or name in outside or not own:
        raise ConfigError(
            who,
            expected=f"OOD sets, not named {name!r}, with the scores {sorted(own)}",
            got=f"{sorted(outside)}" + (f", of which {bad} have others" if bad else ""),
            hint="Pass uncertainty_scores(...) of all of them.",
        )
    return groups
