r"""The MNIST recipes beside the published rows: choose on validation, then test once.

    python benchmarks/mnist.py choose --suite lenet-500-300 \
        --out benchmarks/results/lenet-500-300-choice.json
    python benchmarks/mnist.py test --suite lenet-500-300 \
        --out benchmarks/results/lenet-500-300.json

and the same with ``lenet5-caffe``. ``choose`` trains candidates on 50,000 training images and
looks only at the rest. ``test`` trains the recipes of the suite as they are registered on all
60,000, then touches the test set once for each recipe and seed; plain and nn.Dropout baselines
have as many epochs. A recipe that continues another (DBB after BB) starts from that one's run, or
trains those stages itself where there is none.
``--recipes``, ``--candidates`` and ``--seeds`` run only some. The file keeps its other rows, and
the runs of other seeds of a recipe that has not changed.
Runs are resumable (``--work``) and take one thread each. Needs MNIST and Fashion-MNIST in
``--data-dir`` or ``BAYESDROP_DATA`` (torchvision downloads them otherwise).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import dataclasses
import shlex
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from result_files import added, write

import bayesdrop as bd
from bayesdrop.data import load_data, load_ood
from bayesdrop.files import read_json
from bayesdrop.recipes import get as get_recipe
from bayesdrop.recipes import run_recipe
from bayesdrop.recipes.recipe import Recipe
from bayesdrop.reporting import build_report

SUITES = {
    "lenet-500-300": [
        "lenet-500-300",
        "lenet-500-300-dropout",
        "lenet-500-300-bb",
        "lenet-500-300-dbb",
        "lenet-500-300-ibp-5",
        "lenet-500-300-ibp-20",
        "lenet-500-300-ibp-50",
        "lenet-500-300-hibp",
        "lenet-500-300-sbp",
        "lenet-500-300-sbp-published",
        "lenet-500-300-ssl",
        "lenet-500-300-generalized",
        "lenet-500-300-generalized-uniform",
        "lenet-500-300-standout",
        "lenet-500-300-contextual",
    ],
    "lenet-300-100": [
        "lenet-300-100-sparse-vd",
        "lenet-300-100-sparse-vd-published",
        "lenet-300-100-l0-published",
    ],
    "lenet5-caffe": [
        "lenet5-caffe",
        "lenet5-caffe-dropout",
        "lenet5-caffe-bb",
        "lenet5-caffe-bb-scaled",
        "lenet5-caffe-dbb",
        "lenet5-caffe-dbb-flat",
        "lenet5-caffe-sparse-vd",
        "lenet5-caffe-sparse-vd-published",
        "lenet5-caffe-sbp",
        "lenet5-caffe-sbp-published",
        "lenet5-caffe-l0",
        "lenet5-caffe-l0-published",
        "lenet5-caffe-generalized",
        "lenet5-caffe-generalized-uniform",
        "lenet5-caffe-standout",
        "lenet5-caffe-contextual",
    ],
}
PUBLISHED = {
    "lenet-500-300-bb": {"error": 1.36, "units": [264, 140, 65], "flops_speedup": 11.8},
    "lenet-500-300-dbb": {"error": 1.41, "units": [100, 36, 34], "flops_speedup": 112.4},
    "lenet5-caffe-bb": {"error": 0.55, "units": [15, 33, 138, 64], "flops_speedup": 2.0},
    "lenet5-caffe-dbb": {"error": 0.59, "units": [13, 31, 53, 34], "flops_speedup": 2.5},
    "lenet-500-300-sbp": {"error": 1.55, "units": [245, 160, 55], "flops_speedup": 11.23},
    "lenet-500-300-ssl": {"error": 1.49, "units": [434, 174, 78]},
    "lenet-300-100-sparse-vd": {"error": 1.92, "compression": 68},
    "lenet5-caffe-sparse-vd": {"error": 0.75, "compression": 280},
    "lenet5-caffe-sbp": {"error": 0.86, "units": [3, 18, 284, 283], "flops_speedup": 10.49},
    "lenet5-caffe-l0": {"error": 0.9, "units": [20, 25, 45, 462]},
    "lenet5-caffe-generalized": {"error": 1.1, "units": [7, 13, 208, 16]},
    "lenet-300-100-l0": {"error": 1.4, "units": [219, 214, 100]},
}
"""Lee et al. (2018), medians of five runs; DBB's units and FLOPs are averages over inputs.
Neklyudov et al. (2017) for SBP, Molchanov et al. (2017) for sparse variational dropout (weights
per weight that is not zero), Louizos et al. (2018) for L0, whose error on LeNet-300-100 is from
memory. The group lasso's row is what Neklyudov et al. quote of Wen et al. (2016),
generalized dropout's what Louizos et al. (2017) quote of Srinivas and Babu (2016)."""


