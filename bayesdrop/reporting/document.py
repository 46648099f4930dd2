"""A report's text, tables and pictures, before they become Markdown or HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from bayesdrop.tables import markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        header: Names of the columns; the first column names the rows.
        cells: The text of each row.
        caption: What it shows, for those who do not see where it stands.
    """

    header: Sequence[str]
    cells: Sequence[Sequence[str]]
    caption: str


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure.

    Args:
        file: Name of its PNG file, beside the report.
        caption: What it shows, in a sentence.
        draw: Draws it.
    """

    file: str
    caption: str
    draw: Callable[[], Figure]


Block: TypeAlias = "str | Table | Picture"
"""A paragraph of plain text, a table, or a picture."""


@dataclass(frozen=True, eq=False)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, eq=False)
class Document:
    """A report: its title, what stands before the first heading, and the sections."""

    title: str
    lead: Sequence[Block]
    sections: Sequence[Section]

    def pictures(self) -> Iterator[Picture]:
        """Yield the pictures in order."""
        for blocks in (self.lead, *(section.blocks for section in self.sections)):
            yield from (block for block in blocks if isinstance(block, Picture))

    def without_pictures(self) -> Document:
        """Return the document without pictures, and without sections that were nothing else."""
        lead, *rest = (
            [block for block in blocks if not isinstance(block, Picture)]
            for blocks in (self.lead, *(section.blocks for section in self.sections))
        )
        kept = zip(self.sections, rest, strict=True)
        return Document(self.title, lead, [Section(s.title, b) for s, b in kept if b])

    def to_markdown(self, *, pictures: bool = True) -> str:
        """Return the document as Markdown.

        Args:
            pictures: Whether to link to the pictures' files.
        """
        shown = self if pictures else self.without_pictures()
        parts = [f"# {escaped(self.title)}"]
        for title, blocks in [("", shown.lead), *((s.title, s.blocks) for s in shown.sections)]:
            parts += [f"## {escaped(title)}"] if title else []
            for block in blocks:
                if isinstance(block, Table):
                    cells = [[escaped(cell) for cell in line] for line in block.cells]
                    parts.append(markdown_table([escaped(name) for name in block.header], cells))
                elif isinstance(block, str):
                    parts.append(escaped(block))
                else:
                    parts.append(f"![{escaped(block.caption)}]({block.file})")
        return "\n\n".join(parts) + "\n"


def pictures_first(blocks: Sequence[Block]) -> list[Block]:
    """Return blocks in the order of reading: what is said first, then pictures, then the rest."""
    said = next((i for i, block in enumerate(blocks) if not isinstance(block, str)), len(blocks))
    rest = blocks[said:]
    pictures = [block for block in rest if isinstance(block, Picture)]
    return [*blocks[:said], *pictures, *(b for b in rest if not isinstance(b, Picture))]


def escaped(text: str) -> str:
    """Return text in which Markdown sees no markup: names come from users."""
    for character in "\\`*[]<>|":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
