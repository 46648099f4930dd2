"""The command line: what its commands are, and how they end."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typing_extensions import override

from bayesdrop import __version__
from bayesdrop.commands.cite import cite
from bayesdrop.commands.compact import compact
from bayesdrop.commands.compare import compare
from bayesdrop.commands.demo import demo
from bayesdrop.commands.doctor import doctor
from bayesdrop.commands.evaluate import evaluate
from bayesdrop.commands.list import list_
from bayesdrop.commands.recipe import recipe
from bayesdrop.commands.report import report
from bayesdrop.commands.train import train
from bayesdrop.errors import BayesdropError

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
)


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


for _command in (demo, train, evaluate, compare, report, compact, recipe):
    app.command()(_command)
app.command(name="list")(list_)
app.command()(cite)
app.command()(doctor)


def main() -> None:
    """Run the command line."""
    app()
