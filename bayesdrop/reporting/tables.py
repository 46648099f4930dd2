"""The comparison table, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bayesdrop.metrics import ClassifierFigures
from bayesdrop.metrics.figures import COVERAGE_LEVELS
from bayesdrop.reporting.results import MethodResult

if TYPE_CHECKING:
    from rich.table import Table


def table_cells(
    results: Sequence[MethodResult], *, latency_batch: int
) -> tuple[list[str], list[list[str]]]:
    """Return the header and the cells of the comparison table.

    Args:
        results: All of a classifier, or all of a regression.
        latency_batch: Examples of a timed batch.
    """
    sets = list(dict.fromkeys(name for result in results for name in result.ood))
    header = ["method", *(_figures(results[0]) if results else ())]
    header += [f"AUROC {name}" for name in sets]
    header += ["units kept", "parameters", "FLOPs", f"ms / {latency_batch}"]
    cells = [
        [
            result.title,
            *_figures(result).values(),
            *(number(result.auroc(name), ".3f") for name in sets),
            "-".join(str(count) for count in result.units) or "–",
            number(result.params, ","),
            number(result.flops, ","),
            number(result.latency_ms, ".2f"),
        ]
        for result in results
    ]
    return header, cells


def number(value: float | None, style: str = ".4f") -> str:
    """Return a number as text, or a dash where there is none or it is NaN."""
    return "–" if value is None or value != value else f"{value:{style}}"


def rich_table(results: Sequence[MethodResult], *, title: str, latency_batch: int) -> Table:
    """Return the comparison as a rich table."""
    from rich import box
    from rich.table import Table
    from rich.text import Text  # as it stands: in a string, [words] would be a style

    header, cells = table_cells(results, latency_batch=latency_batch)
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1))
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left", overflow="fold")
    for line in cells:
        table.add_row(*map(Text, line))
    return table


def with_error(text: str, error: float | None, style: str) -> str:
    """Return the text of a figure with its Monte Carlo standard error, if there is one."""
    return text if error is None else f"{text} ± {error:{style}}"


def _figures(result: MethodResult) -> dict[str, str]:
    """Return the name of each column of figures, and its text."""
    figures, errors = result.figures, result.monte_carlo_error

    def text(name: str, style: str = ".4f") -> str:
        return with_error(number(getattr(figures, name), style), errors.get(name), style)

    if isinstance(figures, ClassifierFigures):
        return {
            "error %": text("error", ".2f"),
            "NLL": text("nll"),
            "Brier": text("brier"),
            "ECE": text("ece"),
        }
    shares = figures.coverage or {}
    return {
        "RMSE": text("rmse", ".4g"),
        "NLL": text("nll"),
        "CRPS": text("crps", ".4g"),
        **{
            f"in {100 * level:g} %": number(100 * shares.get(level, float("nan")), ".1f") + " %"
            for level in COVERAGE_LEVELS
        },
    }
