"""``bayesdrop demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bayesdrop.commands.options import Json, NumSamples
from bayesdrop.commands.terminal import announce, finish_report, set_threads


def demo(
    out: Annotated[Path, typer.Option(help="Folder for all results.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of all three networks.")] = 0,
    num_samples: NumSamples = 64,
    epochs: Annotated[
        int | None, typer.Option(min=2, help="Epochs of each network, for a quick look.")
    ] = None,
    as_json: Json = False,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; more do not help.")] = 1,
) -> None:
    """Train, compare, prune and report on scikit-learn's digits; nothing is downloaded.

    The networks learn the digits 0-7; the digits 8 and 9 are the unknown images.
    """
    from bayesdrop.recipes.demo import run_demo

    set_threads(threads)
    report = run_demo(out, seed=seed, num_samples=num_samples, epochs=epochs, announce=announce)
    compact = [] if report.compact is None else [out / "compact.pt"]
    finish_report(report, out, as_json=as_json, also=compact)
