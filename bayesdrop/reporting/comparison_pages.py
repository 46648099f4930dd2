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
    lead: list[Block] = [
        f"{bootstrap.num_examples:,} test examples, the same for all."
        + (" Where there are several seeds: medians." if several else ""),
        Table(*comparison.table(), caption="Side by side"),
    ]
    sections = [Section("Figures and their uncertainty", estimate_blocks(comparison, "examples"))]
    if len(comparison.rows) > 1:
        sections.append(Section("Paired differences", difference_blocks(comparison, "examples")))
    if several:
        ranges = [
            [row.name, str(len(row.members)), *(_range(m, row.ranges[m]) for m in metrics)]
            for row in several
        ]
        header = ["", "seeds", *map(metric_title, metrics)]
        table = Table(header, ranges, "Lowest and highest of the seeds")
        sections.append(Section("Range over seeds", [table]))
    return Document(comparison.title, lead, sections)


def estimate_blocks(comparison: Comparison, word: str) -> list[Block]:
    """Return each figure with its interval: in words, drawn, and as a table.

    Args:
        comparison: The comparison.
        word: What is classified: images, or examples.
    """
    bootstrap, metrics = comparison.bootstrap, comparison.bootstrap.metrics
    level = f"{100 * bootstrap.level:g} %"
    cells = [
        [row.name, *(estimate_text(m, row.estimates[m]) for m in metrics)]
        for row in comparison.rows
    ]
    header = ["", *map(metric_title, metrics)]
    return [
        f"{level} intervals from {bootstrap.num_resamples:,} resamples of the test {word} "
        f"(seed {bootstrap.seed}). They say how much depends on which {word} were tested, not "
        f"on the seed of training.",
        Picture(
            "compare.png",
            f"Each figure with its {level} interval, and single seeds as dots",
            lambda: plot_comparison(comparison),
        ),
        Table(header, cells, f"Figures with {level} intervals"),
    ]


def difference_blocks(comparison: Comparison, word: str) -> list[Block]:
    """Return the paired differences from the first row, in words and as a table.

    Args:
        comparison: The comparison, of more than one row.
        word: As in ``estimate_blocks``.
    """
    metrics, first = comparison.bootstrap.metrics, comparison.rows[0].name
    cells = [
        [row.name, *(estimate_text(m, row.differences[m], signed=True) for m in metrics)]
        for row in comparison.rows[1:]
    ]
    return [
        f"Less the figure of {first!r}, on the same resamples: the same {word} are hard for all, "
        f"so differences are surer than figures. A star marks intervals without zero; of many "
        f"intervals some have none by chance.",
        Table(["", *map(metric_title, metrics)], cells, f"Paired differences from {first}"),
    ]


def _range(metric: str, ends: tuple[float, float]) -> str:
    return " to ".join(figure_text(metric, end) for end in ends)
