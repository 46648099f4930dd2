"""Writing a document: JSON, Markdown with figures beside it, and a page of HTML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bayesdrop.files import write_json, write_text
from bayesdrop.reporting import plots
from bayesdrop.reporting.document import Document
from bayesdrop.reporting.html import to_html


def publish(
    document: Document,
    values: Mapping[str, Any],
    out: str | Path,
    name: str,
    *,
    figures: bool = True,
    html: bool = False,
) -> list[Path]:
    """Write a document in all its forms, and return the paths.

    Args:
        document: What is written.
        values: What goes into the JSON file.
        out: The folder.
        name: Name of the files, less the suffix; the figures have their own.
        figures: Whether to draw the figures, also those of the page.
        html: Whether to write the page, with everything inside.

    Raises:
        ImportError: If figures are asked for and matplotlib is not installed.
        CheckpointError: If a file cannot be written.
    """
    out = Path(out)
    document = document if figures else document.without_pictures()
    drawn = [
        plots.save_figure(picture.draw(), out / picture.file) for picture in document.pictures()
    ]
    written = [
        write_json(out / f"{name}.json", dict(values)),
        write_text(out / f"{name}.md", document.to_markdown()),
    ]
    if html:
        missing = "" if figures else " It has no figures: they need matplotlib."
        footer = f"Written by bayesdrop. The same numbers are in {name}.json.{missing}"
        images = {path.name: path.read_bytes() for path in drawn}
        written.append(write_text(out / f"{name}.html", to_html(document, images, footer=footer)))
    return [*written, *drawn]


def publish_page(document: Document, path: str | Path) -> Path:
    """Write a document as one HTML file, its figures inside, and return the path.

    Raises:
        ImportError: If there are figures and matplotlib is not installed.
        CheckpointError: If the file cannot be written.
    """
    images = {picture.file: plots.to_png(picture.draw()) for picture in document.pictures()}
    return write_text(Path(path), to_html(document, images, footer="Written by bayesdrop."))
