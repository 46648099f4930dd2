"""What commands print in tables: registries, costs, and what is kept."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bayesdrop.compression import CompressionTable
    from bayesdrop.program.program import Program

Lines = tuple[list[str], list[list[str]]]
"""Header and cells."""


class Listed(StrEnum):
    """What ``bayesdrop list`` can list."""

    dropouts = "dropouts"
    recipes = "recipes"
    datasets = "datasets"


_ROOMS = {
    Listed.dropouts: "bayesdrop.nn",
    Listed.recipes: "bayesdrop.recipes",
    Listed.datasets: "bayesdrop.data",
}
_SHIPPED = files("bayesdrop") / "listing.json"


def listed(what: Listed) -> Lines:
    """Return the entries of a registry, from a file if nothing else can have entered any.

    Who registers something imports the registry's room, and with it torch, which takes seconds;
    without that the entries are those that the package comes with.
    """
    if _ROOMS[what] in sys.modules:
        return registry_lines(what)
    header, lines = json.loads(_SHIPPED.read_text(encoding="utf-8"))[what]
    return header, lines


def rows(what: Listed) -> list[dict[str, str]]:
    """Return the entries of a registry, each with the names of its columns."""
    header, lines = listed(what)
    return [dict(zip(header, line, strict=True)) for line in lines]


def registry_lines(what: Listed) -> Lines:
    """Return the entries of a registry, and import all that it has."""
    return {
        Listed.dropouts: _dropout_lines,
        Listed.recipes: _recipe_lines,
        Listed.datasets: _data_lines,
    }[what]()


def _dropout_lines() -> Lines:
    from bayesdrop.nn import layers
    from bayesdrop.recipes import ABBREVIATIONS

    short = {key: word for word, key in ABBREVIATIONS.items()}
    return ["key", "short", "of", "class", "reference"], [
        [key, short.get(key, ""), cls.unit_word, cls.__name__, cls.reference]
        for key, cls in layers.items()
    ]


def _recipe_lines() -> Lines:
    from bayesdrop.recipes import registry

    return ["name", "data", "network", "dropout", "epochs", "summary"], [
        [
            recipe.name,
            recipe.data,
            recipe.network,
            recipe.dropout or "",
            " + ".join(str(stage.epochs) for stage in recipe.stages),
            recipe.summary,
        ]
        for recipe in registry.values()
    ]


def _data_lines() -> Lines:
    from bayesdrop.data import registry, regression_sets

    images = [
        [
            source.name,
            " x ".join(str(size) for size in source.image_shape),
            str(len(source.class_names)),
            source.origin,
        ]
        for source in registry.values()
    ]
    tables = [
        [name, f"{source.num_features} columns", "a number", f"uci/{source.file}.npz, local"]
        for name, source in regression_sets.items()
    ]
    own = ["folder:PATH@64", "3 x 64 x 64", "its folders", "your images, PATH/CLASS/*.jpg"]
    words = [
        ["phrases", "16 words", "2", "made by rule"],
        ["text:PATH@100", "100 words", "its labels", "your texts, a table or PATH/CLASS/*.txt"],
    ]
    return ["name", "an example", "classes", "from"], [*images, own, *words, *tables]


def kept_words(bnn: Program) -> list[str]:
    """Return how many units, and how many weights, of each layer are kept, a line for each."""
    total = bnn.total()
    return [
        f"{word} {'-'.join(map(str, kept))} of {'-'.join(map(str, total[word]))}"
        for word, kept in bnn.kept().items()
    ]


def cost_lines(cost: CompressionTable) -> Lines:
    """Return what a network costs before and after it was compacted."""
    before, after = cost.before, cost.after
    lines = [
        ["parameters", f"{before.params:,}", f"{after.params:,}"],
        ["bytes", f"{before.bytes:,}", f"{after.bytes:,}"],
        ["FLOPs per example", f"{before.flops:,}", f"{after.flops:,}"],
    ]
    lines += [[title, f"{old:,}", f"{new:,}"] for title, old, new, _ in cost.sparse_rows()]
    for size, milliseconds in before.latency_ms.items():
        title = f"latency, batch of {size} (ms, {cost.threads} threads)"
        lines.append([title, f"{milliseconds:.3f}", f"{after.latency_ms[size]:.3f}"])
    return ["", "plain", "compact"], lines


def write_listing() -> None:
    """Write the file of ``listed`` anew: ``python -m bayesdrop.listing``."""
    from bayesdrop.files import write_json

    write_json(str(_SHIPPED), {what.value: registry_lines(what) for what in Listed})


if __name__ == "__main__":
    write_listing()
