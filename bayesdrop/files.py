"""Files that are whole at all times, as bytes, text and JSON."""

from __future__ import annotations

import glob
import json
import os
import re
import secrets
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from bayesdrop.errors import CheckpointError, ConfigError
from bayesdrop.record import plain

_LONGEST = 200
_SEAL = "checksum"


def write_file(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> Path:
    """Write a file so that ``path`` is at all times a whole one, and return the path.

    The new file is written beside the old one as ``.{name}.*``, flushed to disk and renamed over
    it. A process that is killed leaves at most that temporary file behind, which the next one to
    write ``path`` removes.

    Args:
        path: The file; its folder is made.
        write: Called with the open binary file.

    Raises:
        CheckpointError: If it cannot be written; what was at ``path`` is untouched.
    """
    path = as_path(path)
    if os.path.exists(path) and not os.path.isfile(path):  # it would replace a device
        raise CheckpointError(
            f"file {path}",
            expected="the name of a file, old or new",
            got="that of a folder" if os.path.isdir(path) else "that of a device or a pipe",
            hint="Write to a file of your own.",
        )
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        with temporary.open("xb") as file:
            _lock(file.fileno())
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as a RuntimeError of its zip writer. A name may be too long.
        raise CheckpointError(
            f"file {path}",
            expected="a folder that can be written, with enough space",
            got=first_line(error),
            hint="An earlier file is unchanged. Free space or choose another folder.",
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def as_path(path: object) -> Path:
    """Return the name of a file as a path.

    Raises:
        ConfigError: If it is none.
    """
    if isinstance(path, str | os.PathLike) and "\0" not in (name := os.fspath(path)) and name:
        return Path(name)
    raise ConfigError(
        "bayesdrop file",
        expected="the name of a file, a str or a path",
        got=repr(path) if isinstance(path, str | bytes) else f"a {type(path).__name__}",
        hint='For example "model.pt".',
    )


def sweep(path: Path) -> None:
    """Remove the temporary files that killed processes left beside ``path``."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}"):
        try:
            with leftover.open("r+b") as file:
                if _lock(file.fileno()):  # nobody writes it any more
                    leftover.unlink(missing_ok=True)
        except OSError:  # it is gone, or another user's
            continue


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep a folder to this process, as long as the context lasts.

    Where the system has no locks of folders, nothing is kept.

    Raises:
        ConfigError: If another process has it.
        CheckpointError: If the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if sys.platform == "win32":
            yield
            return
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise CheckpointError(
            f"folder {folder}",
            expected="a folder that can be written",
            got=first_line(error),
            hint="Choose another folder.",
        ) from error
    try:
        if not _lock(handle):
            raise ConfigError(
                f"folder {folder}",
                expected="no other process that writes into it",
                got="one that is at work",
                hint="Wait for it, or choose another --out.",
            )
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    """Return whether nobody else holds the file, which is then held until it is closed."""
    if sys.platform == "win32":  # where what is open cannot be removed
        return True
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, printable and short, or its type."""
    line = (str(error).splitlines() or [""])[0]
    line = "".join(c for c in re.sub(r"\x1b\[[0-9;]*m", "", line) if c.isprintable()).strip()
    if not line or "weights_only" in line or "Weights only" in line:
        return type(error).__name__  # torch then advises to run what is in the file
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def write_text(path: str | Path, text: str) -> Path:
    """Write ``text`` so that ``path`` is at all times a whole file, and return the path.

    Raises:
        CheckpointError: If it cannot be written; what was at ``path`` is untouched.
    """
    return write_file(path, lambda file: file.write(text.encode()))


def write_json(path: str | Path, value: Any) -> Path:
    """Write JSON atomically, of what ``plain`` makes of ``value``: NaN becomes null."""
    return write_text(path, json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n")


def write_sealed(path: str | Path, values: dict[str, Any]) -> Path:
    """Write a dict as JSON, with a checksum by which ``read_sealed`` knows that it is whole."""
    return write_json(path, {**values, _SEAL: _checksum(plain(values))})


def read_sealed(path: str | Path) -> Any:
    """Read what ``write_sealed`` wrote, less the checksum.

    What has none, as of earlier versions, is returned as it is.

    Raises:
        CheckpointError: If it is missing, damaged or edited.
    """
    values = read_json(path)
    if isinstance(values, dict) and _SEAL in values:
        found = values.pop(_SEAL)
        if found != _checksum(values):
            raise CheckpointError(
                f"file {path}",
                expected=f"values of the {_SEAL} {found!r}",
                got=f"those of {_checksum(values)!r}",
                hint=f"It is damaged. If you edited it, remove the line of its {_SEAL}.",
            )
    return values


def _checksum(values: Any) -> str:
    return f"crc32:{zlib.crc32(json.dumps(values).encode()):08x}"


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
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"file {path}",
            expected="a whole JSON file",
            got=f"one that cannot be read ({first_line(error)})",
            hint="It is truncated or damaged, and was left as it is.",
        ) from error
