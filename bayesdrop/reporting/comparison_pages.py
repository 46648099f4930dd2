"""A comparison in words, tables and a figure, and its files."""

from __future__ import annotations

from pathlib import Path

from bayesdrop.reporting.compare import Comparison
from bayesdrop.reporting.document import Block, Document, Picture, Section, Table
from bayesdrop.reporting.estimates import estimate_text, figure_text, metric_title
from bayesdrop.reporting.plots import plot_comparison
from bayesdrop.reporting.publish import publish


def write_comparison(
    comparison: Comparison, out: str | Path, *, figures: bool = True, html: bool = False
) -> list[Path]:
    """Write ``compare.json``, ``compare.md``, the figure and the page; return the paths.

    Args:
        comparison: What ``compare_predictions`` returned.
        out: The folder.
        figures: Whether to draw the figure.
        html: Whether to write ``compare.html``, with everything inside.

    Raises:
        ImportError: If figures are asked for and matplotlib is not installed.
        CheckpointError: If a file cannot be written.
    """
    document = comparison_document(comparison)
    return publish(document, comparison.to_dict(), out, "compare", figures=figures, html=html)


def comparison_document(comparison: Comparison) -> Document:
    """Return the comparison's text, tables and figure."""
    bootstrap, metrics = comparison.bootstrap, comparison.bootstrap.metrics
    several = [row for row in comparison.rows if len(row.members) > 1]
    level = f"{100 * bootstrap.level:g} %"
    lead: list[Block] = [
        f"{bootstrap.num_examples:,} test images, the same for all."
        + (" Where there are several seeds: medians." if several else ""),
        Table(*comparison.table(), caption="Side by side"),
    ]
    header = ["", *map(metric_title, metrics)]
    parts: list[Block] = [
        f"{level} intervals from {bootstrap.num_resamples:,} resamples of the test images "
        f"(seed {bootstrap.seed}). They say how much depends on which images were tested, not "
        f"on the seed of training."
    ]
    estimates = [
        [row.name, *(estimate_text(m, row.estimates[m]) for m in metrics)]
        for row in comparison.rows
    ]
    parts.append(Table(header, estimates, f"Figures with {level} intervals"))
    parts.append(
        Picture(
            "compare.png",
            f"Each figure with its {level} interval, and single seeds as dots",
            lambda: plot_comparison(comparison),
        )
    )
    sections = [Section("Figures and their uncertainty", parts)]
    if len(comparison.rows) > 1:
        differences = [
            [row.name, *(estimate_text(m, row.differences[m], signed=True) for m in metrics)]
            for row in comparison.rows[1:]
        ]
        note = (
            f"Less the figure of {comparison.rows[0].name!r}, on the same resamples: the same "
            f"images are hard for all, so differences are surer than figures. A star marks "
            f"intervals without zero; of many intervals some have none by chance."
        )
        table = Table(header, differences, f"Paired differences from {comparison.rows[0].name}")
        sections.append(Section("Paired differences", [note, table]))
    if several:
        ranges = [
            [row.name, str(len(row.members)), *(_range(m, row.ranges[m]) for m in metrics)]
            for row in several
        ]
        table = Table(["", "seeds", *header[1:]], ranges, "Lowest and highest of the seeds")
        sections.append(Section("Range over seeds", [table]))
    return Document(comparison.title, lead, sections)


def _range(metric: str, ends: tuple[float, float]) -> str:
    return " to ".join(figure_text(metric, end) for end in ends)
