r"""Every method beside the same baselines: one budget of epochs, the same seeds and test images.

    python benchmarks/methods.py --network lenet-500-300 --data mnist \
        --out benchmarks/results/methods-lenet-500-300-mnist.json

and the same with ``lenet5-caffe`` and ``fashion-mnist``. Each method is its recipe with the epochs
of ``BUDGETS``, far fewer than the published protocols have: this compares methods, it does not
reproduce papers (``benchmarks/mnist.py`` does). The KL scales of the recipes were chosen for other
schedules and for MNIST; nothing was chosen for this table. No method sees the test set before the
end, and the test set decides nothing.

A deep ensemble averages the probabilities of five plain networks with other initial weights; its
members' seeds are the ensemble's, plus 3, 6, 9 and 12. "nn.Dropout, sampled" is MC dropout: the
same network with its dropout left on. Out-of-distribution scores are predictive entropies; the
other data set is the out-of-distribution one. Shift: the first 1,000 test images under five
corruptions at five severities.

Runs are resumable (``--work``) and take one thread each; ``--methods`` runs only some, and the
file keeps its other rows. Needs MNIST and Fashion-MNIST in ``BAYESDROP_DATA`` (torchvision
downloads them otherwise).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import dataclasses
import json
import shlex
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bayesdrop as bd
from bayesdrop.data import load_data, load_ood
from bayesdrop.diagnostics.shift import METRICS
from bayesdrop.files import read_json
from bayesdrop.metrics.ood import ood_metrics
from bayesdrop.metrics.streaming import ClassificationMetrics
from bayesdrop.recipes import get as get_recipe
from bayesdrop.recipes import run_recipe
from bayesdrop.recipes.recipe import Recipe
from bayesdrop.recipes.run import Run
from bayesdrop.reporting.costs import compact_figures

BUDGETS = {"lenet-500-300": (8, 22, 6), "lenet5-caffe": (2, 3, 2)}
"""Epochs of a recipe's first, second and third stage, changed by ``--epochs``. A recipe with one
stage has the first two's together."""

OTHER = {"mnist": "fashion-mnist", "fashion-mnist": "mnist"}
KINDS = ("rotation", "translation", "gaussian-noise", "gaussian-blur", "contrast")
SHIFTED = 1000
ENSEMBLE = 5

METHODS = [
    "plain",
    "dropout",
    "bb",
    "dbb",
    "ibp-20",
    "npn",
    "generalized",
    "standout",
    "contextual",
]
"""Suffixes of recipes' names; "plain" has none."""


def recipe_of(network: str, method: str, epochs: list[int]) -> Recipe:
    """Return the method's recipe with the budget of epochs."""
    recipe = get_recipe(network if method == "plain" else f"{network}-{method}")
    if len(recipe.stages) == 1:
        return recipe.override(epochs=sum(epochs[:2]))
    stages = [
        dataclasses.replace(stage, epochs=count)
        for stage, count in zip(recipe.stages, epochs, strict=False)
    ]
    return dataclasses.replace(recipe, stages=tuple(stages))


def inputs(data: str, args: argparse.Namespace) -> dict[str, Tensor]:
    """Return the test images, the out-of-distribution ones, and the corrupted ones."""
    test = load_data(data, data_dir=args.data_dir, validation=0).test[0]
    found = {"test": test, "ood": load_ood(OTHER[data], data, data_dir=args.data_dir)}
    for kind in KINDS:
        for severity in range(1, 6):
            found[f"{kind} {severity}"] = bd.metrics.corrupt(test[:SHIFTED], kind, severity)
    return found


