"""Seconds until a command, or an import, is there.

    python benchmarks/startup.py --out benchmarks/results/startup.json

Each is a process of its own, in random order within a round, with bytecode that a first round has
written, as an installed package has it. Of all rounds the least is kept, in wall time and in CPU
time, which is what a quiet machine would take; medians are beside it.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from result_files import write

CLI = "from bayesdrop.cli import main; main()"
TORCH_PYRO = "import torch, pyro, pyro.infer, pyro.optim"
COMMANDS = {
    "python, nothing": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import torch, pyro": ["-c", TORCH_PYRO],
    "import bayesdrop": ["-c", "import bayesdrop"],
    "import bayesdrop; bayesdrop.fit": ["-c", "import bayesdrop; bayesdrop.fit"],
    "bayesdrop --help": ["-c", CLI, "--help"],
    "bayesdrop --version": ["-c", CLI, "--version"],
    **{f"bayesdrop list {what}": ["-c", CLI, "list", what] for what in ("dropouts", "recipes")},
}


def seconds(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Return wall and CPU seconds of one process."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    started, before = time.perf_counter(), used()
    subprocess.run([sys.executable, *command], check=True, env=environment, capture_output=True)
    return time.perf_counter() - started, used() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    load, order = os.getloadavg()[0], random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder, "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for round_index in range(args.rounds + 1):
            for name in order.sample(list(COMMANDS), len(COMMANDS)):
                pair = seconds(COMMANDS[name], environment)
                if round_index:
                    found[name].append(pair)
    result = {
        "command": "python " + " ".join(sys.argv),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "load_before": round(load, 2),
        "rounds": args.rounds,
        "seconds": {
            name: {
                kind: {
                    "least": round(min(values), 3),
                    "median": round(statistics.median(values), 3),
                }
                for kind, values in zip(("wall", "cpu"), zip(*pairs, strict=True), strict=True)
            }
            for name, pairs in found.items()
        },
    }
    for name, kinds in result["seconds"].items():
        print(f"{name:34} {kinds}")
    if args.out:
        write(result, args.out)


if __name__ == "__main__":
    main()
