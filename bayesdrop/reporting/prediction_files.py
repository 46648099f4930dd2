"""Probabilities and labels of any classifier in a file: NumPy's .npz, or a table as CSV."""

from __future__ import annotations

import csv
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np

from bayesdrop.errors import DataError, unknown_name
from bayesdrop.files import first_line

_LABEL = "label"
_HINT = "See 'bayesdrop report --help'."


@dataclass(frozen=True, eq=False)
class PredictionFile:
    """What ``read_predictions`` found.

    Args:
        probabilities: ``(N, C)``, P(y = 1) of shape ``(N,)``, or samples ``(S, N, C)``.
        labels: Integers ``(N,)``; empty without.
        class_names: One name for each class, or none.
    """

    probabilities: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    class_names: tuple[str, ...] = ()


def read_predictions(path: str | Path, *, labelled: bool = True) -> PredictionFile:
    """Read the predictions of a classifier.

    An ``.npz`` file has the arrays ``probabilities`` and ``labels``, and may have ``class_names``.
    A table in CSV has a line for each example; its first line names the columns. One is
    ``label``, and each other column is a class, with its probabilities. Labels are the classes'
    names, or their numbers from 0. Nothing that is pickled is read.

    Args:
        path: The file.
        labelled: Whether there must be labels; examples from elsewhere have none.

    Raises:
        DataError: If it cannot be read, or something is missing; of a table it says the line.

    Example:
        >>> read_predictions("test.csv").class_names  # doctest: +SKIP
        ('cat', 'dog')
    """
    path = Path(path)
    try:
        found = _from_npz(path) if path.suffix == ".npz" else _from_csv(path)
    except (OSError, zipfile.BadZipFile, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"file {path}",
            expected="an .npz file or a table in CSV that can be read",
            got=getattr(error, "strerror", None) or first_line(error),
            hint=_HINT,
        ) from error
    if labelled and not found.labels.size:
        _refuse(path, f"labels, as {_LABEL!r} in CSV and 'labels' in .npz", "none")
    return found


def _from_npz(path: Path) -> PredictionFile:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except ValueError as error:
        _refuse(path, "arrays of numbers and of text", first_line(error))
    if "probabilities" not in arrays:
        _refuse(path, "an array 'probabilities'", f"the arrays {sorted(arrays)}")
    names = tuple(str(name) for name in np.atleast_1d(arrays.get("class_names", ())))
    return PredictionFile(arrays["probabilities"], arrays.get("labels", np.array([])), names)


def _from_csv(path: Path) -> PredictionFile:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        header = [name.strip() for name in next(rows, [])]
        lines = [(rows.line_num, row) for row in rows if row]
    classes = tuple(name for name in header if name != _LABEL)
    if not classes or not lines or len(set(header)) < len(header):
        _refuse(
            path,
            f"a first line with {_LABEL!r} and a name for each class, and lines below",
            f"{header[:8]} and {len(lines)} lines",
        )
    labels: list[int] = []
    table = np.empty((len(lines), len(classes)))
    for index, (line, row) in enumerate(lines):
        if len(row) != len(header):
            _refuse(path, f"{len(header)} entries in line {line}", str(len(row)))
        values = dict(zip(header, row, strict=True))
        for column, name in enumerate(classes):
            try:
                table[index, column] = float(values[name])
            except ValueError:
                _refuse(path, f"a probability of {name!r} in line {line}", repr(values[name]))
        if _LABEL in values:
            labels.append(_label(path, line, values[_LABEL].strip(), classes))
    if len(classes) == 1:  # P(y = 1), whose name is that of the class 1
        return PredictionFile(table[:, 0], np.array(labels))
    return PredictionFile(table, np.array(labels), classes)


def _label(path: Path, line: int, text: str, classes: tuple[str, ...]) -> int:
    if text in classes and len(classes) > 1:
        return classes.index(text)
    if text.isdecimal():
        return int(text)
    raise DataError(f"{path}, line {line}: {unknown_name('class', text, classes)}")


def _refuse(path: Path, expected: str, got: str) -> NoReturn:
    raise DataError(f"file {path}", expected=expected, got=got, hint=_HINT)