def predictors(run: Run, num_samples: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the ways in which a run predicts: title to a function from images."""

    def mean(x: Tensor) -> Tensor:
        return bd.predict(run.bnn, x, sample=False, keep_samples=False).mean

    def sampled(x: Tensor) -> Tensor:
        return bd.predict(
            run.bnn, x, num_samples=num_samples, keep_samples=False, seed=run.seed
        ).mean

    @torch.no_grad()
    def dropout_on(x: Tensor) -> Tensor:
        network = run.bnn.network
        modules = [m for m in network.modules() if isinstance(m, nn.Dropout)]
        for module in modules:
            module.train()
        with torch.random.fork_rng():
            torch.manual_seed(run.seed)
            total = sum(network(x).softmax(1) for _ in range(num_samples))
        network.eval()
        return torch.as_tensor(total) / num_samples

    if run.bnn.is_random:
        return {"mean": mean, "sampled": sampled}
    if any(isinstance(m, nn.Dropout) and m.p > 0 for m in run.bnn.network.modules()):
        return {"mean": mean, "sampled": dropout_on}
    return {"mean": mean}


def run_one(method: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train a method with a seed and store its probabilities; return what it costs."""
    torch.set_num_threads(1)
    folder = args.work / f"{args.network}-{args.data}" / f"{method}-{seed}"
    costs = folder / "costs.json"
    if costs.exists():
        return read_json(costs)
    first = folder.with_name(f"bb-{seed}") if method == "dbb" else None
    run = run_recipe(
        recipe_of(args.network, method, args.epochs),
        out=folder,
        data=args.data,
        data_dir=args.data_dir,
        validation=0,
        seed=seed,
        start=first if first is not None and (first / "model.pt").exists() else None,
        progress=False,
    )
    run.bnn.to(memory_format=torch.channels_last)  # faster convolutions
    images = inputs(args.data, args)
    probabilities = {
        way: {name: predict(x).float() for name, x in images.items()}
        for way, predict in predictors(run, args.num_samples).items()
    }
    torch.save(probabilities, folder / "probabilities.pt")
    size, _ = compact_figures(run.bnn, images["test"][:1000])
    found = {"minutes": run.minutes, "units": run.bnn.units()}
    found |= {"weights": run.bnn.kept().get("weights", [])}
    found |= {"weights_total": run.bnn.total().get("weights", [])}
    found |= {key: getattr(size, key) for key in ("params", "bytes", "flops", "flops_speedup")}
    found |= {key: getattr(size, key) for key in ("params_total", "bytes_total", "flops_total")}
    if size.sparsity is not None:  # weights are stored without their zeros
        found["bytes"] = size.sparsity.file_bytes
    costs.write_text(json.dumps(found))
    return found


def figures(probabilities: dict[str, Tensor], labels: Tensor) -> dict[str, Any]:
    """Return the figures of one classifier from its probabilities."""
    values = {
        name: p.double() / p.double().sum(1, keepdim=True) for name, p in probabilities.items()
    }
    metrics = ClassificationMetrics()
    metrics.update(values["test"], labels)
    whole = metrics.compute()
    entropy = {name: torch.special.entr(values[name]).sum(1) for name in ("test", "ood")}
    found: dict[str, Any] = {
        name: getattr(whole, name) for name in ("error", "nll", "brier", "ece", "aurc")
    }
    found["auroc"] = ood_metrics(entropy["test"], entropy["ood"])["auroc"]
    clean = values["test"][:SHIFTED]
    found["shift"] = {name: [_shifted(clean, labels)[name]] for name in METRICS}
    for severity in range(1, 6):
        rows = [_shifted(values[f"{kind} {severity}"], labels) for kind in KINDS]
        for name in METRICS:
            found["shift"][name].append(sum(row[name] for row in rows) / len(rows))
    return found


def _shifted(values: Tensor, labels: Tensor) -> dict[str, float]:
    metrics = ClassificationMetrics()
    metrics.update(values, labels[:SHIFTED])
    whole = metrics.compute()
    return {
        "accuracy": 100.0 - whole.error,
        "nll": whole.nll,
        "ece": whole.ece,
        "entropy": float(torch.special.entr(values).sum(1).mean()),
    }


def gather(
    method: str, costs: dict[int, dict], labels: Tensor, args: argparse.Namespace
) -> dict[str, Any]:
    """Return a method's rows: way of predicting to one entry for each seed."""
    rows: dict[str, list[dict]] = {}
    stored = {}
    for seed in costs:
        folder = args.work / f"{args.network}-{args.data}" / f"{method}-{seed}"
        stored[seed] = torch.load(folder / "probabilities.pt", weights_only=True)
    for seed in args.seeds:
        for way, own in stored[seed].items():
            row = {"seed": seed, **costs[seed], **figures(own, labels)}
            rows.setdefault(way, []).append(row)
    if method == "plain":
        for seed in args.seeds:
            members = [seed + 3 * i for i in range(ENSEMBLE)]
            mean = {
                name: sum(stored[member]["mean"][name].double() for member in members) / ENSEMBLE
                for name in stored[seed]["mean"]
            }
            total = {
                key: sum(costs[member][key] for member in members)
                for key in ("minutes", "params", "bytes", "flops")
            }
            row = {"seed": seed, "members": members, **total, **figures(mean, labels)}
            rows.setdefault("ensemble", []).append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=list(BUDGETS), default="lenet-500-300")
    parser.add_argument("--data", choices=list(OTHER), default="mnist")
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, nargs=3, help="of the first, second, third stage")
    parser.add_argument("--num-samples", type=int, default=32)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each")
    parser.add_argument("--data-dir")
    parser.add_argument("--work", type=Path, default=Path("runs/methods"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.epochs = args.epochs or list(BUDGETS[args.network])
    labels = load_data(args.data, data_dir=args.data_dir, validation=0).test[1]
    result = read_json(args.out) if args.out.exists() else {"methods": {}}
    result |= {"network": args.network, "data": args.data, "ood": OTHER[args.data]}
    result |= {"epochs": args.epochs, "corruptions": KINDS}
    head = {"command": shlex.join(["python", *sys.argv]), "torch": torch.__version__}
    head |= {"bayesdrop": bd.__version__, "num_samples": args.num_samples}
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        tasks = {
            (method, seed): pool.submit(run_one, method, seed, args)
            for method in args.methods
            for seed in (_members(args.seeds) if method == "plain" else args.seeds)
        }
        for method in args.methods:
            costs = {seed: task.result() for (name, seed), task in tasks.items() if name == method}
            settings = recipe_of(args.network, method, args.epochs).to_dict()
            rows = gather(method, costs, labels, args)
            result["methods"][method] = {**head, "settings": settings, "rows": rows}
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(result, indent=1) + "\n")


def _members(seeds: list[int]) -> list[int]:
    return sorted({seed + 3 * i for seed in seeds for i in range(ENSEMBLE)})


if __name__ == "__main__":
    main()
