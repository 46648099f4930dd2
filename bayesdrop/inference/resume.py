"""Whether a checkpoint belongs to the run that finds it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from bayesdrop.errors import BayesdropWarning, CheckpointError
from bayesdrop.inference.fingerprint import first_difference, group_settings

Values: TypeAlias = Mapping[str, Any]
"""What two runs have in common or not, by what to call it in a message."""


def check_same(path: Path, saved: Values, ours: Values) -> None:
    """Raise ``CheckpointError``, which names the first difference, unless two runs agree.

    Args:
        path: The checkpoint.
        saved: Values of its run; one that is missing is None.
        ours: Those of this run.
    """
    name = first_difference(saved, ours)
    if name is not None:
        raise CheckpointError(
            f"checkpoint {path}",
            expected=f"a run with {name}={ours.get(name)}",
            got=f"one with {name}={saved.get(name)}",
            hint="Pass the same settings, another checkpoint_dir, or resume=False.",
        )


def check_groups(path: Path, saved: list[Any], ours: list[Any]) -> None:
    """Raise ``CheckpointError`` unless two optimisers have the same groups of parameters."""
    count = "groups of parameters of the optimizer"
    check_same(path, {count: len(saved)}, {count: len(ours)})
    pairs = zip(group_settings(saved), group_settings(ours), strict=True)
    for number, (theirs, own) in enumerate(pairs):
        # Versions of torch differ in what an optimiser is told.
        shared = [name for name in own if name in theirs]
        check_same(
            path,
            {f"{name} of the optimizer's group {number}": theirs[name] for name in shared},
            {f"{name} of the optimizer's group {number}": own[name] for name in shared},
        )


def check_epochs(path: Path, done: int, epochs: int) -> None:
    """Raise ``CheckpointError`` if a run of ``epochs`` epochs has done more."""
    if done > epochs:
        raise CheckpointError(
            f"checkpoint {path}",
            expected=f"a run of at most epochs={epochs}",
            got=f"one that has done {done}",
            hint="Epochs are those of the whole run: pass more, or resume=False.",
        )


def check_schedules(
    path: Path,
    payload: Mapping[str, Any],
    schedules: Callable[[int], dict[str, list[float]]],
    epochs: int,
) -> None:
    """Raise ``CheckpointError`` for other schedules; warn of ones that ``epochs`` has changed.

    A run may be made longer. It has the bits of the longer run from the start if its schedules,
    in the epochs done, do not depend on their number.

    Args:
        path: The checkpoint.
        payload: What it holds.
        schedules: A number of epochs to the values of each schedule.
        epochs: Epochs of this run.
    """
    saved = payload["schedules"]
    check_same(
        path,
        {f"{name} by epoch": values for name, values in saved.items()},
        {f"{name} by epoch": values for name, values in schedules(payload["epochs"]).items()},
    )
    for name, values in schedules(epochs).items():
        for epoch in range(payload["epoch"]):
            if values[epoch] != saved[name][epoch]:
                warnings.warn(
                    f"fit: {name} depends on the number of epochs. The run continues, but is not "
                    f"one of epochs={epochs} from the start: its epoch {epoch + 1} had "
                    f"{name}={saved[name][epoch]:g} and not {values[epoch]:g}. A run that may be "
                    "made longer needs schedules.constant(1.0), or milestones that are epochs.",
                    BayesdropWarning,
                    stacklevel=5,
                )
                return
