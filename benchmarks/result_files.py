"""What the benchmarks share that add rows to a result file and keep those that are there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


def added(earlier: list[dict], runs: list[dict], names: Sequence[str]) -> list[dict]:
    """Return earlier runs without those that were run again, and the new ones.

    Args:
        earlier: The runs of the file.
        runs: The new ones.
        names: The entries that tell runs apart; one that is missing counts as None.
    """

    def key(run: dict) -> str:
        return json.dumps([run.get(name) for name in names])

    new = {key(run) for run in runs}
    return [run for run in earlier if key(run) not in new] + runs


def write(result: dict, out: Path) -> None:
    """Write a result file, and its folder if there is none."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
