"""Every bad input is a clear error or a right result, none is silent.

    python benchmarks/reliability/bad_inputs.py

Runs what the files ``inputs_*.py`` beside it list. An input is *clear* if it is refused by an
error (or named by a warning) of ours, of the kind that is expected; *right* if it is accepted and
its value is the one that it should be; *raw* if another error comes out; *silent* if it passes.
"""

from __future__ import annotations

import argparse
import importlib
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from trials import publish

from bayesdrop.errors import BayesdropWarning


@dataclass(frozen=True)
class Input:
    """One bad input.

    Args:
        name: What is wrong, as a user would say it.
        call: Does it.
        right: The error or warning that is due, or a function that says whether the value of the
            call is right.
    """

    name: str
    call: Callable[[], Any]
    right: Any


def outcome(item: Input) -> tuple[str, str]:
    """Return one of clear, right, raw, silent, and what came out."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    due = item.right if isinstance(item.right, type | tuple) else ()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value = item.call()
        except Exception as error:
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            return ("clear" if isinstance(error, due) else "raw"), said
    said = "; ".join(str(w.message) for w in caught if isinstance(w.message, BayesdropWarning))
    if due:
        warned = any(isinstance(warning.message, due) for warning in caught)
        return ("clear" if warned else "silent"), said[:200] or "nothing was said"
    return ("right" if item.right(value) else "silent"), said[:200] or "accepted"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="run inputs with this in their name")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    counts: dict[str, Counter[str]] = {}
    wrong, started = [], time.process_time()
    for path in sorted(Path(__file__).parent.glob("inputs_*.py")):
        group = path.stem.removeprefix("inputs_")
        counts[group] = Counter()
        for item in importlib.import_module(path.stem).INPUTS:
            if options.only in item.name:
                kind, said = outcome(item)
                counts[group][kind] += 1
                if kind in ("raw", "silent"):
                    wrong.append({"group": group, "input": item.name, "is": kind, "said": said})
    total = sum(counts.values(), Counter())
    result = {
        "inputs": sum(total.values()),
        **{kind: total[kind] for kind in ("clear", "right", "raw", "silent")},
        "by_group": {group: dict(count) for group, count in counts.items()},
        "wrong": wrong,
        "cpu_seconds": round(time.process_time() - started, 1),
    }
    if options.only:
        print(result)
    else:
        publish("bad-inputs", result)


if __name__ == "__main__":
    main()
