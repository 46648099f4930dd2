"""From texts to numbers: bytes, characters or words, padded, with a mask."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from bayesdrop.errors import CheckpointError, ConfigError, DataError, unknown_name
from bayesdrop.files import read_sealed, write_sealed
from bayesdrop.nn.arguments import is_whole
from bayesdrop.record import ShortRepr

Unit = Literal["word", "character", "byte"]
"""What a text is a sequence of."""

PADDING, UNKNOWN = 0, 1
"""Numbers of what is no part of a text, and of what the training part does not have."""

_SPECIAL = 2
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, repr=False)
class Vocabulary(ShortRepr):
    """Which number stands for which word, character or byte; 0 is padding, 1 is unknown.

    Args:
        unit: What a text is cut into. Words are in lower case, each other sign that is no space is
            one of its own.
        tokens: What the numbers from 2 on stand for, the most frequent first; of bytes none, a
            byte's number is its value plus 2.

    Example:
        >>> vocabulary = Vocabulary.of(["so so good", "so bad"], "word")
        >>> vocabulary.encode(["so new"], length=3)["input_ids"].tolist()
        [[2, 1, 0]]
    """

    unit: Unit
    tokens: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, texts: Iterable[str], unit: Unit = "word", *, most: int = 20_000, fewest: int = 1
    ) -> Vocabulary:
        """Return that of the training part.

        Args:
            texts: Of the training part alone: what the test part has beyond is unknown to it.
            unit: What a text is cut into.
            most: Largest number of tokens; the rarest are left out.
            fewest: How often a token occurs at least.

        Raises:
            ConfigError: If an argument makes no sense.
            DataError: If there is nothing in the texts.
        """
        if unit not in get_args(Unit):
            raise unknown_name("unit of a vocabulary", unit, get_args(Unit))
        for name, value in (("most", most), ("fewest", fewest)):
            if not is_whole(value) or value < 1:
                raise ConfigError(
                    "Vocabulary.of",
                    expected=f"{name} of at least 1, an int",
                    got=f"{name}={value!r}",
                    hint="The defaults are 20,000 and 1.",
                )
        if unit == "byte":
            return cls(unit)
        counts = Counter(token for text in texts for token in _cut(text, unit))
        # Ties by name, so that the order of the texts makes no difference.
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        tokens = tuple(token for token, count in ordered[:most] if count >= fewest)
        if not tokens:
            raise DataError(
                "Vocabulary.of",
                expected=f"at least one {unit} that occurs {fewest} times",
                got=f"{len(counts)} different ones",
                hint="Are the texts empty?",
            )
        return cls(unit, tokens)

    def __len__(self) -> int:
        """Return the number of rows of an embedding: padding and unknown count."""
        return _SPECIAL + (256 if self.unit == "byte" else len(self.tokens))

    def encode(self, texts: Sequence[str], *, length: int) -> dict[str, Tensor]:
        """Return texts as a network with two named inputs takes them.

        Args:
            texts: N of them. One with nothing in it is a single unknown, since a mean over no
                step is none.
            length: Steps; what is longer is cut at its end.

        Returns:
            ``"input_ids"``, int64 ``(N, length)``, and ``"attention_mask"`` of the same shape, 1
            where there is text and 0 where there is padding.

        Raises:
            ConfigError: If ``length`` is not at least 1.
        """
        if not is_whole(length) or length < 1:
            raise ConfigError(
                "Vocabulary.encode",
                expected="a length of at least 1, an int",
                got=f"length={length!r}",
                hint="It is the number of steps of each text.",
            )
        ids = torch.full((len(texts), length), PADDING)
        numbers = {token: index + _SPECIAL for index, token in enumerate(self.tokens)}
        for row, text in enumerate(texts):
            if self.unit == "byte":
                found = [value + _SPECIAL for value in text.encode()[:length]]
            else:
                found = [numbers.get(token, UNKNOWN) for token in _cut(text, self.unit)[:length]]
            found = found or [UNKNOWN]
            ids[row, : len(found)] = torch.tensor(found)
        return {"input_ids": ids, "attention_mask": (ids != PADDING).long()}

    def save(self, path: str | Path) -> Path:
        """Write it beside a run, with a checksum, and return the path."""
        return write_sealed(path, {"unit": self.unit, "tokens": list(self.tokens)})

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read what ``save`` wrote.

        Raises:
            CheckpointError: If the file is missing, damaged or of something else.
        """
        values: Any = read_sealed(path)
        known = isinstance(values, dict) and values.get("unit") in get_args(Unit)
        tokens = values.get("tokens") if known else None
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise CheckpointError(
                f"vocabulary {path}",
                expected="what Vocabulary.save wrote",
                got="another file",
                hint="Is it the vocabulary of this run?",
            )
        return cls(values["unit"], tuple(tokens))


def _cut(text: str, unit: Unit) -> list[str]:
    return list(text) if unit == "character" else _WORD.findall(text.lower())
