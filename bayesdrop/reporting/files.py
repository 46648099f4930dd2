"""Text and JSON files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from bayesdrop.errors import CheckpointError
from bayesdrop.files import write_file


def write_text(path: str | Path, text: str) -> Path:
    """Write ``text`` so that ``path`` is at all times a whole file, and return the path.

    Raises:
        CheckpointError: If it cannot be written; what was at ``path`` is untouched.
    """
    return write_file(path, lambda file: file.write(text.encode()))


def write_json(path: str | Path, value: Any) -> Path:
    """Write JSON atomically; NaN and infinities, which JSON lacks, become null."""
    return write_text(path, json.dumps(_finite(value), indent=2, ensure_ascii=False) + "\n")


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


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
