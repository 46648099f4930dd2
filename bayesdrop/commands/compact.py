"""``bayesdrop compact``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bayesdrop.commands.options import Json, RunFolder
from bayesdrop.commands.terminal import print_json, print_table
from bayesdrop.listing import cost_lines, kept_words


def compact(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="File for the compact network.")],
    onnx: Annotated[Path | None, typer.Option(help="File for an ONNX copy.")] = None,
    as_json: Json = False,
) -> None:
    """Remove the pruned units of a run and save what is left as plain torch."""
    from bayesdrop.recipes import compact_run, load_run
    from bayesdrop.recipes.folder import check_new_file
    from bayesdrop.record import plain

    written = [path for path in (out, onnx) if path is not None]
    if onnx is not None and onnx.resolve() == out.resolve():
        raise typer.BadParameter("--out and --onnx are two files")
    for path in written:
        check_new_file(run, path)
    loaded = load_run(run)
    _, cost = compact_run(loaded, out, onnx=onnx)
    if as_json:
        kept = {"kept": loaded.bnn.kept(), "total": loaded.bnn.total()}
        print_json(plain({**cost.to_dict(), **kept, "written": [str(path) for path in written]}))
        return
    times = "/".join(f"{ratio:.1f}x" for ratio in cost.speedup.values())
    sizes = "/".join(map(str, cost.speedup))
    less = f"{cost.flops_speedup:.1f}x fewer FLOPs, {times} less time in batches of {sizes}"
    left = ", ".join([*kept_words(loaded.bnn), less])
    title = f"{loaded.recipe.name}: {left}"
    print_table(title, *cost_lines(cost))
    for path in written:
        typer.echo(f"Wrote {path} ({path.stat().st_size / 1024:,.0f} KiB)")
