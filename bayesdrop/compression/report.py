"""What ``compact`` has done to units of blocks, and why the rest has stayed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from bayesdrop.errors import ConfigError
from bayesdrop.record import TableRecord

_NAME = "_compaction"


class Cut(NamedTuple):
    """What became of the units under one mask.

    Args:
        name: The block or layer.
        units: What its units are, in words.
        total: How many there were.
        kept: How many there are.
        used: How many of these the mean mask has not made zero.
        why: Why others are still there; empty if there are none.
    """

    name: str
    units: str
    total: int
    kept: int
    used: int
    why: str


@dataclass(frozen=True, repr=False)
class CompactionReport(TableRecord):
    """What ``compact`` did where it worked by parts.

    Args:
        cuts: What became of the units under each mask; empty where it cut the graph as a whole.
    """

    text_columns = 2

    cuts: tuple[Cut, ...]

    @property
    def stayed(self) -> tuple[Cut, ...]:
        """Where units that the mean mask makes zero are still there."""
        return tuple(cut for cut in self.cuts if cut.kept > cut.used)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return a row for each mask."""
        head = ["units", "zero units are there because", "total", "kept", "of these not zero"]
        return head, [
            [cut.units, cut.why, str(cut.total), str(cut.kept), str(cut.used)] for cut in self.cuts
        ]

    def __repr__(self) -> str:
        if not self.cuts:
            return "CompactionReport(no parts: the graph was cut as a whole)"
        names = ", ".join(f"{cut.units} ({cut.why})" for cut in self.stayed)
        count = "1 mask" if len(self.cuts) == 1 else f"{len(self.cuts)} masks"
        return f"CompactionReport({count}" + (f"; left: {names})" if names else ")")

    def __str__(self) -> str:
        return f"{self!r}\n\n{self.to_markdown()}" if self.cuts else repr(self)


def compaction_report(network: nn.Module) -> CompactionReport:
    """Return what ``compact`` has done to heads, hidden units and other units by parts.

    Args:
        network: What ``compact`` returned; copies and pickles of it know, too.

    Raises:
        ConfigError: If the network does not come from ``compact``.

    Example:
        >>> import torch, bayesdrop as bd
        >>> layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        >>> x = torch.rand(2, 5, 8)
        >>> compaction_report(bd.compact(bd.convert(layer), x)).cuts[0].units
        "heads of 'self_attn'"
    """
    rows = getattr(network, _NAME, None)
    if rows is None:
        raise ConfigError(
            "compaction_report",
            expected="a network that compact has returned",
            got=type(network).__name__,
            hint="Call bd.compact(network, x[:1]) first.",
        )
    return CompactionReport(tuple(Cut(*row) for row in rows))


def note(network: nn.Module, cuts: list[Cut]) -> None:
    """Let a network know what was done to it, in plain tuples."""
    setattr(network, _NAME, [tuple(cut) for cut in cuts])
