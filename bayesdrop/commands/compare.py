"""``bayesdrop compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bayesdrop.commands.options import DataDir, Json, NumSamples, Threads
from bayesdrop.commands.terminal import (
    has_matplotlib,
    print_json,
    print_table,
    say_what_was_written,
    set_threads,
)


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN...", help="Folders of trained runs.")
    ],
    ood: Annotated[
        list[str] | None,
        typer.Option(help="Data set the networks were not trained on; repeatable."),
    ] = None,
    num_samples: NumSamples = 64,
    ensemble: Annotated[
        bool,
        typer.Option("--ensemble", help="Add the averaged predictions of each recipe's seeds."),
    ] = False,
    html: Annotated[bool, typer.Option("--html", help="Also write compare.html.")] = False,
    data_dir: DataDir = None,
    out: Annotated[Path, typer.Option(help="Folder for the comparison.")] = Path("runs/compare"),
    as_json: Json = False,
    threads: Threads = None,
) -> None:
    """Put runs on the same data side by side, with paired differences from the first.

    Runs of one recipe with different seeds share a row: medians, and the range over seeds.
    """
    from bayesdrop.recipes import compare_runs, load_run
    from bayesdrop.reporting import write_comparison

    set_threads(threads)
    comparison = compare_runs(
        {str(folder): load_run(folder) for folder in runs},
        ood=ood or [],
        num_samples=num_samples,
        ensembles=ensemble,
        data_dir=data_dir,
    )
    figures = has_matplotlib()
    paths = write_comparison(comparison, out, figures=figures, html=html)
    if as_json:
        print_json({**comparison.to_dict(), "written": [str(path) for path in paths]})
    else:
        print_table(comparison.title, *comparison.table())
    say_what_was_written(paths, figures, as_json=as_json)
