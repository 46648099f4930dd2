"""Carrying out one job of the study: training it, or stopping at an epoch, and measuring it.

``study.py`` calls it in the checkout of the job's commit. A run goes on where it was stopped; what
several methods begin with is trained once for each seed.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import dataclasses
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import study_design as design
import study_evidence as evidence
import study_outside as outside
import torch
from methods import KINDS, SHIFTED, predictors
from rows import kl_factor
from study_jobs import Job, Plan, digest
from torch import Tensor, nn

import bayesdrop as bd
from bayesdrop.data import load_data, load_ood
from bayesdrop.errors import ConfigError
from bayesdrop.files import read_json, write_json
from bayesdrop.metrics.ood import ood_metrics
from bayesdrop.metrics.streaming import ClassificationMetrics
from bayesdrop.recipes import load_run, run_recipe
from bayesdrop.recipes.recipe import Recipe
from bayesdrop.recipes.run import Run
from bayesdrop.reporting.costs import compact_figures

NUM_SAMPLES = 32
SEVERITIES = range(1, 6)
OUT_OF_TIME = 75
"""Exit status of a job that stopped at an epoch."""

Predict = Callable[[Tensor], Tensor]


class OutOfTime(Exception):
    """The hours given are over."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a job works.

    Args:
        work: Folder of unfinished and finished runs.
        data_dir: Folder of the data files.
        deadline: ``time.time()`` after which it stops at the next epoch.
    """

    work: Path
    data_dir: str | None
    deadline: float = float("inf")

    def run(self, job: Job) -> Path:
        """Return the folder of a job's training."""
        return self.work / "runs" / job.name

    def count_cpu(self) -> Callable[[Any, dict[str, Any]], None]:
        """Return a callback that notes each epoch's processor time, and stops in time."""
        before = time.process_time()

        def note(_: Any, record: dict[str, Any]) -> None:
            nonlocal before
            now = time.process_time()
            record["cpu_seconds"] = now - before
            before = now
            if time.time() > self.deadline:
                raise OutOfTime

        return note


def recipe_of(job: Job) -> Recipe:
    """Return the recipe of a job."""
    epochs = design.TRIAL_EPOCHS if job.kind == "trial" else design.EPOCHS
    return design.recipe_of(job.method, job.network, job.choice, epochs[job.network])


def train(job: Job, place: Place) -> Run:
    """Train a job, or finish it; what several methods begin with is trained once."""
    recipe = recipe_of(job)
    validation = design.VALIDATION if job.kind == "trial" else 0
    common: dict[str, Any] = {
        "data": job.data,
        "data_dir": place.data_dir,
        "validation": validation,
        "seed": job.seed,
        "progress": False,
        "callbacks": (place.count_cpu(),),
    }
    start = None
    if not recipe.stages[0].dropout and len(recipe.stages) > 1:
        first = dataclasses.replace(
            recipe,
            name="pretraining",
            summary="",
            stages=recipe.stages[:1],
            dropout=None,
            dropout_options={},
            dependent_options={},
        )
        key = {"recipe": first.to_dict(), "data": job.data, "validation": validation}
        key |= {"seed": job.seed, "commit": job.commit, "versions": job.versions}
        start = place.work / "stages" / digest(key)
        _train_once(first, start, common)
    return run_recipe(recipe, out=place.run(job), start=start, **common)


def _train_once(recipe: Recipe, out: Path, options: dict[str, Any]) -> None:
    while not (out / "model.pt").exists():
        try:
            run_recipe(recipe, out=out, **options)
        except ConfigError as error:  # another worker trains it
            if "no other process" not in str(error):
                raise
            time.sleep(5)


