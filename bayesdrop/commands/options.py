"""Options that several commands have, and the words that the shell can complete."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bayesdrop.listing import Listed, rows

DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder of the data files. [default: $BAYESDROP_DATA, or ./data]"),
]
NumSamples = Annotated[int, typer.Option(min=1, help="Posterior samples.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads. [default: torch's, one per core]")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON, for programs, instead of a table.")
]


def complete_recipe(incomplete: str) -> list[str]:
    """Return the recipes whose name begins so."""
    return _beginning(Listed.recipes, "name", incomplete)


def complete_data(incomplete: str) -> list[str]:
    """Return the data sets whose name begins so."""
    return _beginning(Listed.datasets, "name", incomplete)


def complete_method(incomplete: str) -> list[str]:
    """Return the dropouts whose key begins so."""
    return _beginning(Listed.dropouts, "key", incomplete)


def _beginning(what: Listed, column: str, incomplete: str) -> list[str]:
    return [row[column] for row in rows(what) if row[column].startswith(incomplete)]
