"""What metrics refuse in their options: counts, fractions, seeds and mappings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from torch import Tensor

from bayesdrop.errors import ConfigError, unknown_name

_MOST_BINS = 10_000


def require_bins(who: str, num_bins: int) -> None:
    """Refuse fewer than one bin, a part of one, and more than memory should hold.

    Raises:
        ConfigError: If ``num_bins`` is no whole number from 1 to 10,000.
    """
    if not _is_whole(num_bins) or not 1 <= num_bins <= _MOST_BINS:
        raise ConfigError(
            who,
            expected=f"num_bins >= 1, a whole number of at most {_MOST_BINS:,}",
            got=f"num_bins={num_bins!r}",
            hint="The usual number is 15.",
        )


def require_count(who: str, name: str, value: int, hint: str, least: int = 1) -> None:
    """Refuse what is no whole number of at least ``least``.

    Raises:
        ConfigError: If it is none.
    """
    if not _is_whole(value) or value < least:
        raise ConfigError(
            who, expected=f"{name} >= {least}, an int", got=f"{name}={value!r}", hint=hint
        )


def require_fraction(who: str, name: str, value: float) -> None:
    """Refuse a number outside the open unit interval.

    Raises:
        ConfigError: If it is not inside (0, 1).
    """
    number = isinstance(value, Real) or isinstance(value, Tensor) and value.numel() == 1
    if not number or not 0.0 < value < 1.0:
        raise ConfigError(
            who,
            expected=f"0 < {name} < 1",
            got=f"{name}={value!r}",
            hint="Give a fraction: 5 % is 0.05.",
        )


def as_fractions(who: str, name: str, values: Any) -> list[float]:
    """Return numbers inside the open unit interval, of a sequence or one.

    Raises:
        ConfigError: If there is none, or one is not inside (0, 1).
    """
    given = list(values) if isinstance(values, Iterable) else [values]
    for value in given or [None]:
        require_fraction(who, name, value)
    return [float(value) for value in given]


def as_several(who: str, name: str, values: Any, example: str) -> list[Any]:
    """Return the entries of a sequence of at least one.

    Raises:
        ConfigError: If it is none: a number, a name, a mapping, or empty.
    """
    single = isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable)
    if not single and not (isinstance(values, Tensor) and values.ndim == 0):
        if given := list(values):
            return given
    raise ConfigError(
        who,
        expected=f"{name} to be a sequence with at least one entry",
        got=repr(values),
        hint=f"For example {name}={example}.",
    )


def require_seed(who: str, seed: int) -> int:
    """Return a seed as an integer of Python, which NumPy's are not.

    Raises:
        ConfigError: If it is none.
    """
    if not _is_whole(seed):
        raise ConfigError(
            who, expected="seed to be an int", got=f"seed={seed!r}", hint="Any number will do."
        )
    return int(seed)


def require_names(
    who: str, name: str, given: Any, kind: str, known: Iterable[str] | None = None
) -> None:
    """Refuse an option that is neither None nor a mapping, or has a name that is not known.

    Raises:
        ConfigError: If it is one of these; the message says the nearest name.
    """
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(
            who,
            expected=f"{name} to be a mapping by {kind}",
            got=type(given).__name__,
            hint=f"Pass {name}={{{kind}: ...}}." if name.isidentifier() else "Pass a mapping.",
        )
    names = set(given or () if known is None else known)
    for unknown in (item for item in given or () if item not in names):
        raise unknown_name(f"{kind} in {name}", unknown, names)


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
