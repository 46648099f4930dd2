"""The public names: under which name each is documented, and on which page."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import bayesdrop as bd

ROOMS = {
    "conversion": "Convert a network",
    "nn": "Layers",
    "program": "A network as a program",
    "likelihoods": "Likelihoods",
    "inference": "Train and predict",
    "compression": "Make it smaller",
    "diagnostics": "Ask the network",
    "metrics": "Ask the predictions",
    "reporting": "Reports and figures",
    "data": "Data sets",
    "networks": "Networks",
    "distributions": "Distributions",
    "recipes": "Recipes",
    "citations": "Citations",
    "errors": "Errors and warnings",
    "testing": "Tests of your own layers",
}
"""Rooms whose names are public, by the question they answer, in the order of a user's way."""

_NAME = re.compile(r"\b(?:bd|bayesdrop)((?:\.[A-Za-z]\w*)+)")


@dataclass(frozen=True)
class Entry:
    """A public thing: where it is documented, and as what."""

    name: str
    """Full public name, ``bayesdrop.fit``."""
    thing: Any
    room: str

    @property
    def kind(self) -> str:
        """What autodoc is asked for: class, exception, function or data."""
        if inspect.isclass(self.thing):
            return "exception" if issubclass(self.thing, BaseException) else "class"
        return "function" if callable(self.thing) else "data"


def resolve(dotted: str) -> Any:
    """Return what ``bayesdrop.x.y`` is, or None."""
    found: Any = bd
    for part in dotted.split(".")[1:]:
        if not hasattr(found, part):
            return None
        found = getattr(found, part)
    return found


def mentioned(pages: Iterable[Path]) -> set[str]:
    """Return the names of functions and classes below a room's surface that pages speak of."""
    named = {
        "bayesdrop" + tail for page in pages for tail in _NAME.findall(page.read_text("utf-8"))
    }
    return {
        name
        for name in named
        if (callable(thing := resolve(name)) or inspect.isclass(thing))
        and getattr(thing, "__module__", "").startswith("bayesdrop")
    }


def _own(module: Any) -> list[str]:
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return list(listed)
    return [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_") and getattr(thing, "__module__", "") == module.__name__
    ]


def _names(pages: Iterable[Path]) -> Iterable[str]:
    yield from (f"bayesdrop.{name}" for name in bd.__all__)
    for room in ROOMS:
        module = importlib.import_module(f"bayesdrop.{room}")
        yield from (f"bayesdrop.{room}.{name}" for name in _own(module))
    for module in (bd.schedules, importlib.import_module("bayesdrop.inference.objectives")):
        yield from (f"{module.__name__}.{name}" for name in _own(module))
    yield from sorted(mentioned(pages), key=lambda name: (name.count("."), name))


def _room(name: str, thing: Any) -> str:
    module = getattr(thing, "__module__", None) or name
    return module.split(".")[1] if module.startswith("bayesdrop.") else name.split(".")[1]


def public(pages: Iterable[Path] = ()) -> dict[str, Entry]:
    """Return every public thing once, under the shortest of its names.

    Args:
        pages: Markdown pages; what they name is public too.
    """
    entries: dict[str, Entry] = {}
    seen: set[int] = set()
    for name in _names(pages):
        thing = resolve(name)
        if thing is None or inspect.ismodule(thing) or id(thing) in seen:
            continue
        parent = resolve(name.rpartition(".")[0])
        if inspect.isclass(parent):  # a method, which stands at its class
            continue
        room = _room(name, thing)
        if room in ROOMS:
            seen.add(id(thing))
            entries[name] = Entry(name, thing, room)
    return entries


@cache
def home_of(name: str) -> str | None:
    """Return the documented name of what another name means, such as that of its own module."""
    thing = resolve(name) if name.startswith("bayesdrop.") else None
    return documented_by_id().get(id(thing)) if thing is not None else None


@cache
def documented_by_id() -> dict[int, str]:
    """Return the documented name of every public thing by its ``id``."""
    return {id(entry.thing): name for name, entry in documented().items()}


@cache
def documented() -> dict[str, Entry]:
    """Return what this repository documents."""
    root = Path(__file__).resolve().parents[2]
    return public([*root.glob("*.md"), *(root / "docs").rglob("*.md")])
