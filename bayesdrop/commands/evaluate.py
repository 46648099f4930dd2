"""``bayesdrop evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bayesdrop.commands.options import DataDir, Json, NumSamples, RunFolder, Threads
from bayesdrop.commands.terminal import finish_report, set_threads


def evaluate(
    run: RunFolder,
    ood: Annotated[
        list[str] | None,
        typer.Option(help="Data set the network was not trained on; repeatable."),
    ] = None,
    num_samples: NumSamples = 64,
    data_dir: DataDir = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the report. [default: the run's]")
    ] = None,
    html: Annotated[
        bool,
        typer.Option(
            "--html",
            help="Also write report.html, with intervals, dataset shift, selective prediction and "
            "the posterior over size. Takes minutes.",
        ),
    ] = False,
    shift: Annotated[
        bool | None,
        typer.Option(help="With --html: corrupt test images. [default: as many as are quick]"),
    ] = None,
    diagnose: Annotated[
        bool,
        typer.Option(
            "--diagnose",
            help="With --html: check the ELBO and the guide on the training data. Slow.",
        ),
    ] = False,
    as_json: Json = False,
    threads: Threads = None,
) -> None:
    """Write report.json, report.md and figures of a run, and print the comparison."""
    from bayesdrop.recipes import load_run, report_run

    set_threads(threads)
    if not html and (shift is not None or diagnose):
        raise typer.BadParameter("--shift, --no-shift and --diagnose go with --html")
    report = report_run(
        load_run(run),
        ood=ood or [],
        num_samples=num_samples,
        data_dir=data_dir,
        thorough=html,
        shift=shift,
        diagnose=diagnose,
    )
    finish_report(report, run if out is None else out, html=html, as_json=as_json)
