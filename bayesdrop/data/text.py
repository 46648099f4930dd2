"""Texts with labels: a table, or a folder with one subfolder for each class."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from bayesdrop.data.sources import split_off
from bayesdrop.data.tokenizer import AnyVocabulary, Tokenizer
from bayesdrop.data.vocabulary import Unit, Vocabulary
from bayesdrop.errors import ConfigError, DataError
from bayesdrop.files import first_line
from bayesdrop.nn.arguments import is_real
from bayesdrop.record import ShortRepr

TextPair: TypeAlias = tuple[dict[str, Tensor], Tensor]
"""Inputs by name, as ``Vocabulary.encode`` makes them, and labels ``(N,)``."""

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_LONGEST = 2**30  # characters of a file

Rows: TypeAlias = list[tuple[str, str]]


@dataclass(frozen=True, repr=False)
class TextSplits(ShortRepr):
    """Texts in memory, as ``fit``, ``predict`` and ``evaluate`` take them.

    Args:
        train: Inputs by name and labels in ``0..num_classes - 1``.
        validation: Held out of the training part; None if no text was asked for.
        test: For the final figures.
        class_names: One name for each label, sorted.
        vocabulary: Made on the training part, or a pretrained encoder's tokenizer; what the
            network's embedding has rows for.
        length: Steps of each text.
    """

    train: TextPair
    validation: TextPair | None
    test: TextPair
    class_names: tuple[str, ...]
    vocabulary: AnyVocabulary
    length: int

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return len(self.class_names)


def load_text(
    path: str | Path,
    *,
    unit: Unit = "word",
    length: int = 256,
    most: int = 20_000,
    fewest: int = 1,
    text: str = "text",
    label: str = "label",
    validation: float = 0.1,
    test: float = 0.2,
) -> TextSplits:
    """Load texts with a class each; the splits are fixed, and stratified by class.

    Args:
        path: A table ``.csv`` or ``.tsv`` whose first line names its columns; or a folder
            ``CLASS/*.txt``, or ``train/CLASS/*.txt`` and ``test/CLASS/*.txt``. In UTF-8.
        unit: ``"word"``, ``"character"`` or ``"byte"``.
        length: Steps of each text: longer ones are cut, shorter ones padded.
        most: Largest size of the vocabulary.
        fewest: How often a token occurs at least in the training part.
        text: Column of the texts.
        label: Column of the classes.
        validation: Share of the training part to hold out, from 0 (none) to 1.
        test: Share of the texts that becomes the test part, where the folder has none.

    Raises:
        ConfigError: If an argument makes no sense.
        DataError: If the texts are absent, damaged or of one class only; the message names the
            file and the line.

    Example:
        >>> data = load_text("reviews.csv", length=100)  # doctest: +SKIP
        >>> data.train[0]["input_ids"].shape  # doctest: +SKIP
        torch.Size([7000, 100])
    """
    who = f"load_text({str(path)!r})"
    for name, value, low in (("validation", validation, 0.0), ("test", test, 1e-9)):
        if not is_real(value) or not low <= float(value) < 1.0:
            raise ConfigError(
                who,
                expected=f"{name} to be a share, below 1",
                got=f"{name}={value!r}",
                hint="The defaults are validation=0.1 and test=0.2.",
            )
    parts = read_texts(path, text=text, label=label)
    return split_texts(
        who, parts, validation=validation, test=test, length=length, unit=unit, most=most,
        fewest=fewest,
    )  # fmt: skip


def read_texts(path: str | Path, *, text: str = "text", label: str = "label") -> dict[str, Rows]:
    """Return texts and their classes: ``{"all": ...}``, or ``{"train": ..., "test": ...}``.

    Args:
        path: As for ``load_text``.
        text: Column of the texts.
        label: Column of the classes.

    Raises:
        DataError: If the texts are absent or damaged.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _read_folder(f"load_text({str(path)!r})", path)
    return {"all": _read_table(path, text, label)}


def split_texts(
    who: str,
    parts: dict[str, Rows],
    *,
    validation: float,
    length: int,
    test: float = 0.2,
    unit: Unit = "word",
    most: int = 20_000,
    fewest: int = 1,
    tokenizer: Tokenizer | None = None,
) -> TextSplits:
    """Split what ``read_texts`` returns and make numbers of it.

    Args:
        who: Who asks, for messages.
        parts: Texts and classes.
        validation: As for ``load_text``, or how many texts, from 1 on.
        length: As for ``load_text``, like what follows.
        test: Share of the test part, where there is none.
        unit: What a text is cut into.
        most: Largest size of the vocabulary.
        fewest: How often a token occurs at least.
        tokenizer: Of a pretrained encoder, in place of a vocabulary of the training part.

    Raises:
        ConfigError: If an argument makes no sense.
        DataError: If the texts are of one class, or too few.
    """
    classes = sorted({name for rows in parts.values() for _, name in rows})
    if len(classes) < 2:
        raise DataError(
            who,
            expected="texts of at least two classes",
            got=f"{classes}" if classes else "no text",
            hint="The label of a text is its subfolder, or its entry in the column of labels.",
        )
    whole = parts.get("train", parts.get("all", []))
    train, held_out = _divided(who, whole, classes, 0.0 if "train" in parts else test)
    last = parts["test"] if "train" in parts else held_out
    train, chosen = _divided(who, train, classes, validation)
    contents = [content for content, _ in train]
    vocabulary: AnyVocabulary
    if tokenizer is None:
        vocabulary = Vocabulary.of(contents, unit, most=most, fewest=fewest)
    else:
        vocabulary = tokenizer.of_texts(contents)

    def pair(rows: Rows) -> TextPair:
        labels = torch.tensor([classes.index(name) for _, name in rows])
        return vocabulary.encode([content for content, _ in rows], length=length), labels

    return TextSplits(
        train=pair(train),
        validation=pair(chosen) if chosen else None,
        test=pair(last),
        class_names=tuple(classes),
        vocabulary=vocabulary,
        length=length,
    )


def _divided(who: str, rows: Rows, classes: Sequence[str], share: float) -> tuple[Rows, Rows]:
    """Return texts without a share of them, or a number from 1 on, and those."""
    if share == 0.0:
        return rows, []
    labels = torch.tensor([classes.index(name) for _, name in rows])
    count = int(share) if share >= 1 else max(len(classes), round(share * len(rows)))
    rarest = int(labels.bincount(minlength=len(classes)).min()) if len(rows) else 0
    if rarest < 2 or count > len(rows) - len(classes):
        raise DataError(
            who,
            expected="at least two texts of every class in each part that is divided",
            got=f"{len(rows)} texts, {rarest} of the rarest class",
            hint="Leave rare classes out, or pass validation=0.",
        )
    (kept, _), (held_out, _) = split_off((torch.arange(len(rows)), labels), count, who=who)
    return [rows[i] for i in kept.tolist()], [rows[i] for i in held_out.tolist()]


def _read_table(path: Path, text: str, label: str) -> Rows:
    separator = _SEPARATORS.get(path.suffix.lower())
    if separator is None or not path.is_file():
        raise DataError(
            f"texts of {str(path)!r}",
            expected="a table .csv or .tsv, or a folder of classes",
            got="a file of another kind" if path.exists() else "nothing of this name",
            hint="A relative path begins in the working directory.",
        )
    rows: Rows = []
    content = _read_file(path)
    reader = csv.reader(content.splitlines(keepends=True), delimiter=separator, strict=True)
    try:
        names = next(reader, [])
        for name in (text, label):
            if names.count(name) != 1:
                raise DataError(
                    f"texts of {str(path)!r}",
                    expected=f"one column {name!r} in the first line",
                    got=f"the columns {names}"[:300],
                    hint="Pass text= and label=, the names of the columns.",
                )
        for values in reader:
            if len(values) != len(names):
                raise DataError(
                    f"texts of {str(path)!r}",
                    expected=f"{len(names)} columns",
                    got=f"{len(values)} in line {reader.line_num}",
                    hint="Put texts that hold the separator or a new line into double quotes.",
                )
            if not values[names.index(label)].strip():
                raise DataError(
                    f"texts of {str(path)!r}",
                    expected=f"a {label!r} in every line",
                    got=f"none in line {reader.line_num}",
                    hint="Leave lines without one out.",
                )
            rows.append((values[names.index(text)], values[names.index(label)]))
    except csv.Error as error:
        raise DataError(
            f"texts of {str(path)!r}",
            expected="a table with quoted texts",
            got=f"{first_line(error)} in line {reader.line_num}",
            hint="Double quotes inside a quoted text are written twice.",
        ) from error
    return rows


def _read_folder(who: str, path: Path) -> dict[str, Rows]:
    splits = {"all": path}
    if (path / "train").is_dir():
        splits = {name: path / name for name in ("train", "test")}
    found = {}
    for split, folder in splits.items():
        files = sorted(folder.glob("*/*.txt"))
        if not files:
            raise DataError(
                who,
                expected=f"CLASS/*.txt in {str(folder)!r}",
                got="none",
                hint="One subfolder for each class, one file for each text.",
            )
        found[split] = [(_read_file(file), file.parent.name) for file in files]
    return found


def _read_file(path: Path) -> str:
    try:
        if path.stat().st_size > _LONGEST:
            raise ValueError(f"{path.stat().st_size:,} bytes")
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(
            f"text {str(path)!r}",
            expected=f"a file of UTF-8 of at most {_LONGEST:,} bytes",
            got=f"{type(error).__name__}: {first_line(error)}",
            hint="Convert it, for example with iconv -t UTF-8.",
        ) from error
