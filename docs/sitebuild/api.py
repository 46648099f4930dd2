"""The API by concept: a page for each room, from its public names."""

from __future__ import annotations

import importlib
import inspect
import sys

from sphinx.pycode import ModuleAnalyzer

import bayesdrop as bd
from sitebuild.surface import ROOMS, Entry, documented


def _sorted(entries: list[Entry]) -> list[Entry]:
    """What stands at the top first, then classes, functions, errors, each as declared."""
    return sorted(entries, key=lambda e: (e.name.count("."), e.kind == "data"))


def _has_method_page(entry: Entry) -> bool:
    return entry.thing in bd.nn.layers.values() if inspect.isclass(entry.thing) else False


def _directive(entry: Entry) -> list[str]:
    if entry.kind == "data":  # its value would be described, not what it is for
        body = [f"   {line}" for line in _about_data(entry)]
        return [f".. py:data:: {entry.name}", "", *body, ""]
    lines = [f".. auto{entry.kind}:: {entry.name}"]
    if entry.kind == "class":
        lines.append("   :members:")
    return [*lines, ""]


def _about_data(entry: Entry) -> list[str]:
    """Return the string that stands below a constant, in whichever module of its room."""
    name = entry.name.rpartition(".")[2]
    for module in sorted(sys.modules):
        if module.startswith(f"bayesdrop.{entry.room}"):
            found = ModuleAnalyzer.for_module(module).find_attr_docs().get(("", name))
            if found:
                return found
    return []


def room_page(room: str) -> str:
    """Return the page of a room in reStructuredText: a table of its names, then each of them.

    Layers with a key have a page of their own among the methods; the table leads there.
    """
    title = ROOMS[room]
    entries = _sorted([entry for entry in documented().values() if entry.room == room])
    module = importlib.import_module(f"bayesdrop.{room}")
    about = inspect.getdoc(module) or ""
    lines = [title, "=" * len(title), "", f"``bayesdrop.{room}``", "", about, ""]
    lines += [".. autosummary::", "   :nosignatures:", ""]
    lines += [f"   ~{entry.name}" for entry in entries if entry.kind != "data"] + [""]
    for entry in entries:
        if not _has_method_page(entry):
            lines += _directive(entry)
    return "\n".join(lines)


def index_page() -> str:
    """Return the page that lists the rooms."""
    rows = "\n".join(
        f"| [{title}]({room}.rst) | `bayesdrop.{room}` | {_first_sentence(room)} |"
        for room, title in ROOMS.items()
    )
    tree = "\n".join(ROOMS)
    return (
        "# API by concept\n\nEvery public name and its docstring. Most programs need what stands "
        "at the top, as `bd.fit`; the rest is in its room. Layers with a key are among the "
        "[methods](../methods/index.md).\n\n| | room | what is in it |\n|---|---|---|\n"
        f"{rows}\n\n```{{toctree}}\n:hidden:\n\n{tree}\n```\n"
    )


def _first_sentence(room: str) -> str:
    about = inspect.getdoc(importlib.import_module(f"bayesdrop.{room}")) or ""
    return " ".join(about.split("\n\n")[0].split()).replace("``", "`")
