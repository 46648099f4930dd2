"""The folder of a run: whose it is, and what it may take from another run's."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bayesdrop.errors import ConfigError
from bayesdrop.files import read_json, write_file, write_json
from bayesdrop.recipes.earlier import with_todays_names

FORMAT = 1
"""Format of ``recipe.json``."""

# What may differ between a run and the one that it continues: words, not what is trained.
_OTHERS_OWN = ("recipe.name", "recipe.summary")


def claim(out: Path, run: Mapping[str, Any], shape: Mapping[str, Any]) -> None:
    """Write ``recipe.json``, or check that the one in ``out`` describes the same run.

    Args:
        out: The run's folder.
        run: ``recipe``, ``data``, ``validation`` and ``seed``, as JSON's types.
        shape: ``num_classes`` and ``image_shape``.

    Raises:
        ConfigError: If the folder holds another run.
    """
    from bayesdrop import __version__

    path = out / "recipe.json"
    if not path.exists():
        if out.is_dir() and any(out.glob("*/model.pt")):
            raise ConfigError(
                f"run {out}",
                expected="an empty folder or one with recipe.json",
                got="the models of another run",
                hint="Choose another --out.",
            )
        versions = {"bayesdrop": __version__, "torch": str(torch.__version__)}
        write_json(path, {"format": FORMAT, **run, **shape, **versions})
        return
    theirs, ours = _flatten(_read(path)), _flatten(run)
    changed = [
        name
        for name in ours
        if name not in _OTHERS_OWN and theirs.get(name, "nothing") != ours[name]
    ]
    if changed:
        name = changed[0]
        raise ConfigError(
            f"run {out}",
            expected=f"the run that is in this folder, with {name}={theirs.get(name)}",
            got=f"{name}={ours[name]}",
            hint="Pass the same options to continue it, or choose another --out.",
        )


def copy_stages(start: Path, stages: Sequence[str], out: Path, run: Mapping[str, Any]) -> None:
    """Copy the trained stages of another run, after checking that they are this run's too.

    Args:
        start: The other run's folder.
        stages: Its stages.
        out: This run's folder.
        run: This run, as in ``claim``.

    Raises:
        ConfigError: If the other run is not the beginning of this one.
        CheckpointError: If a file cannot be written.
    """
    found = _read(start / "recipe.json")
    theirs = _flatten({name: found[name] for name in run})
    recipe = {**run["recipe"], "stages": run["recipe"]["stages"][: len(stages)]}
    ours = _flatten({**run, "recipe": recipe})
    for name in theirs | ours:
        if name in _OTHERS_OWN or name.startswith("recipe.dependent_options"):
            continue
        if theirs.get(name, "nothing") != ours.get(name, "nothing"):
            raise ConfigError(
                f"run {start}",
                expected=f"the first stages of this run, with {name}={ours.get(name, 'nothing')}",
                got=f"{name}={theirs.get(name, 'nothing')}",
                hint="Pass a run of the recipe that this one continues, with its options.",
            )
    for stage in stages:
        if not (out / stage / "model.pt").exists():
            # model.pt comes last: it is the sign that the stage is finished.
            for name in ("history.json", "model.pt"):
                with (start / stage / name).open("rb") as source:
                    write_file(out / stage / name, partial(shutil.copyfileobj, source))


def _read(path: Path) -> dict[str, Any]:
    """Return a ``recipe.json`` with today's names of options."""
    found = read_json(path)
    return {**found, "recipe": with_todays_names(found["recipe"])}


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested dicts and lists as one dict with dotted names."""
    items: Iterable[tuple[object, Any]]
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat |= _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat
