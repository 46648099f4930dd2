"""The study: equal tuning, equal steps, five seeds, and what the differences are worth.

    python benchmarks/study.py work --hours 2      # as often as wanted, several side by side
    python benchmarks/study.py status
    python benchmarks/study.py check               # train a finished job again, and compare

``work`` takes jobs by priority (``study_design.py``) until the hours are over, and stops at an
epoch; the next ``work`` goes on. A terminal shows the job in hand and the time it has; elsewhere
only failures are written, and ``status`` tells the rest. A job is trained by the code of the
commit in ``study_pins.json``, in a copy of its own below ``--work``, whatever the checkout holds
by then. It leaves one file, and one of evidence for each test image, in ``results/study``.
``pin`` writes the present commit there: for all, which begins the study anew, or for methods that
the pinned one does not have. The tables are made by ``tables.py``.

A run takes one thread. Needs MNIST and Fashion-MNIST in ``--data-dir`` or ``BAYESDROP_DATA``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import math
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import study_design as design
from study_jobs import PINS, RESULTS, Job, Plan

from bayesdrop.errors import ConfigError
from bayesdrop.files import only_writer, read_json, write_json
from bayesdrop.inference.progress import new_bar

ROOT = Path(__file__).parents[1]
OUT_OF_TIME = 75


def checkout(commit: str, work: Path) -> Path:
    """Return a folder with the package and the benchmarks of a commit."""
    folder = work / "code" / commit[:12]
    done = folder / "complete"
    if not done.exists():
        command = ["git", "archive", commit, "bayesdrop", "benchmarks"]
        packed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        done.touch()
    return folder


def carry_out(job: Job, args: argparse.Namespace, results: Path, deadline: float) -> int:
    """Do a job with the code of its commit, and return the exit status."""
    folder = checkout(job.commit, args.work)
    path = args.work / "jobs" / f"{job.name}.json"
    write_json(path, dataclasses.asdict(job))
    paths = {"--pins": PINS, "--work": args.work, "--results": results}
    command = [sys.executable, str(folder / "benchmarks" / "study_runs.py"), str(path)]
    for name, value in paths.items():
        command += [name, str(value.resolve())]
    if args.data_dir:
        command += ["--data-dir", str(Path(args.data_dir).resolve())]
    if math.isfinite(deadline):
        command += ["--deadline", str(deadline)]
    code = os.pathsep.join([str(folder.resolve()), str((folder / "benchmarks").resolve())])
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    limit = None if math.isinf(deadline) else 3600 * args.hours
    with (
        time_bar(job.name, limit, deadline) as draw,
        subprocess.Popen(command, env={**os.environ, "PYTHONPATH": code, **threads}) as process,
    ):
        while True:
            try:
                return process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                draw()


@contextlib.contextmanager
def time_bar(name: str, limit: float | None, deadline: float) -> Iterator[Callable[[], None]]:
    """Yield a function that draws how much of the time is over, on a terminal alone.

    A job runs the code of an earlier commit, which is silent: the bar is drawn beside it.

    Args:
        name: Of the job.
        limit: Seconds given to all jobs; None if there is no limit.
        deadline: ``time.time()`` when they are over.
    """
    bar = new_bar() if sys.stderr.isatty() else None
    if bar is None:
        yield lambda: None
        return
    task = bar.add_task(f"{time.strftime('%H:%M')} {name}", total=limit, status="")

    def draw() -> None:
        if limit is not None:
            bar.update(task, completed=min(limit, limit + time.time() - deadline))

    with bar:
        yield draw


def work(args: argparse.Namespace) -> None:
    """Take jobs until the time is over or none is left."""
    plan = Plan(read_json(PINS))
    deadline = time.time() + 3600 * args.hours
    failed: set[str] = set()
    while time.time() < deadline:
        job = _take(plan, args, failed, deadline)
        if job is None:
            return


def _take(plan: Plan, args: argparse.Namespace, failed: set[str], deadline: float) -> Job | None:
    # Does the first job that nobody else is doing.
    for wanted in plan.pending():
        if wanted.name in failed or (args.only and args.only not in wanted.name):
            continue
        job = lost_member(plan, wanted, args.work) or wanted
        try:
            with only_writer(args.work / "claims" / job.name):
                if job == wanted and job.result() is not None:  # since the list was made
                    return job
                status = carry_out(job, args, RESULTS, deadline)
        except ConfigError as error:
            if "no other process" not in str(error):
                raise
            continue
        if status not in (0, OUT_OF_TIME):
            print(f"{job.name} failed with status {status}", file=sys.stderr)
            failed.update({job.name, wanted.name})
        return job
    return None


def lost_member(plan: Plan, job: Job, work: Path) -> Job | None:
    """Return a finished run that a job is made of and whose weights are not here, if there is one.

    It is trained again, and its result written anew: figures are committed, weights are not.
    """
    parts = plan.members(job)
    lost = (part for part in parts if not (work / "runs" / part.name / "model.pt").exists())
    return next(lost, None)


def status(args: argparse.Namespace) -> None:
    """Print how many jobs of each row are finished, and what they cost."""
    plan = Plan(read_json(PINS))
    done, known, seconds = Counter[Any](), Counter[Any](), Counter[Any]()
    for job in plan:
        key = (job.network, job.data, job.method, job.kind)
        known[key] += 1
        result = job.result()
        if result is not None:
            done[key] += 1
            seconds[key] += result["costs"].get("cpu_seconds", 0.0)
    for key, count in known.items():
        print(f"{' '.join(key):60} {done[key]:3d} of {count:3d} {seconds[key] / 3600:6.2f} CPU h")
    print(f"{sum(done.values())} finished, {sum(1 for _ in plan.pending())} could begin")


def pin(args: argparse.Namespace) -> None:
    """Write the present commit as that of all methods, or of some."""
    if subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=ROOT).returncode:
        sys.exit("Commit first: what is pinned is a commit.")
    command = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    pins = read_json(PINS) if PINS.exists() and args.methods else {"methods": {}}
    if args.methods:
        pins["methods"] |= dict.fromkeys(args.methods, commit.strip())
    else:
        pins["commit"] = commit.strip()
    write_json(PINS, pins)


def check(args: argparse.Namespace) -> None:
    """Train a random finished run again, and exit with an error if the figures are others."""
    plan = Plan(read_json(PINS))
    finished = [
        job
        for job in plan
        if job.kind == "run"
        and design.METHODS[job.method].members_of is None
        and job.result() is not None
        and (not args.only or args.only in job.name)
    ]
    if not finished:
        sys.exit("No finished run.")
    job = random.choice(finished)
    print(job.name, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        args.work = Path(folder)
        if carry_out(job, args, args.work / "results", math.inf) != 0:
            sys.exit("It failed.")
        again = job.result(args.work / "results")
    before = job.result()
    assert before is not None and again is not None
    differ = False
    for way, figures in before["ways"].items():
        for name in ("error", "nll", "ece"):
            first, second = figures[name], again["ways"][way][name]
            rows = [run.result() for run in plan.runs(job.network, job.data, job.method, way)]
            values = [row["ways"][way][name] for row in rows if row is not None]
            spread = max(values) - min(values)
            same = first == second
            differ |= abs(first - second) > spread
            words = "the same" if same else f"{second - first:+.3g}, seeds span {spread:.3g}"
            print(f"{way} {name}: {first:.4g} then {second:.4g} ({words})")
    sys.exit("Figures differ by more than seeds do." if differ else 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for name, function in {"work": work, "status": status, "check": check, "pin": pin}.items():
        command = commands.add_parser(name, help=function.__doc__)
        command.set_defaults(function=function)
        command.add_argument("--data-dir", default=os.environ.get("BAYESDROP_DATA"))
        command.add_argument("--work", type=Path, default=ROOT / "runs" / "study")
        command.add_argument("--only", help="jobs with this in their name")
        if name == "work":
            command.add_argument("--hours", type=float, required=True)
        if name == "pin":
            command.add_argument("methods", nargs="*")
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
