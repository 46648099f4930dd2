"""A run that is killed at any moment ends with the bits of one that is not.

    python benchmarks/reliability/kills.py --kills 100

Runs of three stages are killed by SIGKILL and begun again with the same call until they are done:
at random moments, inside a write (half a file, before and after it reaches the disk, before and
after it gets its name), between stages, and while a trained run is evaluated. A run is lost if it
cannot be continued or ends with other bits of weights or histories than an uninterrupted one.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from trials import digest, ended, publish, start

from bayesdrop import files, recipes
from bayesdrop.recipes import Recipe, Stage, load_run, report_run, run_recipe
from bayesdrop.reporting import write_report

POINTS = ("half a file", "before fsync", "before rename", "after rename")
SHARES = {"at random": 0.4, "in a write": 0.4, "between stages": 0.1, "in evaluate": 0.1}


def recipe() -> Recipe:
    """Return three short stages: plain, masked, and masks that look at their input."""
    first = recipes.get("digits-mlp-bb").override(epochs=3, pretrain_epochs=2, batch_size=60)
    last = Stage("dependent", 2, dropout=True, dependent=True, variational_learning_rate=0.01)
    return replace(first, name="killed", stages=(*first.stages, last))


def train(out: Path, announce: Callable[[str], object] | None = None) -> None:
    run_recipe(recipe(), out=out, data="digits:0-3", progress=False, announce=announce)


def bits(out: Path) -> str:
    run = load_run(out)
    return digest([run.bnn, run.plain, run.history])


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train_and_die(out: Path, point: str, call: int) -> None:
    """Train, and be killed at a point of the n-th file that is written."""
    write_file, fsync, rename = files.write_file, os.fsync, os.replace
    calls = 0

    def pass_by(where: str) -> None:
        if (where, calls) == (point, call):
            die()

    def count(path, write):
        nonlocal calls
        calls += 1

        def half(file):
            write(file)
            if (point, call) == ("half a file", calls):
                file.truncate(file.tell() // 2)
                file.flush()
                die()

        return write_file(path, half)

    def sync(handle):
        pass_by("before fsync")
        fsync(handle)

    def name(source, target):
        pass_by("before rename")
        rename(source, target)
        pass_by("after rename")

    for module in (files, recipes.folder, recipes.run.checkpoint):
        module.write_file = count
    os.fsync, os.replace = sync, name
    train(out)


def killed_after(seconds: float, work: Callable[[], object]) -> int:
    """Start a process, kill it after a while, and return how it ended."""
    number = start(work)
    time.sleep(seconds)
    os.kill(number, signal.SIGKILL)
    return ended(number)


def finish(kind: str, kills: int, folder: Path, whole: float, chance: random.Random) -> dict:
    """Kill runs ``kills`` times, let each finish, and return what was found."""
    done, lost, left, runs, failed = 0, 0, 0, 0, 0
    reference = bits(folder / "reference")
    while done < kills:
        out = folder / f"{kind.replace(' ', '-')}-{runs}"
        runs += 1
        for _ in range(chance.randint(1, 8)):
            if done == kills:
                break
            if kind == "at random":
                code = killed_after(chance.uniform(0, whole), lambda o=out: train(o))
            elif kind == "in a write":
                point, call = chance.choice(POINTS), chance.randint(1, 6)
                code = ended(start(lambda o=out, p=point, c=call: train_and_die(o, p, c)))
            else:
                stage = chance.choice(["'plain'", "'beta-bernoulli'", "'dependent'"])
                code = ended(
                    start(lambda o=out, s=stage: train(o, lambda line: die() if s in line else 0))
                )
            if code == -signal.SIGKILL:
                done += 1
            elif code == 0:  # it was faster
                break
            else:
                failed += 1
                break
        failed += ended(start(lambda o=out: train(o))) != 0
        lost += not (out / "model.pt").exists() or bits(out) != reference
        left += len([path for path in out.rglob(".*") if path.is_file()])
    return {"kills": done, "runs": runs, "lost": lost, "failed": failed, "files_left": left}


def evaluate(out: Path, report: Path) -> None:
    write_report(report_run(load_run(out), num_samples=4), report)


def evaluations(kills: int, folder: Path, chance: random.Random) -> dict:
    """Kill ``evaluate`` at random moments; the run stays as it is, the next report is whole."""
    out, report = folder / "reference", folder / "report"
    reference, begun = bits(out), time.perf_counter()
    ended(start(lambda: evaluate(out, folder / "whole")))
    whole, done, lost = time.perf_counter() - begun, 0, 0
    while done < kills:
        code = killed_after(chance.uniform(0, whole), lambda: evaluate(out, report))
        done += code == -signal.SIGKILL
        for path in report.glob("*.json"):
            files.read_json(path)
        for path in report.glob("*.png"):
            lost += not path.read_bytes().endswith(b"IEND\xaeB`\x82")
        lost += bits(out) != reference
    failed = int(ended(start(lambda: evaluate(out, report))) != 0)
    left = len(list(report.glob(".*")))
    return {"kills": done, "runs": 1, "lost": lost, "failed": failed, "files_left": left}


def trial(kills: int, seed: int) -> dict:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begun = time.perf_counter()
        ended(start(lambda: train(folder / "reference")))
        whole = time.perf_counter() - begun
        counts = {kind: round(kills * share) for kind, share in SHARES.items()}
        last = counts.pop("in evaluate")
        rows = {kind: finish(kind, n, folder, whole, chance) for kind, n in counts.items()}
        rows["in evaluate"] = evaluations(last, folder, chance)
    return {"seed": seed, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    publish("kills", trial(options.kills, options.seed), options.out)


if __name__ == "__main__":
    main()
