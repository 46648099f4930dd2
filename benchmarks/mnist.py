"""Beta-Bernoulli dropout on MNIST beside the published row: choose on validation, then test once.

    python benchmarks/mnist.py choose --out benchmarks/results/lenet-500-300-choice.json
    python benchmarks/mnist.py test --seeds 0 1 2 --out benchmarks/results/lenet-500-300-bb.json

``choose`` trains the candidates below on 50,000 training images and looks only at the rest.
``test`` trains the recipe as it is registered on all 60,000, then touches the test set once for
each seed; the plain and nn.Dropout baselines have the same number of epochs. Runs are resumable
(``--work``) and take one thread each. Needs MNIST and Fashion-MNIST in ``--data-dir`` or
``BAYESDROP_DATA`` (torchvision downloads them otherwise).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import dataclasses
import json
import shlex
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

import bayesdrop as bd
from bayesdrop.data import load_data, load_ood
from bayesdrop.recipes import get_recipe, run_recipe
from bayesdrop.recipes.recipe import Recipe
from bayesdrop.reporting.report import build_report

PUBLISHED = {"error": 1.36, "units": [264, 140, 65], "flops_speedup": 11.8}

_PAPER_INIT = {"init_concentration1": 0.31326168751822286}
_SPARSER = {
    "overrides": {"fc1": {"kl_scale": 1.3}, "fc2": {"kl_scale": 1.15}, "fc3": {"kl_scale": 1.4}}
}
_LONG = {"epochs": 105, "milestones": (0.81, 0.93)}

CANDIDATES: dict[str, dict] = {
    "open init": {**_LONG, "dropout_options": _SPARSER},
    "open init, weights 5e-4": {**_LONG, "learning_rate": 5e-4, "dropout_options": _SPARSER},
    "paper's init": {**_LONG, "dropout_options": {**_PAPER_INIT, **_SPARSER}},
}
"""Changes to the last stage of the recipe, and to its dropout options."""


def candidate(recipe: Recipe, changes: dict) -> Recipe:
    """Return the recipe with the fields of its last stage and its dropout options changed."""
    changes = dict(changes)
    options = {**recipe.dropout_options, **changes.pop("dropout_options", {})}
    last = dataclasses.replace(recipe.stages[-1], **changes)
    return dataclasses.replace(recipe, stages=(*recipe.stages[:-1], last), dropout_options=options)


def choose_one(name: str, seed: int, args: argparse.Namespace) -> dict:
    """Train a candidate on 50,000 images and evaluate it on the other 10,000."""
    torch.set_num_threads(1)
    recipe = candidate(get_recipe(args.recipe), CANDIDATES[name])
    folder = args.work / "choose" / f"{args.recipe}-{name.replace(' ', '-')}-{seed}"
    run = run_recipe(
        recipe, out=folder, data_dir=args.data_dir, validation=10_000, seed=seed, progress=False
    )
    held_out = run.load_data(args.data_dir).validation
    if held_out is None:
        raise ValueError("the run has no validation split")
    report = build_report(run.bnn, run.plain, held_out, description=describe(run, "validation"))
    keys = ("error", "nll", "ece", "units", "flops_speedup", "minutes")
    return {"candidate": name, "seed": seed, "changes": CANDIDATES[name]} | {
        key: report.values[key] for key in keys
    }


def test_one(recipe: str, seed: int, args: argparse.Namespace) -> dict:
    """Train a registered recipe on the whole training set and test it once."""
    torch.set_num_threads(1)
    started = time.time()
    run = run_recipe(
        recipe,
        out=args.work / "test" / f"{recipe}-{seed}",
        data_dir=args.data_dir,
        validation=0,
        seed=seed,
        progress=False,
    )
    splits = run.load_data(args.data_dir)
    ood = {
        "fashion-mnist": load_ood("fashion-mnist", run.data, data_dir=args.data_dir),
    }
    report = build_report(
        run.bnn,
        run.plain,
        splits.test,
        description=describe(run, "test"),
        ood=ood,
        num_samples=args.num_samples,
    )
    return {**report.values, "wall_minutes": (time.time() - started) / 60}


def describe(run, split: str) -> dict:  # noqa: ANN001 - bayesdrop.recipes.run.Run
    return {
        "recipe": run.recipe.name,
        "data": run.data,
        "data_title": "MNIST",
        "split": split,
        "seed": run.seed,
        "minutes": run.minutes,
    }


def median_of(runs: list[dict]) -> dict:
    """Return the medians over seeds of the figures that the published row has, and more."""

    def middle(values: list[float]) -> float:
        return statistics.median(values)

    first = runs[0]
    result: dict = {
        key: {method: middle([run[key][method] for run in runs]) for method in first[key]}
        for key in ("error", "nll", "brier", "ece")
    }
    result["minutes"] = middle([run["minutes"] for run in runs])
    if first["units"]:
        layers = zip(*(run["units"] for run in runs), strict=True)
        result["units"] = [middle(list(units)) for units in layers]
        result["flops_speedup"] = middle([run["flops_speedup"] for run in runs])
        result["params"] = middle([run["params"] for run in runs])
    result["auroc"] = {
        method: middle(
            [r["ood_by_method"][method]["fashion-mnist"]["entropy"]["auroc"] for r in runs]
        )
        for method in first["ood_by_method"]
    }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=["choose", "test"])
    parser.add_argument("--recipe", default="lenet-500-300-bb")
    parser.add_argument(
        "--baselines", nargs="*", default=["lenet-500-300", "lenet-500-300-dropout"]
    )
    parser.add_argument("--candidates", nargs="*", default=list(CANDIDATES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--num-samples", type=int, default=64)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each")
    parser.add_argument("--data-dir")
    parser.add_argument("--work", type=Path, default=Path("runs/mnist"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    load_data("mnist", data_dir=args.data_dir)  # downloads once, before the processes start
    head = {"command": shlex.join(["python", *sys.argv]), "torch": torch.__version__}
    head |= {"bayesdrop": bd.__version__, "seeds": args.seeds}
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        if args.mode == "choose":
            tasks = [
                pool.submit(choose_one, name, seed, args)
                for seed in args.seeds
                for name in args.candidates
            ]
            result = {**head, "published": PUBLISHED, "runs": [task.result() for task in tasks]}
        else:
            tasks = {
                (recipe, seed): pool.submit(test_one, recipe, seed, args)
                for seed in args.seeds
                for recipe in (args.recipe, *args.baselines)
            }
            result = {**head, "published": PUBLISHED, "recipes": {}}
            for recipe in (args.recipe, *args.baselines):
                runs = [tasks[recipe, seed].result() for seed in args.seeds]
                result["recipes"][recipe] = {
                    "settings": get_recipe(recipe).to_dict(),
                    "median": median_of(runs),
                    "runs": runs,
                }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
