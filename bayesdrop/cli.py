"""The command line: ``bayesdrop demo | train | evaluate | compare | compact | list | cite``."""

from __future__ import annotations

import importlib
import importlib.util
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typing_extensions import override

from bayesdrop import __version__
from bayesdrop.citations import cite as entries
from bayesdrop.errors import BayesdropError
from bayesdrop.listing import Listed, cost_lines, kept_words, listed

if TYPE_CHECKING:
    from rich.console import Console

    from bayesdrop.reporting import Report

_INTERRUPTED, _TERMINATED = 130, 143


class _TerminationError(Exception):
    """SIGTERM, as batch systems send it before they kill."""


def _terminate(*_: object) -> None:
    raise _TerminationError


class _Group(TyperGroup):
    # Errors made for users are shown without a traceback, also under a test runner.
    @override
    def invoke(self, ctx: Any) -> Any:
        before = None
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGTERM, _terminate)
        try:
            return super().invoke(ctx)
        except (BayesdropError, ImportError) as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(1) from error
        except (KeyboardInterrupt, _TerminationError) as error:
            stopped = isinstance(error, _TerminationError)
            trains = ctx.invoked_subcommand in ("train", "demo")
            rest = "continues from the last epoch" if trains else "begins anew"
            what = "Terminated" if stopped else "Interrupted"
            typer.echo(f"{what}. No file is half-written; the same command {rest}.", err=True)
            raise typer.Exit(_TERMINATED if stopped else _INTERRUPTED) from error
        finally:
            if before is not None:
                signal.signal(signal.SIGTERM, before)


app = typer.Typer(
    cls=_Group,
    help="Bayesian dropout: calibrated predictions and smaller networks from one posterior.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its boxes cut the names of options at 80 columns
    add_completion=False,
)

DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder of the data files. [default: $BAYESDROP_DATA, or ./data]"),
]
NumSamples = Annotated[int, typer.Option(min=1, help="Posterior samples.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads. [default: torch's, one per core]")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bayesdrop {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Version.")
    ] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option(help="Module to import first, with dropouts or recipes of your own."),
    ] = None,
) -> None:
    if plugin:
        sys.path.insert(0, "")  # as with python -m: modules of this folder
    for name in plugin or ():
        importlib.import_module(name)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for all results.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of all three networks.")] = 0,
    num_samples: NumSamples = 64,
    epochs: Annotated[
        int | None, typer.Option(min=2, help="Epochs of each network, for a quick look.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; more do not help.")] = 1,
) -> None:
    """Train, compare, prune and report on scikit-learn's digits; nothing is downloaded.

    The networks learn the digits 0-7; the digits 8 and 9 are the unknown images.
    """
    from bayesdrop.recipes.demo import run_demo

    _set_threads(threads)
    console = _console()
    report = run_demo(out, seed=seed, num_samples=num_samples, epochs=epochs, announce=_announce)
    _finish_report(console, report, out)


@app.command()
def train(  # noqa: PLR0913 - one option for each thing users change
    recipe: Annotated[str, typer.Argument(help="Name of a recipe; see 'bayesdrop list recipes'.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set, such as mnist, mnist:0-7 or folder:PATH@64, images of 64 x 64 pixels. "
            "[default: the recipe's]"
        ),
    ] = None,
    data_dir: DataDir = None,
    validation: Annotated[
        int | None,
        typer.Option(min=0, help="Validation examples; 0 for none. [default: the data set's]"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, order and masks.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run. [default: runs/RECIPE-SEED]")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="RUN", help="Finished run whose stages this recipe continues."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of the last stage.")] = None,
    pretrain_epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of the stage before.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Examples a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of network weights.")] = None,
    variational_learning_rate: Annotated[
        float | None, typer.Option(help="Of the dropout layers' parameters.")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of network weights.")] = None,
    compact_every: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs after which pruned units leave training for good."),
    ] = None,
    private_epsilon: Annotated[
        float | None, typer.Option(help="Train with differential privacy, at delta 1e-5.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where to train, such as cuda.")] = "cpu",
    threads: Threads = None,
) -> None:
    """Train a recipe, or continue where an interrupted run stopped."""
    from bayesdrop.recipes import get, run_recipe

    _set_threads(threads)
    chosen = get(recipe).override(
        epochs=epochs,
        pretrain_epochs=pretrain_epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        variational_learning_rate=variational_learning_rate,
        weight_decay=weight_decay,
        compact_every=compact_every,
        private_epsilon=private_epsilon,
    )
    out = Path("runs") / f"{chosen.name}-{seed}" if out is None else out
    done = (out / "model.pt").exists()
    run = run_recipe(
        chosen,
        out=out,
        data=data,
        data_dir=data_dir,
        validation=validation,
        seed=seed,
        start=start,
        device=device,
        announce=_announce,
    )
    last = next(reversed(run.history.values()))[-1]
    when = "was finished already," if done else "finished"
    parts = [f"{out}: {when} after {run.minutes:.1f} minutes"]
    if "val_error" in last:
        parts.append(f"validation error {last['val_error']:.2f} %")
    parts += kept_words(run.bnn)
    typer.echo(", ".join(parts))
    if run.bnn.privacy is not None:
        typer.echo(f"Promised: {run.bnn.privacy}")
    typer.echo(f"Next: bayesdrop evaluate {out}")


