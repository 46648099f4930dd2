"""Figures: every function that draws is ``plot_<thing>`` and returns matplotlib's figure."""

from bayesdrop.reporting.plots.class_masks import plot_class_correlations, plot_class_masks
from bayesdrop.reporting.plots.comparison import plot_comparison
from bayesdrop.reporting.plots.coverage import plot_coverage
from bayesdrop.reporting.plots.frontier import plot_frontier
from bayesdrop.reporting.plots.keep_probabilities import (
    plot_input_keep_probabilities,
    plot_keep_probabilities,
)
from bayesdrop.reporting.plots.ood import plot_roc, plot_scores
from bayesdrop.reporting.plots.ranks import plot_ranks
from bayesdrop.reporting.plots.reliability import plot_reliability
from bayesdrop.reporting.plots.selective import plot_risk_coverage
from bayesdrop.reporting.plots.shift import plot_shift
from bayesdrop.reporting.plots.size import plot_size
from bayesdrop.reporting.plots.sticks import plot_sticks
from bayesdrop.reporting.plots.style import COLOURS, save_figure, styled, to_png
from bayesdrop.reporting.plots.training import plot_history
from bayesdrop.reporting.plots.uncertain_images import plot_uncertain_images
from bayesdrop.reporting.plots.width import plot_widths

__all__ = [
    "COLOURS",
    "plot_class_correlations",
    "plot_class_masks",
    "plot_comparison",
    "plot_coverage",
    "plot_frontier",
    "plot_history",
    "plot_input_keep_probabilities",
    "plot_keep_probabilities",
    "plot_ranks",
    "plot_reliability",
    "plot_risk_coverage",
    "plot_roc",
    "plot_scores",
    "plot_shift",
    "plot_size",
    "plot_sticks",
    "plot_uncertain_images",
    "plot_widths",
    "save_figure",
    "styled",
    "to_png",
]