def inputs(job: Job, place: Place) -> dict[str, Tensor]:
    """Return the images that a run is measured on; of a trial, the held-out ones."""
    options: dict[str, Any] = {"data_dir": place.data_dir}
    if job.kind == "trial":
        splits = load_data(job.data, validation=design.VALIDATION, **options)
        return {"test": splits.validation[0]}
    test = load_data(job.data, validation=0, **options).test[0]
    if ":" in job.data:
        return {
            "test": test,
            "classes 8-9": load_ood(f"{whole(job.data)}:8-9", job.data, **options),
        }
    found = {"test": test}
    found[design.OTHER[job.data]] = load_ood(design.OTHER[job.data], job.data, **options)
    if job.data == "fashion-mnist":  # for MNIST they are more of the same
        digits = load_data("digits").test[0]
        found["digits"] = nn.functional.interpolate(digits, size=test.shape[-2:], mode="bilinear")
    for kind in KINDS:
        for severity in SEVERITIES:
            found[f"{kind} {severity}"] = bd.metrics.corrupt(test[:SHIFTED], kind, severity)
    return found


def whole(data: str) -> str:
    """Return the data set of ``mnist:0-7``."""
    return data.split(":")[0]


def labels_of(job: Job, place: Place) -> Tensor:
    """Return the classes of ``inputs(...)["test"]``."""
    held_out = job.kind == "trial"
    validation = design.VALIDATION if held_out else 0
    splits = load_data(job.data, data_dir=place.data_dir, validation=validation)
    return splits.validation[1] if held_out else splits.test[1]


def figures(probabilities: dict[str, Tensor], labels: Tensor, *, brief: bool) -> dict[str, Any]:
    """Return the figures of a way of predicting.

    Args:
        probabilities: Of each of ``inputs``.
        labels: Of ``"test"``.
        brief: Without the interval of the ECE, as for a trial.
    """
    test = _normalised(probabilities["test"])
    found = _classified(test, labels)
    if not brief:
        resampled = bd.metrics.bootstrap_metrics({"it": test}, labels, num_resamples=300)
        interval = resampled.interval("it", "ece")
        found["ece_interval"] = [interval.lower, interval.upper]
    entropy = torch.special.entr(test).sum(1)
    shift: dict[str, list[float]] = {}
    clean = _classified(test[:SHIFTED], labels[:SHIFTED])
    for name, values in probabilities.items():
        values = _normalised(values)
        kind, _, severity = name.rpartition(" ")
        if kind in KINDS:
            row = _classified(values, labels[:SHIFTED])
            for measure in ("error", "nll", "ece"):
                sums = shift.setdefault(measure, [0.0] * len(SEVERITIES))
                sums[int(severity) - 1] += row[measure] / len(KINDS)
        elif name != "test":
            other = torch.special.entr(values).sum(1)
            found.setdefault("auroc", {})[name] = ood_metrics(entropy, other)["auroc"]
    if shift:
        found["shift"] = {name: [clean[name], *sums] for name, sums in shift.items()}
    return found


def _normalised(values: Tensor) -> Tensor:
    values = values.double()
    return values / values.sum(1, keepdim=True)


def _classified(values: Tensor, labels: Tensor) -> dict[str, Any]:
    metrics = ClassificationMetrics()
    metrics.update(values, labels)
    whole = metrics.compute()
    return {name: getattr(whole, name) for name in ("error", "nll", "brier", "ece", "aurc")}


def time_spent(run: Run) -> dict[str, float]:
    """Return how long all stages of a run took."""
    records = [record for stage in run.history.values() for record in stage]
    return {
        "cpu_seconds": sum(record["cpu_seconds"] for record in records),
        "wall_seconds": sum(record["seconds"] for record in records),
    }


def costs(run: Run, example: Tensor) -> dict[str, Any]:
    """Return what a trained network costs to keep."""
    size, small = compact_figures(run.bnn, example)
    found: dict[str, Any] = {
        "units": run.bnn.units(),
        "weights": run.bnn.kept().get("weights", []),
    }
    for name in ("params", "bytes", "flops"):
        found[f"{name}_total"] = getattr(size, f"{name}_total")
        found[name] = found[f"{name}_total"] if small is None else getattr(size, name)
    if size.sparsity is not None:  # weights are stored without their zeros
        found["bytes"] = size.sparsity.file_bytes
    if small is not None and run.bnn.is_random:
        table = bd.compression.compare_latency(
            run.bnn, small, example, batch_sizes=(1, 100), ways=("eager",), repeats=20
        )
        found["speedup"] = {str(batch): table.speedup(batch) for batch in (1, 100)}
    return found


