"""A report as one HTML page: images and style inside, no script, nothing fetched."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from bayesdrop.errors import DataError
from bayesdrop.reporting.document import Document, Table

if TYPE_CHECKING:
    from jinja2 import Template

_PNG = b"\x89PNG\r\n\x1a\n"
_TEMPLATE = "page.html.jinja"


def to_html(document: Document, images: Mapping[str, bytes], *, footer: str = "") -> str:
    """Return a document as a self-contained page, readable on a phone and in print.

    Args:
        document: The document. All its text is escaped, by the template.
        images: Picture's file name to its PNG; pictures that are not among them are left out.
        footer: A line at the end.

    Raises:
        DataError: If an image is not a PNG.

    Example:
        >>> from bayesdrop.reporting.document import Document, Section
        >>> page = to_html(Document("a < b", ["Text."], [Section("One", [])]), {})
        >>> "<h1>a &lt; b</h1>" in page, '<a href="#one">One</a>' in page
        (True, True)
    """
    drawn = {name: _Image.of(name, image) for name, image in images.items()}
    return _template().render(
        document=document,
        images=drawn,
        ids=_ids([section.title for section in document.sections]),
        are_words=_are_words,
        footer=footer,
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    return environment.from_string((files(__package__) / _TEMPLATE).read_text("utf-8").lstrip())


def _are_words(table: Table) -> list[bool]:
    """Return which columns hold words, which stand left; numbers stand right."""
    columns = list(zip(*table.cells, strict=True)) or [()] * len(table.header)
    return [not all(re.match(r"[-+]?[\d.]|–$|$", cell) for cell in column) for column in columns]


@dataclass(frozen=True)
class _Image:
    code: str
    width: int
    height: int

    @classmethod
    def of(cls, name: str, image: bytes) -> _Image:
        """Return a PNG for the page, with its size at 96 dots an inch, drawn at 150."""
        if not image.startswith(_PNG) or len(image) < 24:
            raise DataError(
                f"image {name!r}",
                expected="a PNG",
                got=f"{len(image)} other bytes",
                hint="Save figures with plots.save_figure.",
            )
        width, height = (round(side * 96 / 150) for side in struct.unpack(">II", image[16:24]))
        return cls(base64.b64encode(image).decode("ascii"), width, height)


def _ids(titles: list[str]) -> list[str]:
    """Return a name for each title that a link can hold, all different."""
    names: list[str] = []
    for title in titles:
        base = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        count = names.count(base) + sum(name.startswith(f"{base}-") for name in names)
        names.append(f"{base}-{count + 1}" if base in names else base)
    return names
