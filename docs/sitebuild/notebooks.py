"""The tutorials as notebooks: executed ones where there are any, else their cells alone."""

from __future__ import annotations

from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

_KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def scripts(root: Path) -> list[Path]:
    """Return the tutorials of a repository in order."""
    return sorted((root / "tutorials").glob("[0-9]*.py"))


def notebook_of(script: Path, executed: Path) -> NotebookNode:
    """Return a tutorial as a notebook.

    Args:
        script: The tutorial in percent format.
        executed: Where ``make notebooks`` puts it. It is taken if its cells are the script's.
    """
    plain = jupytext.read(script)
    if executed.exists():
        found = nbformat.read(executed, as_version=4)
        if _sources(found) == _sources(plain):
            plain = found
    plain.metadata = nbformat.from_dict(
        {"kernelspec": _KERNEL, "language_info": {"name": "python"}}
    )
    return plain


def _sources(notebook: NotebookNode) -> list[str]:
    return [cell.source.strip() for cell in notebook.cells]
