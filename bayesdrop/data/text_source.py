"""Texts as a data set with a name: of a table, of a folder, or made by rule."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from torch import Tensor

from bayesdrop.data.phrases import CLASSES, NAME, phrases
from bayesdrop.data.sources import DataSource, Pair
from bayesdrop.data.text import Rows, TextPair, TextSplits, read_texts, split_texts
from bayesdrop.data.tokenizer import AnyVocabulary, Tokenizer
from bayesdrop.errors import ConfigError

TEXT = "text:"
_LENGTH, _LONGEST = 64, 100_000
_PHRASES_LENGTH = 16


def is_text(name: str) -> bool:
    """Return whether the data set of a name has texts."""
    return name.startswith(TEXT) or name == NAME


def text_source(name: str) -> DataSource:
    """Return what is known of texts before they are split; the files are read.

    Args:
        name: ``"phrases"``, ``text:PATH``, or ``text:PATH@LENGTH`` for texts of so many words.

    Raises:
        ConfigError: If the name has no path or no such length.
        DataError: If the texts are absent or damaged.
    """
    path, length = _parse(name)
    classes = CLASSES if name == NAME else tuple(sorted({c for _, c in _all(_parts(name))}))
    return DataSource(
        name=name,
        title=_title(path),
        image_shape=(length,),
        class_names=classes,
        validation=0,
        read=partial(_read, name),
        origin="made by rule" if path is None else str(path),
    )


def read_splits(
    name: str, validation: int | None = None, tokenizer: Tokenizer | None = None
) -> TextSplits:
    """Return the texts of a name, as numbers of a vocabulary of the training part.

    Args:
        name: As for ``text_source``.
        validation: Number of validation texts; None is a tenth of the training part.
        tokenizer: Of a pretrained encoder, in place of the vocabulary.

    Raises:
        ConfigError: If the name has no path or no such length, or ``validation`` leaves too few.
        DataError: If the texts are absent, damaged or of one class.
    """
    share = 0.1 if validation is None else validation
    length = _parse(name)[1]
    return split_texts(name, _parts(name), validation=share, length=length, tokenizer=tokenizer)


def texts_from_elsewhere(name: str, vocabulary: AnyVocabulary, length: int) -> Tensor:
    """Return all texts of a name, or its test part, as numbers of another set's vocabulary.

    Args:
        name: As for ``text_source``.
        vocabulary: That the network was trained with.
        length: Words of a text.
    """
    parts = _parts(name)
    texts = [text for text, _ in parts.get("test", _all(parts))]
    return vocabulary.encode(texts, length=length)["input_ids"]


def ids(pair: TextPair) -> Pair:
    """Return the numbers of the words alone, padding included, and the labels."""
    return pair[0]["input_ids"], pair[1]


def title_of(name: str) -> str:
    """Return what to call the texts of a name in a report."""
    return _title(_parse(name)[0])


def _title(path: Path | None) -> str:
    return "Phrases" if path is None else f"texts {path.name}"


def _parts(name: str) -> dict[str, Rows]:
    path, _ = _parse(name)
    return {"all": phrases()} if path is None else read_texts(path)


def _all(parts: dict[str, Rows]) -> Rows:
    return [row for rows in parts.values() for row in rows]


def _parse(name: str) -> tuple[Path | None, int]:
    if name == NAME:
        return None, _PHRASES_LENGTH
    path, length = name.removeprefix(TEXT), _LENGTH
    if (match := re.fullmatch(r"(.+)@(\d{1,9})", path)) is not None:
        path, length = match[1], int(match[2])
    if not path.strip() or not 1 <= length <= _LONGEST:
        raise ConfigError(
            f"data set {name!r}",
            expected=f"text:PATH, or text:PATH@LENGTH with 1 to {_LONGEST:,} words",
            got=repr(name.removeprefix(TEXT)),
            hint="For example text:reviews.csv@100.",
        )
    return Path(path).expanduser(), length


def _read(name: str, root: Path, download: bool) -> tuple[Pair, Pair]:
    found = read_splits(name, 0)
    return ids(found.train), ids(found.test)
