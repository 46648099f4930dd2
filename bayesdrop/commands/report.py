"""``bayesdrop report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bayesdrop.commands.options import Json
from bayesdrop.commands.terminal import (
    has_matplotlib,
    print_json,
    print_table,
    say_what_was_written,
)
from bayesdrop.errors import ConfigError

if TYPE_CHECKING:
    from bayesdrop.reporting.prediction_files import PredictionFile


def report(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="Probabilities and labels of the test set, as .npz or CSV; of several "
            "classifiers one file each, with the same labels.",
        ),
    ],
    validation: Annotated[
        list[Path] | None,
        typer.Option(help="The same of validation data, to choose a threshold on; repeatable."),
    ] = None,
    ood: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="Probabilities of examples from elsewhere; repeatable. Of one classifier.",
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading. [default: the files' names]")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("runs/report"),
    as_json: Json = False,
) -> None:
    """Report on any model's probabilities: calibration, intervals, selection, unknown data.

    An .npz file has the arrays probabilities, (N, C), and labels, (N,), and may have class_names.
    A table in CSV has a column 'label' and one column for each class.
    """
    from bayesdrop.reporting import report_predictions, write_predictions
    from bayesdrop.reporting.prediction_files import read_predictions

    names = _names(files)
    test = dict(zip(names, map(read_predictions, files), strict=True))
    outside = {}
    for item in ood or ():
        name, sign, path = item.partition("=")
        if not sign or not name or len(files) > 1:
            raise typer.BadParameter("--ood takes NAME=FILE, and goes with one FILE")
        own = read_predictions(path, labelled=False)
        outside[name] = {names[0]: own.probabilities}
    first = next(iter(test.values()))
    found = report_predictions(
        {name: file.probabilities for name, file in test.items()},
        _labels(test),
        validation=_validation(names, validation),
        ood=outside or None,
        class_names=first.class_names,
        title=title or ", ".join(names),
    )
    figures = has_matplotlib()
    paths = write_predictions(found, out, figures=figures)
    if as_json:
        print_json({**found.to_dict(), "written": [str(path) for path in paths]})
    else:
        print_table(found.comparison.title, *found.comparison.table())
    say_what_was_written(paths, figures, as_json=as_json)


def _names(files: list[Path]) -> list[str]:
    """Return what to call each classifier: its file's name, or all of the path if two share it."""
    stems = [path.stem for path in files]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in files]


def _labels(files: dict[str, PredictionFile]) -> Any:
    """Return the labels, which all files must have alike.

    Raises:
        ConfigError: If they have not.
    """
    import numpy as np

    (first, one), *others = files.items()
    for name, file in others:
        if not np.array_equal(one.labels, file.labels) or one.class_names != file.class_names:
            raise ConfigError(
                f"report {name}",
                expected=f"the labels and the classes of {first}",
                got="others",
                hint="Predict the same examples in the same order.",
            )
    return one.labels


def _validation(names: list[str], files: list[Path] | None) -> tuple[Any, Any] | None:
    from bayesdrop.reporting.prediction_files import read_predictions

    if not files:
        return None
    if len(files) != len(names):
        raise typer.BadParameter("--validation goes with each FILE, in the same order")
    held_out = dict(zip(names, map(read_predictions, files), strict=True))
    return {name: file.probabilities for name, file in held_out.items()}, _labels(held_out)
