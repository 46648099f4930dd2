"""What commands print: tables for people, JSON for programs; and which threads they use."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from bayesdrop.reporting import Report


def announce(line: str) -> None:
    """Say what is happening, where it does not stand among the results."""
    typer.echo(line, err=True)


def console() -> Console:
    """Return the terminal, or something wide that stands for it."""
    from rich.console import Console

    found = Console()
    # Piped into a file there is no terminal to fit: do not fold the table into 80 columns.
    return found if found.is_terminal else Console(width=max(found.width, 160))


def print_table(title: str | None, header: list[str], lines: list[list[str]]) -> None:
    """Print a table, as wide as the terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text  # as it stands: in a string, [words] would be a style

    out = console()
    if title is not None:
        # A table's own title is folded to the table's width.
        out.print(Text(title))
    table = Table(box=box.SIMPLE_HEAD)
    for name in header:
        table.add_column(name, overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
    out.print(table)


def print_json(value: Any) -> None:
    """Print a value of JSON's types."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def has_matplotlib() -> bool:
    """Return whether figures can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


def finish_report(
    report: Report,
    out: Path,
    *,
    html: bool = False,
    as_json: bool = False,
    also: Sequence[Path] = (),
) -> None:
    """Write a report and print its table, or all of it as JSON; ``also`` was written before."""
    from bayesdrop.reporting import rich_table, write_report

    figures = has_matplotlib()
    paths = [*write_report(report, out, figures=figures, html=html), *also]
    if as_json:
        print_json({**report.to_dict(), "written": [str(path) for path in paths]})
    else:
        title = f"{report.title}, {len(report.test[1]):,} test {report.word}"
        table = rich_table(report.rows, title=title, latency_batch=report.latency_batch)
        console().print(table)
    say_what_was_written(paths, figures, as_json=as_json)


def say_what_was_written(paths: list[Path], figures: bool, *, as_json: bool = False) -> None:
    """Name the files, unless they stand in the JSON, and say why there are no figures."""
    for path in [] if as_json else paths:
        typer.echo(f"Wrote {path}")
    if not figures:
        announce("No figures: they need matplotlib, pip install 'bayesdrop[plots]'.")


def set_threads(threads: int | None) -> None:
    """Let torch use so many threads, if a number was given."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
