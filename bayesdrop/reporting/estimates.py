"""Figures with their intervals, as text."""

from __future__ import annotations

from bayesdrop.metrics import Estimate

METRIC_TITLES = {
    "error": "error (%)",
    "nll": "NLL (nats)",
    "brier": "Brier score",
    "ece": "ECE",
    "aurc": "AURC",
}
"""Metric of ``bootstrap_metrics`` to title; AUROCs have their own names."""


_DIGITS = {"error": 2, "aurc": 5}


def metric_title(metric: str) -> str:
    """Return what to call a metric of ``bootstrap_metrics``."""
    return METRIC_TITLES.get(metric, metric.replace("auroc", "AUROC", 1))


def figure_text(metric: str, value: float, *, sign: str = "") -> str:
    """Return a figure with as many digits as the metric has."""
    return f"{value:{sign}.{_DIGITS.get(metric, 4)}f}"


def estimate_text(
    metric: str, estimate: Estimate, *, signed: bool = False, error: float | None = None
) -> str:
    """Return a figure with its interval, and of a difference whether it is more than noise.

    Args:
        metric: Which figure.
        estimate: The figure and its interval.
        signed: Whether it is a difference.
        error: Its Monte Carlo standard error, if it has one.
    """
    sign = "+" if signed else ""
    value, lower, upper = (
        figure_text(metric, number, sign=sign)
        for number in (estimate.value, estimate.lower, estimate.upper)
    )
    star = " *" if signed and estimate.excludes_zero else ""
    own = "" if error is None else f" ± {figure_text(metric, error)}"
    return f"{value}{own} ({lower} to {upper}){star}"
