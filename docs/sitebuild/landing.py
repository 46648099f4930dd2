"""The front page: the map that ``docs/README.md`` draws, as a table of contents."""

from __future__ import annotations

import os
import re
from pathlib import Path

_ROW = re.compile(r"^\| \[(?P<title>[^\]]+)\]\((?P<target>[^)]+)\) \| (?P<about>.*) \|$")
_GENERATED = {
    "Start here": ("tutorials/README", "Tutorials", "a question each, with code and pictures"),
    "Choose": (
        "methods/index",
        "Methods",
        "a page for each prior: formula, picture, figures, source",
    ),
    "Look up": ("api/index", "API by concept", "every public name and its docstring"),
}
"""A page that only the site has, in the section of the map that it belongs to."""


def sections(root: Path) -> dict[str, list[tuple[str, str, str]]]:
    """Return the map of ``docs/README.md``: title, page and text of each row, by section.

    Pages are relative to the repository, without ``.md``.
    """
    found: dict[str, list[tuple[str, str, str]]] = {}
    for line in (root / "docs" / "README.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            rows = found.setdefault(line[3:], [])
        row = _ROW.match(line)
        if row:
            path = os.path.normpath(f"docs/{row['target']}").removesuffix(".md")
            rows.append((row["title"], path, row["about"]))
    for section, (path, title, about) in _GENERATED.items():
        found[section].append((title, path, about))
    return found


def _branch(root: Path, title: str, path: str) -> str:
    """Return a line of the table of contents, and below an index those of its folder."""
    lines = [f"{title} <{path}>"]
    if path.endswith("results/README"):
        others = sorted((root / path).parent.glob("*.md"))
        lines += [f"{path[:-6]}{page.stem}" for page in others if page.stem != "README"]
    return "\n".join(lines)


def landing_page(root: Path) -> str:
    """Return the front page of the site as MyST Markdown."""
    intro = (Path(__file__).parent / "landing.md.txt").read_text(encoding="utf-8")
    parts, trees = [intro], []
    for section, rows in sections(root).items():
        parts.append(f"## {section}\n\n| page | what it answers |\n|---|---|")
        parts.append(
            "\n".join(
                f"| {{doc}}`{title} <{path}>` | {_text(about)} |" for title, path, about in rows
            )
            + "\n"
        )
        tree = "\n".join(_branch(root, title, path) for title, path, _ in rows)
        trees.append(f"```{{toctree}}\n:hidden:\n:caption: {section}\n\n{tree}\n```\n")
    return "\n".join([*parts, *trees])


def _text(about: str) -> str:
    return re.sub(r"\]\((?![a-z]+:)", "](docs/", about)
