"""Names to things: what the command line, recipes and ``make`` functions look up."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from typing_extensions import override

from bayesdrop.errors import ConfigError, unknown_name

Value = TypeVar("Value")


class Registry(Mapping[str, Value], Generic[Value]):
    """A mapping from names to things, in order of registration, that a name enters once.

    Args:
        kind: What the things are, for messages, such as ``"recipe"``.

    Raises:
        ConfigError: By ``registry[name]``, for a name that is not there; it says the nearest one.

    Example:
        >>> colours = Registry[str]("colour")
        >>> colours.register("red", "#f00")
        '#f00'
        >>> list(colours), "blue" in colours
        (['red'], False)
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Value] = {}

    def register(self, name: str, value: Value) -> Value:
        """Add ``value`` under ``name`` and return it.

        The same value twice is no error, and a class or function that is defined again, as where
        a notebook's cell is run again, takes the place of the earlier one.

        Raises:
            ConfigError: If the name is another one's, or no name.
        """
        if not isinstance(name, str) or not name:
            raise ConfigError(
                f"register {self.kind}",
                expected="a name, which is a word",
                got=repr(name),
                hint="What is registered is found by it.",
            )
        earlier = self._entries.get(name, value)
        if earlier != value and _written(earlier) != _written(value):
            raise ConfigError(
                f"register {self.kind}",
                expected="a new name",
                got=f"{name!r}, which is taken",
                hint="Choose another name.",
            )
        self._entries[name] = value
        return value

    @override
    def __getitem__(self, name: str) -> Value:
        for key, value in self._entries.items():
            if value is name:
                raise ConfigError(
                    f"look up {self.kind}",
                    expected="a name",
                    got=f"what {key!r} is the name of",
                    hint=f"Pass {key!r}.",
                )
        if name not in self:
            raise unknown_name(self.kind, name, self._entries)
        return self._entries[name]

    @override
    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._entries

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    @override
    def __len__(self) -> int:
        return len(self._entries)

    @override
    def __repr__(self) -> str:
        return f"Registry({self.kind!r}, {list(self._entries)})"


def _written(value: object) -> object:
    """Return where a class or a function was written; of other things themselves."""
    if inspect.isclass(value) or (inspect.isfunction(value) and value.__name__ != "<lambda>"):
        return value.__module__, value.__qualname__
    return value