def published_row(recipe: str) -> dict | None:
    """Return the published figures that a recipe stands beside."""
    return PUBLISHED.get(recipe.removesuffix("-published").removesuffix("-flat"))


CONTINUES = {
    "lenet-500-300-dbb": "lenet-500-300-bb",
    "lenet5-caffe-dbb": "lenet5-caffe-bb",
    "lenet5-caffe-dbb-flat": "lenet5-caffe-bb",
}
"""Recipe to the one whose stages are its first."""

# On 50,000 images the rate falls after as many steps as on 60,000, and the KL scales are smaller
# by a sixth, so that the KL counts as much against an example.
_LONG = {"epochs": 105, "milestones": (0.81, 0.93)}
_SCALES = {"fc1": {"kl_scale": 1.3}, "fc2": {"kl_scale": 1.15}, "fc3": {"kl_scale": 1.4}}
_PLAIN = {"network_options": {}, "overrides": _SCALES, "last": _LONG}
_PAPER_INIT = 0.31326168751822286

_LENET5_SCALES = {"conv1": 7.5, "conv2": 3.75, "fc1": 2.1, "fc2": 3.3}
_LENET5_BB: dict = {
    "overrides": {name: {"kl_scale": scale} for name, scale in _LENET5_SCALES.items()},
    "first": {"epochs": 12},
    "second": {"epochs": 26},
}


def _lenet5_dbb(conv: dict | None = None, *, flat: bool = False, **options: float) -> dict:
    gates: dict = {
        "init_shift": 4.0,
        "init_slope": 10.0,
        "init_shift_scale": 0.1,
        "kl_scale": 0.05,
        "gate_mean": "naive",
    }
    gates |= options
    if conv is not None:
        gates["overrides"] = {"conv*": conv} | ({"fc2*": {"init_slope": 5.0}} if flat else {})
    last = {"epochs": 40, "learning_rate": 1e-3} if flat else {"epochs": 10}
    return {**_LENET5_BB, "dependent_options": gates, "last": last}


def _costs(by_layer: str) -> dict:
    names = ("fc1", "fc2", "fc3")
    costs = map(float, by_layer.split("-"))
    return {name: {"cost_per_norm": cost} for name, cost in zip(names, costs, strict=True)}


def _looking_and_generalized(network: str) -> dict[str, tuple[str, dict]]:
    """Return candidates for generalized, StandOut and contextual dropout."""
    found: dict[str, tuple[str, dict]] = {}
    for start in (0.5, 0.7, 0.9):
        changes = {"dropout_options": {"init_keep_prob": start}}
        found[f"generalized from {start}"] = (f"{network}-generalized", changes)
    for scale in (2.0, 5.0):
        changes = {"dropout_options": {"kl_scale": scale}}
        found[f"generalized, KL x {scale:g}"] = (f"{network}-generalized", changes)
    for scale, shift in ((1.0, 0.0), (0.5, 1.0), (2.0, 0.0)):
        changes = {"dropout_options": {"scale": scale, "shift": shift}}
        found[f"StandOut, {scale:g} a + {shift:g}"] = (f"{network}-standout", changes)
    for learned in (True, False):
        changes = {"dropout_options": {"learn_prior": learned}}
        words = "learned prior" if learned else "prior of 0.9"
        found[f"contextual, {words}"] = (f"{network}-contextual", changes)
    return found


