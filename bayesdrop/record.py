"""What functions return: frozen dataclasses that turn into JSON's types and into tables."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from bayesdrop.tables import markdown_table


def plain(value: Any) -> Any:
    """Return a value as JSON has it: numbers, strings, None, lists and dictionaries.

    NaN and infinities, which JSON lacks, become None; tensors and tuples lists; named tuples and
    dataclasses dictionaries, a ``Record`` as its ``to_dict`` says; keys strings, of which a float
    has no more digits than ``f"{key:g}"``. What is none of these stays as it is.

    Example:
        >>> import torch
        >>> plain({0.5: torch.tensor([1.0, torch.nan]), "shape": (3, 2)})
        {'0.5': [1.0, None], 'shape': [3, 2]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, Record):
        return value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _key(key: object) -> str:
    return f"{key:g}" if isinstance(key, float) else str(key)


class ShortRepr:
    """Mixin of a dataclass, declared with ``repr=False``, that holds tensors: shows their shapes.

    Example:
        >>> import torch
        >>> @dataclasses.dataclass(frozen=True, repr=False)
        ... class Pair(ShortRepr):
        ...     name: str
        ...     x: torch.Tensor
        ...     y: torch.Tensor | None = None
        >>> Pair("digits", torch.zeros(3, 2))
        Pair:
          name: 'digits'
          x: tensor of shape (3, 2), float32
    """

    def __repr__(self) -> str:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        values = {item.name: getattr(self, item.name) for item in fields if item.repr}
        shown = [f"  {k}: {_short(value)}" for k, value in values.items() if value is not None]
        return "\n".join([f"{type(self).__name__}:", *shown])


def _short(value: object) -> str:
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"tensor of shape {tuple(value.shape)}, {dtype}"
    if isinstance(value, tuple) and any(isinstance(item, Tensor) for item in value):
        return ", ".join(map(_short, value))
    text = repr(value)
    return text if len(text) <= _WIDEST else f"{text[:_WIDEST]}..."


_WIDEST = 70


class Record:
    """Mixin of a frozen dataclass that a function returns.

    Args:
        also: Properties that ``to_dict`` has besides the fields.
        without: Fields that it leaves out, such as samples.
        drop_none: Whether it leaves out what is None.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Speed(Record, also=("ratio",)):
        ...     before: float
        ...     after: float
        ...
        ...     @property
        ...     def ratio(self) -> float:
        ...         return self.before / self.after
        >>> Speed(3.0, 2.0).to_dict()
        {'before': 3.0, 'after': 2.0, 'ratio': 1.5}
    """

    _also: ClassVar[tuple[str, ...]] = ()
    _without: ClassVar[tuple[str, ...]] = ()
    _drop_none: ClassVar[bool] = False

    def __init_subclass__(
        cls,
        *,
        also: Sequence[str] = (),
        without: Sequence[str] = (),
        drop_none: bool = False,
        **options: Any,
    ) -> None:
        super().__init_subclass__(**options)
        cls._also, cls._without, cls._drop_none = tuple(also), tuple(without), drop_none

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, and what follows from them, in plain Python values, for JSON."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        names = (*(item.name for item in fields if item.name not in self._without), *self._also)
        values = {name: plain(getattr(self, name)) for name in names}
        return {k: v for k, v in values.items() if v is not None or not self._drop_none}


class TableRecord(Record, ABC):
    """Mixin of a frozen dataclass that is read as a table; ``str`` is its Markdown."""

    text_columns: ClassVar[int] = 1
    """The first columns, which hold text; the others are right-aligned."""

    @abstractmethod
    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the names of the columns, and the text of each row."""

    def to_markdown(self) -> str:
        """Return a Markdown table."""
        return markdown_table(*self.table(), text_columns=self.text_columns)

    def __str__(self) -> str:
        return self.to_markdown()
