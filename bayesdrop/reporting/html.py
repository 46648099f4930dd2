"""A report as one HTML page: images and style inside, no script, nothing fetched."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Mapping, Sequence
from html import escape
from string import Template

from bayesdrop.errors import DataError
from bayesdrop.reporting.document import Block, Document, Table

_PNG = b"\x89PNG\r\n\x1a\n"

_STYLE = """
:root { color-scheme: light dark; --text: #22262e; --soft: #5a6270; --line: #d9dde3;
  --page: #ffffff; --band: #f4f6f8; --link: #0b62a8; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8ec; --soft: #a7afbb; --line: #3a404a;
  --page: #15181d; --band: #1e2229; --link: #7dbcf0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main, header, footer { max-width: 68rem; margin: 0 auto; padding: 0 1rem; }
h1 { margin: 1.5rem 0 .5rem; font-size: 1.7rem; line-height: 1.25; }
h2 { margin: 2.2rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line);
  font-size: 1.25rem; }
p { max-width: 46rem; overflow-wrap: anywhere; }
a { color: var(--link); }
nav ol { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; list-style: none; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { caption-side: top; text-align: left; color: var(--soft); padding-bottom: .3rem; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th:first-child, .text { text-align: left; }
tbody th { font-weight: 500; }
thead th { background: var(--band); }
figure { margin: 1.2rem 0; }
img { max-width: 100%; height: auto; background: #ffffff; border-radius: 4px; }
figcaption, footer { color: var(--soft); font-size: .9rem; }
footer { padding-bottom: 2rem; }
@media print { :root { --text: #000; --soft: #333; --line: #bbb; --page: #fff; --band: #eee; }
  nav { display: none; } .scroll { overflow: visible; } table { font-size: 7.5pt; }
  th, td { white-space: normal; padding: .15rem .35rem; }
  figure, tr { break-inside: avoid; } h2 { break-after: avoid; } }
"""

_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header>
<h1>$title</h1>
$lead
<nav aria-label="Contents">
<ol>
$contents
</ol>
</nav>
</header>
<main>
$sections
</main>
<footer><p>$footer</p></footer>
</body>
</html>
""")


def to_html(document: Document, images: Mapping[str, bytes], *, footer: str = "") -> str:
    """Return a document as a self-contained page, readable on a phone and in print.

    Args:
        document: The document. All its text is escaped.
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
    ids = _ids([section.title for section in document.sections])
    sections = []
    for name, section in zip(ids, document.sections, strict=True):
        body = "\n".join(_block(block, images) for block in section.blocks)
        heading = f'<h2 id="{name}-title">{escape(section.title)}</h2>'
        sections.append(
            f'<section id="{name}" aria-labelledby="{name}-title">\n{heading}\n{body}\n</section>'
        )
    links = [
        f'<li><a href="#{name}">{escape(section.title)}</a></li>'
        for name, section in zip(ids, document.sections, strict=True)
    ]
    return _PAGE.substitute(
        title=escape(document.title),
        style=_STYLE,
        lead="\n".join(_block(block, images) for block in document.lead),
        contents="\n".join(links),
        sections="\n".join(sections),
        footer=escape(footer),
    )


def _block(block: Block, images: Mapping[str, bytes]) -> str:
    if isinstance(block, str):
        return f"<p>{escape(block)}</p>"
    if isinstance(block, Table):
        return _table(block)
    if block.file not in images:
        return ""
    caption = escape(block.caption)
    width, height = _png_size(block.file, images[block.file])
    source = base64.b64encode(images[block.file]).decode("ascii")
    return (
        f'<figure><img src="data:image/png;base64,{source}" alt="{caption}" '
        f'width="{width}" height="{height}"><figcaption>{caption}</figcaption></figure>'
    )


def _table(table: Table) -> str:
    columns = list(zip(*table.cells, strict=True)) or [()] * len(table.header)
    kinds = ["" if _numeric(column) else ' class="text"' for column in columns]
    header = "".join(
        f'<th scope="col"{kind}>{escape(name)}</th>'
        for name, kind in zip(table.header, kinds, strict=True)
    )
    lines = []
    for first, *rest in table.cells:
        cells = "".join(
            f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(rest, kinds[1:], strict=True)
        )
        lines.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    caption = escape(table.caption)
    # The region can be scrolled with the keyboard.
    return (
        f'<div class="scroll" role="region" aria-label="{caption}" tabindex="0">\n'
        f"<table>\n<caption>{caption}</caption>\n<thead><tr>{header}</tr></thead>\n<tbody>\n"
        + "\n".join(lines)
        + "\n</tbody>\n</table>\n</div>"
    )


def _numeric(column: Sequence[str]) -> bool:
    return all(re.match(r"[-+]?[\d.]|–$|$", cell) for cell in column)


def _png_size(name: str, image: bytes) -> tuple[int, int]:
    """Return width and height at 96 dots an inch, of an image drawn at 150."""
    if not image.startswith(_PNG) or len(image) < 24:
        raise DataError(
            f"image {name!r}",
            expected="a PNG",
            got=f"{len(image)} other bytes",
            hint="Save figures with plots.save_figure.",
        )
    width, height = struct.unpack(">II", image[16:24])
    return round(width * 96 / 150), round(height * 96 / 150)


def _ids(titles: list[str]) -> list[str]:
    """Return a name for each title that a link can hold, all different."""
    names: list[str] = []
    for title in titles:
        base = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        count = names.count(base) + sum(name.startswith(f"{base}-") for name in names)
        names.append(f"{base}-{count + 1}" if base in names else base)
    return names