def members_of(job: Job, plan: Plan, place: Place) -> list[Run]:
    """Return the trained runs that a job is made of."""
    return [load_run(place.run(part)) for part in plan.members(job)]


def mean_of(runs: list[Run]) -> Predict:
    """Return the mean of networks' probabilities."""
    each = [predictors(run, NUM_SAMPLES)["mean"] for run in runs]
    return lambda x: torch.stack([predict(x) for predict in each]).mean(0)


def derived(job: Job, plan: Plan, place: Place) -> tuple[dict[str, Predict], dict[str, Any]]:
    """Return the predictions of what is made of other runs, and its costs."""
    runs, parts = members_of(job, plan, place), plan.members(job)
    spent = [part.result(plan.results) or {} for part in parts]
    found: dict[str, Any] = {"members": [part.name for part in parts]}
    for name in ("cpu_seconds", "wall_seconds", "params", "bytes", "flops"):
        found[name] = sum(part["costs"][name] for part in spent)
    if job.method != "laplace":
        return {"mean": mean_of(runs)}, found
    before = time.process_time()
    data = load_data(job.data, data_dir=place.data_dir, validation=0).train
    predict = outside.laplace(runs[0].bnn.network, data)
    found["cpu_seconds"] += time.process_time() - before
    return {"mean": predict}, found


def carry_out(job: Job, plan: Plan, place: Place) -> dict[str, Any]:
    """Do a job and write its result.

    Raises:
        OutOfTime: If it stopped at an epoch.
    """
    torch.set_num_threads(1)
    trial = job.kind == "trial"
    images, labels = inputs(job, place), labels_of(job, place)
    recipe: dict[str, Any] | None = None
    if design.METHODS[job.method].members_of is None:
        run = train(job, place)
        recipe = run.recipe.to_dict()
        run.bnn.to(memory_format=torch.channels_last)  # faster convolutions
        ways: dict[str, Predict] = dict(predictors(run, NUM_SAMPLES))
        if job.method == "masksembles":
            ways = {"mean": outside.masksembles(run.bnn.network)}
        spent: dict[str, Any] = dict(time_spent(run))
        if not trial:
            spent |= costs(run, images["test"][:1000])
    else:
        ways, spent = derived(job, plan, place)
    kept, found = {}, {}
    with torch.no_grad():
        for way in design.METHODS[job.method].ways:
            probabilities = {name: ways[way](x).float() for name, x in images.items()}
            found[way] = figures(probabilities, labels, brief=trial)
            test = _normalised(probabilities["test"])
            kept[way] = evidence.Evidence.of(test.numpy(), labels.numpy())
    result = {
        "job": asdict(job),
        "recipe": recipe,
        "kl": "none" if recipe is None else kl_factor({**recipe, "data": whole(job.data)}),
        "ways": found,
        "costs": spent,
        "machine": machine(),
        "command": f"python benchmarks/study.py work --only {job.name}",
    }
    path = plan.results / f"{job.name}.json"
    if not trial:
        evidence.save(path.with_suffix(".npz"), kept)
    write_json(path, result)  # the last: it is the sign that the job is finished
    if trial:
        shutil.rmtree(place.run(job))
    return result


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "bayesdrop": bd.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", type=Path, help="file of a job's fields")
    parser.add_argument("--pins", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--data-dir")
    parser.add_argument("--deadline", type=float, default=float("inf"))
    args = parser.parse_args()
    job = Job(**read_json(args.job))
    plan = Plan(read_json(args.pins), args.results)
    try:
        carry_out(job, plan, Place(args.work, args.data_dir, args.deadline))
    except OutOfTime:
        sys.exit(OUT_OF_TIME)


if __name__ == "__main__":
    main()
