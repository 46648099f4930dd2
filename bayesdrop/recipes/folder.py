"""The folder of a run: whose it is, and what it may take from another run's."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bayesdrop.data import AnyVocabulary, load_vocabulary
from bayesdrop.errors import CheckpointError, ConfigError
from bayesdrop.files import first_line, read_sealed, write_file, write_sealed
from bayesdrop.recipes.earlier import with_todays_names

VOCABULARY = "vocabulary.json"
FORMAT = 1
"""Format of ``recipe.json``."""

_OWN = ("model.pt", "training.pt", "recipe.json", "history.json", VOCABULARY)
# What may differ between a run and the one that it continues: words, not what is trained.
_OTHERS_OWN = ("recipe.name", "recipe.summary")


def claim(out: Path, run: Mapping[str, Any], shape: Mapping[str, Any]) -> None:
    """Write ``recipe.json``, or check that the one in ``out`` describes the same run.

    A folder in which nothing has been trained yet is anyone's.

    Args:
        out: The run's folder.
        run: ``recipe``, ``data``, ``validation`` and ``seed``, as JSON's types.
        shape: ``num_classes`` and ``image_shape``.

    Raises:
        ConfigError: If the folder holds another run.
    """
    from bayesdrop import __version__

    path = out / "recipe.json"
    trained = _is_trained(out)
    if not trained or not path.exists():
        if trained:
            raise ConfigError(
                f"run {out}",
                expected="an empty folder or one with recipe.json",
                got="the models of another run",
                hint="Choose another --out.",
            )
        versions = {"bayesdrop": __version__, "torch": str(torch.__version__)}
        write_sealed(path, {"format": FORMAT, **run, **shape, **versions})
        return
    found = read_description(out)
    theirs, ours = _flatten({name: found.get(name) for name in run}), _flatten(run)
    changed = [
        name
        for name in ours | theirs
        if name not in _OTHERS_OWN and theirs.get(name, "nothing") != ours.get(name, "nothing")
    ]
    if changed:
        name = changed[0]
        hint = "Pass the same options to continue it, or choose another --out."
        if name.endswith(".epochs"):
            hint += " More epochs are another run: the learning rates fall by its length."
        raise ConfigError(
            f"run {out}",
            expected=f"the run that is in this folder, with {name}={theirs.get(name, 'nothing')}",
            got=f"{name}={ours.get(name, 'nothing')}",
            hint=hint,
        )


def claim_vocabulary(out: Path, vocabulary: AnyVocabulary, start: str | Path | None) -> None:
    """Keep the vocabulary of a run in ``vocabulary.json``, or check that it is the one there.

    Args:
        out: The run's folder.
        vocabulary: Of the texts to train on.
        start: Folder of the run that this one continues, or None.

    Raises:
        ConfigError: If the run was begun with other texts.
    """
    begun = [folder for folder in (out, start) if folder is not None]
    for folder in map(Path, begun):
        if folder == out and not _is_trained(out):
            continue
        if load_vocabulary(folder / VOCABULARY) != vocabulary:
            raise ConfigError(
                f"run {folder}",
                expected="the texts that this run was begun with",
                got="other texts",
                hint="Put the files back as they were, or choose another --out.",
            )
    vocabulary.save(out / VOCABULARY)


def read_vocabulary(out: Path, num_words: int) -> AnyVocabulary:
    """Return the vocabulary of a run.

    Args:
        out: The run's folder.
        num_words: Its size.

    Raises:
        CheckpointError: If it is missing, damaged or of another size.
    """
    vocabulary = load_vocabulary(out / VOCABULARY)
    if len(vocabulary) != num_words:
        raise CheckpointError(
            f"run {out}",
            expected=f"{VOCABULARY} of {num_words} words, as recipe.json says",
            got=f"{len(vocabulary)}",
            hint="Is it that of another run?",
        )
    return vocabulary


def _is_trained(out: Path) -> bool:
    return any(any(out.glob(f"{where}.pt")) for where in ("model", "*/model", "*/training"))


def check_beginning(start: Path, num_stages: int, run: Mapping[str, Any]) -> None:
    """Check that another run is the beginning of this one.

    Args:
        start: The other run's folder.
        num_stages: How many stages it has.
        run: This run, as in ``claim``.

    Raises:
        ConfigError: If it is not.
    """
    found = read_description(start)
    theirs = _flatten({name: found.get(name) for name in run})
    recipe = {**run["recipe"], "stages": run["recipe"]["stages"][:num_stages]}
    ours = _flatten({**run, "recipe": recipe})
    later: tuple[str, ...] = ("recipe.dependent_options",)
    if not any(stage["dropout"] for stage in recipe["stages"]):
        later += ("recipe.dropout",)  # and its options: what came before has none
    for name in theirs | ours:
        if name in _OTHERS_OWN or name.startswith(later):
            continue
        if theirs.get(name, "nothing") != ours.get(name, "nothing"):
            raise ConfigError(
                f"run {start}",
                expected=f"the first stages of this run, with {name}={ours.get(name, 'nothing')}",
                got=f"{name}={theirs.get(name, 'nothing')}",
                hint="Pass a run of the recipe that this one continues, with its options.",
            )


def copy_stages(start: Path, stages: Sequence[str], out: Path) -> None:
    """Copy the trained stages of another run.

    Args:
        start: The other run's folder.
        stages: Its stages.
        out: This run's folder.

    Raises:
        CheckpointError: If a file cannot be written.
    """
    for stage in stages:
        if not (out / stage / "model.pt").exists():
            # model.pt comes last: it is the sign that the stage is finished.
            for name in ("history.json", "model.pt"):
                with (start / stage / name).open("rb") as source:
                    write_file(out / stage / name, partial(shutil.copyfileobj, source))


def read_description(out: Path) -> dict[str, Any]:
    """Return the ``recipe.json`` of a run, with today's names of options.

    Raises:
        CheckpointError: If it is missing, damaged or of another format.
    """
    found = read_sealed(out / "recipe.json")
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise CheckpointError(
            f"run {out}",
            expected=f"recipe.json of format {FORMAT}",
            got="another file",
            hint="Was it written by another version of bayesdrop?",
        )
    recipe = found.get("recipe")
    if not isinstance(recipe, dict):
        return found
    try:
        return {**found, "recipe": with_todays_names(recipe)}
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"run {out}",
            expected="recipe.json with the fields of a recipe",
            got=f"{type(error).__name__}: {first_line(error)}",
            hint="Was it edited?",
        ) from error


def check_new_file(run: Path, path: Path) -> None:
    """Check that a file to be written is none that a run is made of.

    Raises:
        ConfigError: If it is.
    """
    if path.name in _OWN and path.resolve().is_relative_to(run.resolve()):
        raise ConfigError(
            f"file {path}",
            expected="a file of its own",
            got=f"one that the run {run} is made of",
            hint="Choose another name: it would be lost.",
        )


def write_history(path: Path, records: Mapping[str, Any]) -> None:
    """Write the records of stages, under their names.

    Raises:
        CheckpointError: If the file cannot be written.
    """
    write_sealed(path, dict(records))


def read_history(path: Path, stages: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the records of stages, as ``write_history`` wrote them, or an earlier version.

    Raises:
        CheckpointError: If the file is missing or damaged.
    """
    found = read_sealed(path)
    if isinstance(found, list) and len(stages) == 1:  # a stage's file of an earlier version
        found = {stages[0]: found}
    try:
        history = {name: [dict(record) for record in found[name]] for name in stages}
        if not all(float(record["seconds"]) >= 0 for each in history.values() for record in each):
            raise ValueError("negative seconds")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"file {path}",
            expected=f"the records of the stages {list(stages)}",
            got=f"{type(error).__name__}: {first_line(error)}",
            hint="It is damaged, and was left as it is.",
        ) from error
    return history


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