# Variances of weights ten times as fast as their means.
_FAST = {"variational_learning_rate": 1e-2}

CANDIDATES: dict[str, dict[str, tuple[str, dict]]] = {
    "lenet-500-300": {
        "open init": ("lenet-500-300-bb", _PLAIN),
        "open init, weights 5e-4": (
            "lenet-500-300-bb",
            {**_PLAIN, "last": {**_LONG, "learning_rate": 5e-4}},
        ),
        "paper's init": (
            "lenet-500-300-bb",
            {**_PLAIN, "dropout_options": {"init_concentration1": _PAPER_INIT}},
        ),
        "weight decay 3e-4": (
            "lenet-500-300-bb",
            {**_PLAIN, "last": {**_LONG, "weight_decay": 3e-4}},
        ),
        "after nn.Dropout": ("lenet-500-300-bb", {"overrides": _SCALES, "last": _LONG}),
        "after 40 epochs of nn.Dropout": (
            "lenet-500-300-bb",
            {
                "overrides": _SCALES,
                "first": {"epochs": 40},
                "last": {"epochs": 101, "milestones": (0.84, 0.93)},
            },
        ),
        "after 60 epochs of nn.Dropout": (
            "lenet-500-300-bb",
            {"overrides": _SCALES, "first": {"epochs": 60}, "last": _LONG},
        ),
        "H-IBP": ("lenet-500-300-hibp", {"dropout_options": {"layer_concentration": 4.0}}),
        "H-IBP, layer concentration 0.5": (
            "lenet-500-300-hibp",
            {"dropout_options": {"layer_concentration": 0.5}},
        ),
        "SBP": ("lenet-500-300-sbp", {}),
        **{
            f"group lasso, {costs}": ("lenet-500-300-ssl", {"overrides": _costs(costs)})
            for costs in ("10-10-10", "30-30-30", "10-20-40", "15-40-80")
        },
        **_looking_and_generalized("lenet-500-300"),
        "SBP, KL scaled": (
            "lenet-500-300-sbp",
            {"overrides": {"fc1": {"kl_scale": 1.5}, "fc3": {"kl_scale": 2.0}}},
        ),
        "SBP, no weight decay": ("lenet-500-300-sbp", {"last": {"weight_decay": 0.0}}),
        "SBP, no weight decay, noise by example": (
            "lenet-500-300-sbp",
            {"last": {"weight_decay": 0.0}, "dropout_options": {"shared_by": "example"}},
        ),
    },
    "lenet5-caffe": {
        "BB": ("lenet5-caffe-bb", _LENET5_BB),
        "DBB": ("lenet5-caffe-dbb", _lenet5_dbb()),
        "DBB conv slope 1": ("lenet5-caffe-dbb", _lenet5_dbb({"init_slope": 1.0})),
        "DBB conv slope 3": ("lenet5-caffe-dbb", _lenet5_dbb({"init_slope": 3.0})),
        "DBB conv slope 5": ("lenet5-caffe-dbb", _lenet5_dbb({"init_slope": 5.0})),
        **{
            f"DBB flat, conv slope {slope:g}": (
                "lenet5-caffe-dbb-flat",
                _lenet5_dbb({"init_slope": slope}, flat=True),
            )
            for slope in (1.0, 2.0)
        },
        "sparse VD": ("lenet5-caffe-sparse-vd", {}),
        "sparse VD, KL x 4": ("lenet5-caffe-sparse-vd", {"dropout_options": {"kl_scale": 4.0}}),
        "SBP": ("lenet5-caffe-sbp", {}),
        **_looking_and_generalized("lenet5-caffe"),
        **{
            f"generalized, KL x {'-'.join(f'{factor:g}' for factor in factors)}": (
                "lenet5-caffe-generalized",
                {
                    "overrides": {
                        name: {"kl_scale": factor}
                        for name, factor in zip(_LENET5_SCALES, factors, strict=True)
                    }
                },
            )
            for factors in ((9.0, 4.5, 2.5, 4.0), (40.0, 20.0, 5.0, 20.0))
        },
        "L0": ("lenet5-caffe-l0", {}),
        "L0, 40 epochs": ("lenet5-caffe-l0", {"last": {"epochs": 40}}),
        "L0 from scratch, 60 epochs": (
            "lenet5-caffe-l0-published",
            {"last": {"epochs": 60, "variational_learning_rate": 1e-2}},
        ),
    },
    "lenet-300-100": {
        "sparse VD": (
            "lenet-300-100-sparse-vd",
            {"first": {"epochs": 60, "milestones": (0.75, 0.92), **_FAST}},
        ),
        "sparse VD, linear decay": (
            "lenet-300-100-sparse-vd",
            {"first": {"epochs": 60, "decay_since": 0.0, **_FAST}},
        ),
        "sparse VD, 150 epochs": (
            "lenet-300-100-sparse-vd",
            {"first": _FAST},
        ),
        "sparse VD, 150 epochs, KL x 1.5": (
            "lenet-300-100-sparse-vd",
            {"first": _FAST, "dropout_options": {"kl_scale": 1.5}},
        ),
        **{
            f"sparse VD, 150 epochs, variances at {rate:g}": (
                "lenet-300-100-sparse-vd",
                {"first": {"variational_learning_rate": rate}},
            )
            for rate in (1e-3, 3e-3)
        },
        "sparse VD, published rule, 60 epochs": (
            "lenet-300-100-sparse-vd-published",
            {"first": {"epochs": 60}},
        ),
        "L0 from scratch, 60 epochs": (
            "lenet-300-100-l0-published",
            {"first": {"epochs": 60, "variational_learning_rate": 1e-2}},
        ),
    },
}
"""Suite to candidates: a recipe, and what is changed in it.

A candidate for DBB starts from the validation run of BB, if that is there.
"""


