r"""Pruning by magnitude after training: the error without the smallest units, or weights.

    python benchmarks/magnitude.py test --suite digits-mlp \
        --out benchmarks/results/magnitude-digits-mlp.json
    python benchmarks/magnitude.py choose --suite digits-mlp \
        --out benchmarks/results/magnitude-digits-mlp-choice.json

and the same with ``lenet-500-300``. Targeted dropout, by unit and by weight, stands beside
networks that were trained without pruning in mind (plain, nn.Dropout), and with it (L0, sparse
variational dropout, group lasso). ``test`` trains each recipe with the epochs of ``EPOCHS`` on all
training images, without any training after the pruning, and uses the test images once, at 0 to
90 % pruned. The recipes' rates and shares are published ones; ``choose`` trains those and others
on the training images without the validation images, and looks only at these.

Pruned is the share of the units of each hidden layer with the smallest weights behind them, or of
the weights of each output unit, the last layer's excepted (``bd.compression.sweep_magnitudes``).
Runs are resumable (``--work``) and take one thread each; ``--methods`` and ``--seeds`` run only
some, and the file keeps its other rows. MNIST comes from ``--data-dir`` or ``BAYESDROP_DATA``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import dataclasses
import shlex
import sys
import time
from pathlib import Path

import torch
from result_files import added, write

import bayesdrop as bd
from bayesdrop.compression import MagnitudeSweep, sweep_magnitudes
from bayesdrop.files import read_json
from bayesdrop.inference.batches import Data
from bayesdrop.recipes import get as get_recipe
from bayesdrop.recipes import run_recipe
from bayesdrop.recipes.recipe import Recipe

EPOCHS: dict[str, tuple[int, ...]] = {"digits-mlp": (), "lenet-500-300": (8, 22)}
"""Suite to the epochs of a recipe's first and second stage, or of both where it has one; nothing
leaves the recipe's own."""

METHODS = [
    "plain",
    "dropout",
    "l0",
    "sparse-vd",
    "group-lasso",
    "targeted",
    "targeted-dropconnect",
    "targeted-ramped",
    "targeted-dropconnect-ramped",
]
"""Suffixes of recipes' names; "plain" has none."""

WHERE = {"unit": {}, "weight": {"exclude": "fc3"}}
"""What is pruned, and which layers are left alone; the inputs' units are by default."""

CANDIDATES = [(0.5, 0.5), (0.66, 0.75), (0.9, 0.75), (0.75, 0.9)]
"""Rates and shares of targeted dropout: the published ones."""


def recipe_of(suite: str, method: str) -> Recipe:
    """Return a method's recipe with the epochs of the suite."""
    recipe = get_recipe(suite if method == "plain" else f"{suite}-{method}")
    epochs = EPOCHS[suite]
    if not epochs:
        return recipe
    if len(recipe.stages) == 1:
        return recipe.override(epochs=sum(epochs))
    return recipe.override(pretrain_epochs=epochs[0], epochs=epochs[1])


def swept(bnn: bd.BayesianNetwork, data: Data) -> dict[str, list[dict]]:
    """Return a network's rows at each share, of units and of weights."""
    found: dict[str, list[dict]] = {}
    for by, where in WHERE.items():
        sweep: MagnitudeSweep = sweep_magnitudes(bnn, data, by=by, **where)  # type: ignore[arg-type]
        found[by] = [dataclasses.asdict(row) for row in sweep.rows]
    return found


def run_one(method: str, recipe: Recipe, seed: int, args: argparse.Namespace) -> dict:
    """Train a recipe and prune it by magnitude."""
    choosing = args.mode == "choose"
    name = method if not choosing else f"{method}-{'-'.join(map(str, _rates(recipe)))}"
    folder = args.work / args.suite / args.mode / f"{name}-{seed}"
    done = folder / "pruned.json"
    if done.exists():
        return read_json(done)
    started = time.process_time()
    run = run_recipe(
        recipe,
        out=folder,
        data_dir=args.data_dir,
        validation=None if choosing else 0,
        seed=seed,
        progress=False,
    )
    splits = run.load_data(args.data_dir)
    data = splits.validation if choosing else splits.test
    if data is None:
        raise ValueError("the data has no validation split")
    found = {"method": method, "seed": seed, **swept(run.bnn, data)}
    found |= {"units": run.bnn.units(), "weights": run.bnn.kept().get("weights", [])}
    found |= {"minutes": run.minutes, "cpu_seconds": time.process_time() - started}
    write(found, done)
    return found


def _rates(recipe: Recipe) -> tuple[float, float]:
    options = recipe.dropout_options
    return options["drop_prob"], options["targeted_share"]


def tasks(args: argparse.Namespace) -> list[tuple[str, Recipe, int]]:
    """Return what is to be trained: methods, or candidates, and seeds."""
    if args.mode == "test":
        pairs = [(method, recipe_of(args.suite, method)) for method in args.methods]
    else:
        pairs = []
        for method in ("targeted", "targeted-dropconnect"):
            recipe = recipe_of(args.suite, method)
            for rate, share in CANDIDATES:
                options = {**recipe.dropout_options, "drop_prob": rate, "targeted_share": share}
                pairs.append((method, dataclasses.replace(recipe, dropout_options=options)))
    return [(method, recipe, seed) for seed in args.seeds for method, recipe in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=["choose", "test"])
    parser.add_argument("--suite", choices=list(EPOCHS), default="digits-mlp")
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data-dir")
    parser.add_argument("--work", type=Path, default=Path("runs/magnitude"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    head = {"command": shlex.join(["python", *sys.argv]), "torch": torch.__version__}
    head |= {"bayesdrop": bd.__version__}
    result = read_json(args.out) if args.out.exists() else {"runs": []}
    result["suite"] = args.suite
    for method, recipe, seed in tasks(args):
        run = {**head, "settings": recipe.to_dict(), **run_one(method, recipe, seed, args)}
        if args.mode == "choose":
            run["rates"] = list(_rates(recipe))
        result["runs"] = added(result["runs"], [run], ("method", "seed", "rates"))
        write(result, args.out)


if __name__ == "__main__":
    main()
