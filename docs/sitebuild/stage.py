"""Stages the sources of the site: a mirror of the repository's pages, and generated ones."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import nbformat

import bayesdrop as bd
from sitebuild import api, methods, notebooks, pictures
from sitebuild.landing import landing_page
from sitebuild.surface import ROOMS

_BESIDE = re.compile(r"(^```py\n.*?^```\n)\n(^```python\n.*?^```\n)", re.DOTALL | re.MULTILINE)
"""Code of another library, and ours for the same task."""
_LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def pages(root: Path) -> list[Path]:
    """Return the Markdown pages of the repository that the site shows, in alphabetical order."""
    folders = (root / "docs").rglob("*.md"), (root / "benchmarks").glob("*.md")
    return sorted([*root.glob("*.md"), *(page for found in folders for page in found)])


class Stage:
    """Writes a tree of sources, and leaves files alone whose content is as it was.

    Args:
        root: The repository.
        out: Folder of the staged sources.
    """

    def __init__(self, root: Path, out: Path) -> None:
        self.root, self.out = root, out
        self.written: set[Path] = set()

    def write(self, name: str | Path, text: str) -> None:
        """Write one source."""
        path = self.out / name
        self.written.add(path)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    def copy(self, path: Path) -> None:
        """Copy a file of the repository to its place in the mirror."""
        target = self.out / path.relative_to(self.root)
        self.written.add(target)
        if not target.exists() or target.stat().st_mtime < path.stat().st_mtime:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)

    def linked(self, page: Path, text: str) -> str:
        """Return Markdown whose links lead to pages of the site; copy the other files it names."""

        def replace(found: re.Match[str]) -> str:
            if re.match(r"[a-z]+:", found[2]):
                return found[0]
            target = Path(os.path.normpath(page.parent / found[2]))
            if target in scripts:
                return found[1] + found[2].removesuffix(".py") + ".ipynb" + found[3]
            if target.is_file() and target.suffix != ".md":
                self.copy(target)
            return found[0]

        scripts = set(notebooks.scripts(self.root))
        return _LINK.sub(replace, _BESIDE.sub(r"::::{container} beside\n\1\n\2::::\n", text))

    def remove_others(self) -> None:
        """Remove what an earlier build staged and this one did not."""
        for path in self.out.rglob("*"):
            if path.is_file() and path not in self.written:
                path.unlink()


def stage(root: Path, out: Path) -> None:
    """Stage all sources of the site.

    Args:
        root: The repository.
        out: Folder of the staged sources, such as ``build/docs/source``.
    """
    tree = Stage(root, out)
    for page in pages(root):
        text = tree.linked(page, page.read_text(encoding="utf-8"))
        tree.write(page.relative_to(root), text)
    _stage_tutorials(tree)
    _stage_methods(tree)
    tree.write("api/index.md", api.index_page())
    for room in ROOMS:
        tree.write(f"api/{room}.rst", api.room_page(room))
    tree.write("index.md", landing_page(root))
    tree.remove_others()


def _stage_tutorials(tree: Stage) -> None:
    names = []
    for script in notebooks.scripts(tree.root):
        name = script.stem
        book = notebooks.notebook_of(script, tree.root / f"build/notebooks/{name}.ipynb")
        for cell in book.cells:
            if cell.cell_type == "markdown":
                cell.source = tree.linked(script, cell.source)
        for number, cell in enumerate(book.cells):
            cell.id = f"{name[:2]}-{number}"  # jupytext's are random, and would stage it anew
        tree.write(f"tutorials/{name}.ipynb", nbformat.writes(book))
        names.append(name)
    page = tree.root / "tutorials" / "README.md"
    text = tree.linked(page, page.read_text(encoding="utf-8"))
    tree.write("tutorials/README.md", _with_tree(text, names))


def _stage_methods(tree: Stage) -> None:
    newest = max(path.stat().st_mtime for path in _sources(tree.root))
    for key in bd.nn.layers:
        picture = tree.out / f"methods/{key}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        tree.written.add(picture)
        if not picture.exists() or picture.stat().st_mtime < newest:
            pictures.draw(key, picture)
        page = methods.page_of(key, tree.root / "docs")
        tree.write(f"methods/{key}.md", page)
    tree.write("methods/index.md", methods.index_page(tree.root / "docs"))


def _sources(root: Path) -> Iterable[Path]:
    yield Path(pictures.__file__)
    yield from (root / "bayesdrop" / "nn").rglob("*.py")
    yield from (root / "bayesdrop" / "distributions").rglob("*.py")


def _with_tree(text: str, names: Iterable[str]) -> str:
    return f"{text}\n\n```{{toctree}}\n:hidden:\n\n" + "\n".join(names) + "\n```\n"