def changed(recipe: Recipe, settings: dict) -> Recipe:
    """Return the recipe with fields of its stages and its options changed."""
    options = {**recipe.dropout_options, **settings.get("dropout_options", {})}
    if "overrides" in settings:
        options["overrides"] = settings["overrides"]
    stages = list(recipe.stages)
    for index, key in ((0, "first"), (1, "second"), (-1, "last")):
        if key in settings:
            stages[index] = dataclasses.replace(stages[index], **settings[key])
    return dataclasses.replace(
        recipe,
        stages=tuple(stages),
        network_options=settings.get("network_options", recipe.network_options),
        dropout_options=options,
        dependent_options=settings.get("dependent_options", recipe.dependent_options),
    )


def choose_one(name: str, seed: int, args: argparse.Namespace) -> dict:
    """Train a candidate on 50,000 images and evaluate it on the other 10,000."""
    torch.set_num_threads(1)
    base, settings = CANDIDATES[args.suite][name]
    recipe = changed(get_recipe(base), settings)
    first = choice_folder("BB", seed, args) if name.startswith("DBB") else None
    run = run_recipe(
        recipe,
        out=choice_folder(name, seed, args),
        data_dir=args.data_dir,
        validation=10_000,
        seed=seed,
        start=if_finished(first),
        progress=False,
    )
    held_out = run.load_data(args.data_dir).validation
    if held_out is None:
        raise ValueError("the run has no validation split")
    report = build_report(
        run.bnn, run.plain, held_out, description=describe(run, "validation"), seed=run.seed
    )
    values = report.to_dict()
    keys = ("error", "nll", "ece", "units", "weights", "weights_total", "flops_speedup")
    keys += ("per_input", "minutes")
    return {"candidate": name, "recipe": base, "seed": seed, "changes": settings} | {
        key: values[key] for key in keys
    }


