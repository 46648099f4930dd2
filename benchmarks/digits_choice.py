"""Candidates for the recipes of the digits, on images held out of the training set.

    python benchmarks/digits_choice.py --out benchmarks/results/digits-mlp-choice.json

Each is trained on the training images and evaluated on the 300 validation images, never on the
test images. ``--candidates`` and ``--seeds`` run only some; the file keeps its other rows. Runs
are resumable (``--work``) and take one thread.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import shlex
import sys
from pathlib import Path

import torch
from mnist import changed, describe
from result_files import added, write

import bayesdrop as bd
from bayesdrop.files import read_json
from bayesdrop.recipes import get as get_recipe
from bayesdrop.recipes import run_recipe
from bayesdrop.reporting import build_report

_BB = "digits-mlp-beta-bernoulli"


def _costs(*costs: float) -> tuple[str, dict]:
    layers = {f"fc{place}": {"cost_per_norm": cost} for place, cost in enumerate(costs, 1)}
    return "digits-mlp-group-lasso", {"overrides": layers}


def _generalized(a: float, b: float, start: float) -> tuple[str, dict]:
    options = {"prior_concentration1": a, "prior_concentration0": b, "init_keep_prob": start}
    return "digits-mlp-generalized", {"dropout_options": options}


def _contextual(keep_prob: float, learned: bool) -> tuple[str, dict]:
    options = {"init_keep_prob": keep_prob, "prior_keep_prob": keep_prob, "learn_prior": learned}
    return "digits-mlp-contextual", {"dropout_options": options}


def _variances(rate: float) -> tuple[str, dict]:
    return "digits-mlp-sparse-variational", {"last": {"variational_learning_rate": rate}}


CANDIDATES: dict[str, tuple[str, dict]] = {
    "plain": ("digits-mlp", {}),
    "plain, weights 3e-3": ("digits-mlp", {"first": {"learning_rate": 3e-3}}),
    "BB": (_BB, {}),
    "BB, KL x 0.1": (_BB, {"dropout_options": {"kl_scale": 0.1}}),
    "BB, whole KL": (_BB, {"dropout_options": {"kl_scale": 1.0}}),
    "sparse VD, variances at 3e-3": _variances(3e-3),
    "sparse VD, variances at 3e-2": _variances(3e-2),
    "group lasso, costs 0.5": _costs(0.5, 0.5, 0.5),
    "group lasso, costs 1.5": _costs(1.5, 1.5, 1.5),
    "group lasso, costs 0.5, 1, 4": _costs(0.5, 1.0, 4.0),
    "group lasso, costs 1, 1.5, 10": _costs(1.0, 1.5, 10.0),
    "generalized, Beta(0.1, 0.9) from 0.9": _generalized(0.1, 0.9, 0.9),
    "generalized, Beta(0.1, 0.9) from 0.5": _generalized(0.1, 0.9, 0.5),
    "generalized, Beta(1/2, 1/2) from 0.5": _generalized(0.5, 0.5, 0.5),
    "generalized, Beta(0.01, 1) from 0.7": _generalized(0.01, 1.0, 0.7),
    "contextual, prior learned from 0.9": _contextual(0.9, True),
    "contextual, prior of 0.9": _contextual(0.9, False),
    "contextual, prior learned from 0.5": _contextual(0.5, True),
    "contextual, prior of 0.5": _contextual(0.5, False),
}
"""Name to a recipe, and what is changed in it."""


def choose_one(name: str, seed: int, work: Path) -> dict:
    """Train a candidate and evaluate it on the validation images."""
    base, settings = CANDIDATES[name]
    recipe = changed(get_recipe(base), settings)
    folder = work / f"{name.replace(' ', '-').replace('/', '-')}-{seed}"
    run = run_recipe(recipe, out=folder, seed=seed, progress=False)
    held_out = run.load_data().validation
    if held_out is None:
        raise ValueError("the run has no validation split")
    about = describe(run, "validation") | {"data_title": "digits"}
    values = build_report(run.bnn, run.plain, held_out, description=about, seed=seed).to_dict()
    keys = ("error", "nll", "ece", "units", "weights", "weights_total", "minutes")
    return {"candidate": name, "seed": seed, "settings": recipe.to_dict()} | {
        key: values[key] for key in keys
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", nargs="*", default=list(CANDIDATES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=Path, default=Path("runs/digits-choice"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    head = {"command": shlex.join(["python", *sys.argv]), "torch": torch.__version__}
    head |= {"bayesdrop": bd.__version__}
    result = read_json(args.out) if args.out.exists() else {"runs": []}
    for seed in args.seeds:
        for name in args.candidates:
            run = head | choose_one(name, seed, args.work)
            result["runs"] = added(result["runs"], [run], ("candidate", "seed"))
            write(result, args.out)


if __name__ == "__main__":
    main()
