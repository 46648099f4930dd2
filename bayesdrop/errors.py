"""Errors and warnings of bayesdrop, and the one form every message has."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BayesdropError(Exception):
    """Any error raised on purpose by bayesdrop.

    Args:
        who: The function or layer that complains, with its name in the network.
        expected: What would have been right.
        got: What came instead.
        hint: What to try, as a sentence or a question.

    Example:
        >>> print(BayesdropError("fit", expected="epochs >= 1", got="epochs=0", hint="Raise it."))
        fit: expected epochs >= 1, got epochs=0. Raise it.
    """

    def __init__(
        self, who: str, *, expected: str | None = None, got: str = "", hint: str = ""
    ) -> None:
        # One argument is a whole message, as copy and pickle pass it.
        whole = who if expected is None else f"{who}: expected {expected}, got {got}. {hint}"
        super().__init__(whole)


class ConfigError(BayesdropError, ValueError):
    """An argument, option or name that does not make sense."""


class UnregisteredKLError(ConfigError, NotImplementedError):
    """A prior and a posterior for whose pair no KL divergence is registered."""


class ShapeError(BayesdropError, ValueError):
    """A tensor of the wrong shape; the message names the layer."""


class DataError(BayesdropError, ValueError):
    """Data that cannot be used: empty, non-finite, or labels out of range."""


class DivergenceError(BayesdropError, RuntimeError):
    """A non-finite loss; the message names the step and the first bad site."""


class CheckpointError(BayesdropError, RuntimeError):
    """A checkpoint that cannot be written, or is damaged, or belongs to something else."""


class ConversionError(BayesdropError, RuntimeError):
    """A network into which dropout layers cannot be put, with the reason."""


class CompactionError(BayesdropError, RuntimeError):
    """A network that cannot be made smaller exactly, with the reason."""


class BayesdropWarning(UserWarning):
    """Something the user can act on."""


class ConversionWarning(BayesdropWarning):
    """A part of a network that a conversion had to leave as it was."""


class DataWarning(BayesdropWarning):
    """Data of which something is left out, or in another order than the user may think."""


class CostWarning(BayesdropWarning):
    """A part of a network that its cost leaves out."""


class FewMasksWarning(BayesdropWarning):
    """A likelihood from so few masks that what follows from it is biased."""


class ReliabilityWarning(BayesdropWarning):
    """A figure that its own diagnosis says not to trust."""


class ModeWarning(BayesdropWarning):
    """A model in a mode, training or evaluation, in which its result is not what is wanted."""


class RandomDensityWarning(BayesdropWarning):
    """A log density that is another one at each evaluation, since masks are drawn for it."""


class UncountedDivergenceWarning(BayesdropWarning):
    """Layers that train in a model or loop of one's own which leaves out their KL divergence."""


class TruncationWarning(BayesdropWarning):
    """A stick-breaking layer whose last stick is still open, so that it may be too narrow."""


def unknown_name(kind: str, name: object, available: Iterable[str]) -> ConfigError:
    """Return the error for a name that is not in a registry, with the nearest one that is."""
    names = sorted(available)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    meant = f" Did you mean {near[0]!r}?" if near else ""
    return ConfigError(f"unknown {kind} {name!r}.{meant} Available: {', '.join(names)}.")
