"""Files that survive: written atomically, read without unpickling code."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch

from bayesdrop.archives import check_tensors
from bayesdrop.errors import CheckpointError, ConfigError
from bayesdrop.files import as_path, first_line, write_file
from bayesdrop.inference.privacy import Privacy
from bayesdrop.nn.latents import is_carried
from bayesdrop.program.checks import check_orders, check_program
from bayesdrop.program.program import Program

ProgramT = TypeVar("ProgramT", bound=Program)

_FORMAT = "bayesdrop"
_VERSION = 1
_SETTINGS = ("num_data", "kl_weight", "input_shape")


def write(path: str | os.PathLike[str], payload: Mapping[str, Any]) -> None:
    """Write ``payload`` with ``torch.save``, atomically.

    Raises:
        CheckpointError: If it cannot be written; what was at ``path`` is untouched.
    """
    write_file(path, lambda file: torch.save(dict(payload), file))


def read(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """Read a file of ``write`` and check that it is one of ours, of the right kind.

    Args:
        path: The file.
        kind: What it must hold, such as ``"model"`` or ``"training"``.

    Raises:
        CheckpointError: If the file is missing, damaged, or something else.
    """
    path = as_path(path)
    try:
        check_tensors(path)
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"checkpoint {path}",
            expected="a file",
            got="nothing there",
            hint="Was the model saved under another name?",
        ) from error
    except MemoryError:  # says nothing of the file
        raise
    except Exception as error:  # whatever the unpickler makes of damaged bytes
        raise CheckpointError(
            f"checkpoint {path}",
            expected="a whole file written by bayesdrop",
            got=f"one that cannot be read ({first_line(error)})",
            hint="It is truncated, damaged or foreign, and was left as it is.",
        ) from error
    if not isinstance(payload, dict) or payload.get("format") != _FORMAT:
        raise CheckpointError(
            f"checkpoint {path}",
            expected="a file written by bayesdrop",
            got="another program's file",
            hint="For a bare state_dict use load_state_dict.",
        )
    if payload.get("version") != _VERSION or payload.get("kind") != kind:
        raise CheckpointError(
            f"checkpoint {path}",
            expected=f"a {kind} file of version {_VERSION}",
            got=f"a {payload.get('kind')} file of version {payload.get('version')}",
            hint="Was it written by another version of bayesdrop?",
        )
    return payload


def header(kind: str) -> dict[str, Any]:
    """Return the entries by which ``read`` knows a file."""
    return {"format": _FORMAT, "version": _VERSION, "kind": kind}


def save(bnn: Program, path: str | os.PathLike[str]) -> None:
    """Save the parameters and buffers of ``bnn`` atomically.

    Args:
        bnn: The network; nothing of it needs to have been called before.
        path: The file to write. ``load`` reads it without running any code from it.

    Raises:
        CheckpointError: If the file cannot be written; an old file at ``path`` is kept.
        ConfigError: If ``bnn`` is none, or ``path`` no path.
    """
    check_program("save", bnn)
    settings = {name: getattr(bnn, name) for name in _SETTINGS}
    if bnn.privacy is not None:
        settings["privacy"] = bnn.privacy.to_dict()
    write(path, {**header("model"), **settings, "state": bnn.state_dict()})


def load(bnn: ProgramT, path: str | os.PathLike[str]) -> ProgramT:
    """Load what ``save`` wrote into ``bnn``, which has the same architecture, and return it.

    Raises:
        CheckpointError: If the file is missing, damaged, foreign or of another architecture, or
            holds an order of units that averaging has rounded; ``bnn`` is then unchanged.
        ConfigError: If ``bnn`` is none, or ``path`` no path.
    """
    check_program("load", bnn)
    payload = read(path, "model")
    missing = [name for name in ("state", *_SETTINGS) if name not in payload]
    if missing:
        raise CheckpointError(
            f"checkpoint {os.fspath(path)}",
            expected="the entries that bd.save writes",
            got=f"none called {missing[0]!r}",
            hint="Was it written by another version of bayesdrop, or edited?",
        )
    check_state(bnn, payload["state"], path)
    _check_orders(bnn, payload["state"], path)
    privacy = _privacy(payload.get("privacy"), path)
    bnn.load_state_dict(payload["state"])
    for name in _SETTINGS:
        setattr(bnn, name, payload[name])
    bnn.privacy = privacy
    return bnn


def _check_orders(bnn: Program, state: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    try:
        check_orders("load", bnn.network, state, "network.")
    except ConfigError as error:
        raise CheckpointError(f"checkpoint {os.fspath(path)}: {error}") from error


def _privacy(values: Any, path: str | os.PathLike[str]) -> Privacy | None:
    try:
        return None if values is None else Privacy.from_dict(values)
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {os.fspath(path)}",
            expected="the promise of private training that bd.save writes",
            got=f"{type(error).__name__}: {first_line(error)}",
            hint="Was it written by another version of bayesdrop, or edited?",
        ) from error


def check_state(
    module: torch.nn.Module, state: Mapping[str, Any], path: str | os.PathLike[str]
) -> None:
    """Raise ``CheckpointError`` unless ``state`` fits ``module`` entry by entry."""
    check_shapes(module, {name: tuple(value.shape) for name, value in state.items()}, path)


def check_shapes(
    module: torch.nn.Module, theirs: Mapping[str, Any], path: str | os.PathLike[str]
) -> None:
    """Raise ``CheckpointError`` unless the shapes are those of ``module``, entry by entry."""
    own = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    # Whether ``update_prior`` was called is a part of the state, not of the architecture.
    own, theirs = (
        {name: shape for name, shape in shapes.items() if not is_carried(module, name, shape)}
        for shapes in (own, theirs)
    )
    wrong = [name for name in {**own, **theirs} if own.get(name) != theirs.get(name)]
    if wrong:
        first = wrong[0]
        raise CheckpointError(
            f"checkpoint {path}",
            expected=f"{first} of shape {own.get(first, 'none: no such entry')}",
            got=f"{theirs.get(first, 'none: no such entry')} ({len(wrong)} entries differ)",
            hint="Build the network with the same architecture and dropout layers first.",
        )


def random_state() -> dict[str, Any]:
    """Return the state of every random number generator that training may use."""
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - the global one
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position],
        "numpy_gauss": [has_gauss, cached],
        "python": [version, list(internal), gauss],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore what ``random_state`` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, position = state["numpy"]
    np.random.set_state(  # noqa: NPY002 - the global one
        (name, keys.numpy().astype(np.uint32), position, *state["numpy_gauss"])
    )
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
