"""Files that are whole at all times, as bytes, text and JSON."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from bayesdrop.errors import CheckpointError
from bayesdrop.record import plain


def write_file(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> Path:
    """Write a file so that ``path`` is at all times a whole one, and return the path.

    The new file is written beside the old one as ``.{name}.*``, flushed to disk and renamed over
    it. A process that is killed leaves at most that temporary file behind.

    Args:
        path: The file; its folder is made.
        write: Called with the open binary file.

    Raises:
        CheckpointError: If it cannot be written; what was at ``path`` is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as a RuntimeError of its zip writer.
        raise CheckpointError(
            f"file {path}",
            expected="a folder that can be written, with enough space",
            got=first_line(error),
            hint="An earlier file is unchanged. Free space or choose another folder.",
        ) from error
    finally:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)
    return path


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def write_text(path: str | Path, text: str) -> Path:
    """Write ``text`` so that ``path`` is at all times a whole file, and return the path.

    Raises:
        CheckpointError: If it cannot be written; what was at ``path`` is untouched.
    """
    return write_file(path, lambda file: file.write(text.encode()))


def write_json(path: str | Path, value: Any) -> Path:
    """Write JSON atomically, of what ``plain`` makes of ``value``: NaN becomes null."""
    return write_text(path, json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"file {path}",
            expected="a file",
            got="nothing there",
            hint="Is this the folder of a run, as 'bayesdrop train --out' writes it?",
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"file {path}",
            expected="a whole JSON file",
            got=f"one that cannot be read ({error})",
            hint="It is truncated or damaged, and was left as it is.",
        ) from error