def if_finished(run: Path | None) -> Path | None:
    return run if run is not None and (run / "model.pt").exists() else None


def choice_folder(name: str, seed: int, args: argparse.Namespace) -> Path:
    return args.work / "choose" / f"{args.suite}-{name.replace(' ', '-')}-{seed}"


def test_one(recipe: str, seed: int, args: argparse.Namespace) -> dict:
    """Train a registered recipe on the whole training set and test it once."""
    torch.set_num_threads(1)
    started = time.time()
    first = args.work / "test" / f"{CONTINUES[recipe]}-{seed}" if recipe in CONTINUES else None
    run = run_recipe(
        recipe,
        out=args.work / "test" / f"{recipe}-{seed}",
        data_dir=args.data_dir,
        validation=0,
        seed=seed,
        start=if_finished(first),
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
        seed=run.seed,
    )
    return {**report.to_dict(), "wall_minutes": (time.time() - started) / 60}


def describe(run, split: str) -> dict:
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
    middle = statistics.median
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
    if first.get("weights"):  # which results of earlier versions have not
        result["compression"] = middle(
            [sum(run["weights_total"]) / max(1, sum(run["weights"])) for run in runs]
        )
    if first["per_input"]:
        costs = [run["per_input"] for run in runs]
        for key in ("speedup", "speedup_needed"):
            result[key] = middle([cost[key] for cost in costs])
        result["average_units"] = [
            middle([cost["units"][layer] for cost in costs]) for layer in costs[0]["units"]
        ]
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
    parser.add_argument("--suite", choices=list(SUITES), default="lenet-500-300")
    parser.add_argument("--recipes", nargs="*", help="only these [default: the suite's]")
    parser.add_argument("--candidates", nargs="*", help="only these [default: the suite's]")
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
                for name in args.candidates or CANDIDATES[args.suite]
            ]
            runs = [{**head, **task.result()} for task in tasks]
            earlier = read_json(args.out)["runs"] if args.out.exists() else []
            result = {"runs": added(earlier, runs, ("candidate", "seed"))}
        else:
            recipes = args.recipes or SUITES[args.suite]
            result = read_json(args.out) if args.out.exists() else {"recipes": {}}
            # What continues another run waits for it.
            waves = [[r for r in recipes if (r in CONTINUES) == later] for later in (False, True)]
            for wave in waves:
                tasks = {
                    (recipe, seed): pool.submit(test_one, recipe, seed, args)
                    for seed in args.seeds
                    for recipe in wave
                }
                for recipe in wave:
                    new = [
                        {**tasks[recipe, seed].result(), "command": head["command"]}
                        for seed in args.seeds
                    ]
                    settings = get_recipe(recipe).to_dict()
                    runs = merged(result["recipes"].get(recipe), settings, new)
                    result["recipes"][recipe] = {
                        **head,
                        "seeds": [run["seed"] for run in runs],
                        "published": published_row(recipe),
                        "settings": settings,
                        "median": median_of(runs),
                        "runs": runs,
                    }
                    write(result, args.out)
            return
    write(result, args.out)


def merged(earlier: dict | None, settings: dict, new: list[dict]) -> list[dict]:
    """Return the new runs and, if the recipe trains the same, earlier ones of other seeds."""
    runs = {}
    if earlier is not None and trained(earlier["settings"]) == trained(settings):
        for run in earlier["runs"]:
            runs[run["seed"]] = {"command": earlier["command"], **run}
    runs |= {run["seed"]: run for run in new}
    return [runs[seed] for seed in sorted(runs)]


def trained(settings: dict) -> Recipe:
    """Return the recipe of ``to_dict``, by any version, without what it is only called."""
    return dataclasses.replace(Recipe.from_dict(settings), name="", summary="")


if __name__ == "__main__":
    main()
