"""Jobs of the study: what tells them apart, in which order they come, and what they leave.

A job is a small dictionary, and its name ends in a hash of everything that decides its result. A
result is a file of its own, so that workers, and clones, share nothing that must be merged.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import study_design as design

RESULTS = Path(__file__).parent / "results" / "study"
PINS = Path(__file__).parent / "study_pins.json"
LATENCIES = RESULTS.with_name("study-latency.json")

PACKAGES = ("torch", "pyro-ppl", "numpy")


@dataclass(frozen=True)
class Job:
    """One training, or what follows from several.

    Args:
        kind: ``"trial"`` on held-out training images, or ``"run"`` on the test images.
        network: As in recipes' names.
        data: Data set; ``"mnist:0-7"`` for a network that is to see other classes.
        method: Key of ``study_design.METHODS``.
        seed: Of initial weights, order and masks.
        choice: What the method's trial drew.
        commit: Of the code that trains.
        versions: Of the libraries that decide the result.
    """

    kind: str
    network: str
    data: str
    method: str
    seed: int
    choice: dict[str, Any]
    commit: str
    versions: dict[str, str]

    @property
    def name(self) -> str:
        """Setting, method and seed, and a hash of all fields."""
        where = f"{self.network}-{self.data.replace(':', '_')}"
        return f"{where}/{self.method}-{self.kind}-{self.seed}-{digest(asdict(self))}"

    def result(self, results: Path = RESULTS) -> dict[str, Any] | None:
        """Return the job's figures if it is finished."""
        path = results / f"{self.name}.json"
        return json.loads(path.read_text()) if path.exists() else None


def digest(values: Mapping[str, Any]) -> str:
    """Return a hash of JSON's types."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def versions() -> dict[str, str]:
    """Return the versions that are part of a job."""
    return {name: version(name).split("+")[0] for name in PACKAGES}


class Plan:
    """All jobs in order; those that depend on trials appear when the trials are finished.

    Args:
        pins: ``commit`` of the code that trains, and under ``methods`` of those that came later.
        results: Folder of results.
        versions: Of libraries; by default those that are installed.
    """

    def __init__(
        self,
        pins: Mapping[str, Any],
        results: Path = RESULTS,
        versions: Mapping[str, str] | None = None,
    ) -> None:
        self.pins, self.results = pins, results
        self.versions = dict(versions or globals()["versions"]())

    def job(
        self, kind: str, network: str, data: str, method: str, seed: int, choice: Mapping[str, Any]
    ) -> Job:
        """Return a job of the pinned code."""
        commit = self.pins.get("methods", {}).get(method, self.pins["commit"])
        return Job(kind, network, data, method, seed, dict(choice), commit, self.versions)

    def trials(self, network: str, data: str, method: str) -> list[Job]:
        """Return the trials of a method, the first with the middle of its ranges."""
        if not design.METHODS[method].space:
            return []
        return [
            self.job(
                "trial", network, data, method, design.TRIAL_SEED, design.choice_of(method, trial)
            )
            for trial in range(design.TRIALS)
        ]

    def choices(self, network: str, data: str, method: str) -> dict[str, dict[str, Any]] | None:
        """Return the best trial's values for each way of predicting, once all are finished.

        The best has the lowest NLL on the held-out images.
        """
        what = design.METHODS[method]
        if not what.space:
            return {way: {} for way in what.ways}
        found = [(job, job.result(self.results)) for job in self.trials(network, data, method)]
        done = [(job, result) for job, result in found if result is not None]
        if len(done) < len(found):
            return None
        return {
            way: min(done, key=lambda pair, way=way: pair[1]["ways"][way]["nll"])[0].choice
            for way in what.ways
        }

    def runs(self, network: str, data: str, method: str, way: str) -> list[Job]:
        """Return a row's runs, one a seed; none before its trials are finished."""
        chosen = self.choices(network, data, method)
        if chosen is None:
            return []
        seeds = design.MEMBERS if method == "plain" else design.SEEDS
        return [self.job("run", network, data, method, seed, chosen[way]) for seed in seeds]

    def held_out(self, network: str, data: str, method: str, way: str) -> list[Job]:
        """Return a row's runs on the first classes only, which then see the others."""
        if network not in design.HELD_OUT or design.METHODS[method].members_of is not None:
            return []
        known = f"{data}:{design.KNOWN_CLASSES}"
        return [
            self.job("run", network, known, method, job.seed, job.choice)
            for job in self.runs(network, data, method, way)
            if job.seed in design.SEEDS
        ]

    def members(self, job: Job) -> list[Job]:
        """Return the runs that a job is made of, which is not trained itself."""
        of = design.METHODS[job.method].members_of
        if of is None:
            return []
        way = design.METHODS[of].ways[0]
        by_seed = {run.seed: run for run in self.runs(job.network, job.data, of, way)}
        seeds = design.METHODS[job.method].members(job.seed)
        return [by_seed[seed] for seed in seeds if seed in by_seed]

    def __iter__(self) -> Iterator[Job]:
        seen = set()
        for job in self._all():
            if job.name not in seen:
                seen.add(job.name)
                yield job

    def _all(self) -> Iterator[Job]:
        priorities = sorted({what.priority for what in design.METHODS.values()})
        order = itertools.product(design.EPOCHS, priorities, design.SETTINGS, design.METHODS)
        for network, priority, (where, data), method in order:
            what = design.METHODS[method]
            if where == network and what.priority == priority:
                yield from self.trials(network, data, method)
                for way in what.ways:
                    yield from self.runs(network, data, method, way)
        for (network, data), method in itertools.product(design.SETTINGS, design.METHODS):
            for way in design.METHODS[method].ways:
                yield from self.held_out(network, data, method, way)

    def pending(self) -> Iterator[Job]:
        """Return what can be done now: not finished, and all that it is made of is."""
        for job in self:
            if job.result(self.results) is not None:
                continue
            of = design.METHODS[job.method].members_of
            made_of = self.members(job)
            wanted = 0 if of is None else len(design.METHODS[job.method].members(job.seed))
            if len(made_of) == wanted and all(part.result(self.results) for part in made_of):
                yield job
