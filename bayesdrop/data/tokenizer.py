"""From texts to numbers by the tokenizer of a pretrained encoder, kept whole with a run."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from bayesdrop.data.vocabulary import Vocabulary
from bayesdrop.errors import ConfigError, DataError
from bayesdrop.files import first_line, read_sealed, write_sealed
from bayesdrop.nn.arguments import is_whole
from bayesdrop.record import ShortRepr

if TYPE_CHECKING:
    import tokenizers

_FILE = "tokenizer.json"
_LARGEST = 2**26  # bytes of the file


@dataclasses.dataclass(frozen=True, repr=False)
class Tokenizer(ShortRepr):
    """A pretrained encoder's own tokenizer; it stands where a ``Vocabulary`` may stand.

    Args:
        definition: What ``tokenizer.json`` of the encoder's folder says.
        padding: The number that fills short texts.
        texts: Of a run, the SHA-256 of its training texts, in hexadecimal; empty before.
    """

    definition: str = dataclasses.field(repr=False)
    padding: int = 0
    texts: str = ""

    @classmethod
    def of(cls, folder: str | Path, *, padding: int = 0) -> Tokenizer:
        """Return that of an encoder.

        Args:
            folder: With ``tokenizer.json``, as ``save_pretrained`` of transformers writes it.
            padding: The number that fills short texts, ``pad_token_id`` of the configuration.

        Raises:
            DataError: If there is no such file, or it is of something else.
            ImportError: If ``tokenizers``, which comes with transformers, is absent.
        """
        path = Path(folder) / _FILE
        try:
            if path.stat().st_size > _LARGEST:
                raise ValueError(f"{path.stat().st_size:,} bytes")
            found = cls(path.read_text(encoding="utf-8"), padding)
            _parsed(found.definition)
        except (OSError, ValueError) as error:
            raise DataError(
                f"tokenizer {str(path)!r}",
                expected="a tokenizer of the library tokenizers",
                got=f"{type(error).__name__}: {first_line(error)}",
                hint="AutoTokenizer.from_pretrained(...).save_pretrained(folder) writes it.",
            ) from error
        return found

    def of_texts(self, texts: Iterable[str]) -> Tokenizer:
        """Return the same for the training texts of a run, by which another run's are told."""
        found = hashlib.sha256()
        for text in texts:
            found.update(f"{len(text)}:{text}".encode())
        return dataclasses.replace(self, texts=found.hexdigest())

    def __len__(self) -> int:
        """Return how many numbers there are, of which an embedding has rows."""
        return int(_parsed(self.definition).get_vocab_size())

    def encode(self, texts: Sequence[str], *, length: int) -> dict[str, Tensor]:
        """Return texts as numbers, with the encoder's marks of beginning and end.

        Args:
            texts: N of them.
            length: Tokens of each, marks included; what is longer is cut before the last mark.

        Returns:
            ``"input_ids"``, int64 ``(N, length)``, and ``"attention_mask"`` of the same shape, 1
            where there is text and 0 where there is padding.

        Raises:
            ConfigError: If ``length`` has no room beside the marks.
        """
        parsed = _parsed(self.definition)
        marks = parsed.num_special_tokens_to_add(False)
        if not is_whole(length) or length <= marks:
            raise ConfigError(
                "Tokenizer.encode",
                expected=f"a length of at least {marks + 1}, an int: {marks} are marks",
                got=f"length={length!r}",
                hint="It is the number of tokens of each text.",
            )
        parsed.no_padding()
        parsed.enable_truncation(length)
        ids = torch.full((len(texts), length), self.padding)
        for row, found in enumerate(parsed.encode_batch(list(texts))):
            ids[row, : len(found.ids)] = torch.tensor(found.ids, dtype=torch.long)
        return {"input_ids": ids, "attention_mask": (ids != self.padding).long()}

    def save(self, path: str | Path) -> Path:
        """Write it beside a run, with a checksum, and return the path."""
        return write_sealed(path, {"unit": _FILE, **dataclasses.asdict(self)})


AnyVocabulary: TypeAlias = Vocabulary | Tokenizer
"""What makes numbers of texts."""


def load_vocabulary(path: str | Path) -> AnyVocabulary:
    """Read what ``save`` of a vocabulary or a tokenizer wrote.

    Raises:
        CheckpointError: If the file is missing, damaged or of something else.
    """
    values: Any = read_sealed(path)
    if isinstance(values, dict) and values.get("unit") == _FILE:
        definition, padding, texts = (values.get(n) for n in ("definition", "padding", "texts"))
        if isinstance(definition, str) and is_whole(padding) and isinstance(texts, str):
            return Tokenizer(definition, int(padding or 0), texts)
    return Vocabulary.load(path)


@functools.lru_cache(maxsize=2)
def _parsed(definition: str) -> tokenizers.Tokenizer:
    try:
        from tokenizers import Tokenizer as Parsed
    except ImportError as error:
        raise ImportError(
            "A pretrained encoder needs its tokenizer: pip install 'bayesdrop[transformers]'."
        ) from error
    try:
        return Parsed.from_str(definition)
    # The library raises the base class itself for whatever it cannot read.
    except Exception as error:
        raise ValueError(first_line(error)) from error