@app.command()
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
    threads: Threads = None,
) -> None:
    """Write report.json, report.md and figures of a run, and print the comparison."""
    from bayesdrop.recipes import load_run, report_run

    _set_threads(threads)
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
    _finish_report(_console(), report, run if out is None else out, html=html)


@app.command()
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
    threads: Threads = None,
) -> None:
    """Put runs on the same data side by side, with paired differences from the first.

    Runs of one recipe with different seeds share a row: medians, and the range over seeds.
    """
    from bayesdrop.recipes import compare_runs, load_run
    from bayesdrop.reporting import write_comparison

    _set_threads(threads)
    comparison = compare_runs(
        {str(folder): load_run(folder) for folder in runs},
        ood=ood or [],
        num_samples=num_samples,
        ensembles=ensemble,
        data_dir=data_dir,
    )
    figures = _has_matplotlib()
    paths = write_comparison(comparison, out, figures=figures, html=html)
    _print_table(comparison.title, *comparison.table())
    _say_what_was_written(paths, figures)


@app.command()
def compact(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="File for the compact network.")],
    onnx: Annotated[Path | None, typer.Option(help="File for an ONNX copy.")] = None,
) -> None:
    """Remove the pruned units of a run and save what is left as plain torch."""
    from bayesdrop.recipes import compact_run, load_run

    loaded = load_run(run)
    _, cost = compact_run(loaded, out, onnx=onnx)
    times = "/".join(f"{ratio:.1f}x" for ratio in cost.speedup.values())
    sizes = "/".join(map(str, cost.speedup))
    less = f"{cost.flops_speedup:.1f}x fewer FLOPs, {times} less time in batches of {sizes}"
    left = ", ".join([*kept_words(loaded.bnn), less])
    title = f"{loaded.recipe.name}: {left}"
    _print_table(title, *cost_lines(cost))
    for path in (out, onnx):
        if path is not None:
            typer.echo(f"Wrote {path} ({path.stat().st_size / 1024:,.0f} KiB)")


@app.command(name="list")
def list_(what: Annotated[Listed, typer.Argument(help="Which registry.")]) -> None:
    """List the registered dropouts, recipes or data sets."""
    _print_table(None, *listed(what))


@app.command()
def cite(
    key: Annotated[
        str, typer.Argument(help="Key of a method; the package if left out.")
    ] = "bayesdrop",
) -> None:
    """Print the BibTeX entries of a method."""
    typer.echo(entries(key))


def _print_table(title: str | None, header: list[str], lines: list[list[str]]) -> None:
    from rich import box
    from rich.table import Table

    console = _console()
    if title is not None:
        # A table's own title is folded to the table's width.
        console.print(title)
    table = Table(box=box.SIMPLE_HEAD)
    for name in header:
        table.add_column(name, overflow="fold")
    for line in lines:
        table.add_row(*line)
    console.print(table)


def _finish_report(console: Console, report: Report, out: Path, *, html: bool = False) -> None:
    from bayesdrop.reporting import rich_table, write_report

    figures = _has_matplotlib()
    paths = write_report(report, out, figures=figures, html=html)
    title = f"{report.title}, {len(report.test[1]):,} test images"
    console.print(rich_table(report.rows, title=title, latency_batch=report.latency_batch))
    _say_what_was_written(paths, figures)


def _has_matplotlib() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def _say_what_was_written(paths: list[Path], figures: bool) -> None:
    for path in paths:
        typer.echo(f"Wrote {path}")
    if not figures:
        typer.echo("No figures: they need matplotlib, pip install 'bayesdrop[plots]'.", err=True)


def _console() -> Console:
    from rich.console import Console

    console = Console()
    # Piped into a file there is no terminal to fit: do not fold the table into 80 columns.
    return console if console.is_terminal else Console(width=max(console.width, 160))


def _announce(line: str) -> None:
    typer.echo(line, err=True)


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def main() -> None:
    """Run the command line."""
    app()
