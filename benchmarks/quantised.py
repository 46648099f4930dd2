r"""Bayesian compression: units pruned by scales, weights rounded by posteriors, a file.

    python benchmarks/quantised.py --network digits-mlp
    python benchmarks/quantised.py --network lenet-500-300 --methods gnj ghs --seeds 0
    python benchmarks/quantised.py --network lenet5-caffe --methods gnj ghs --seeds 0
    python benchmarks/quantised.py --network digits-mlp --methods gnj ghs --seeds 7 8 9 --choose

Each recipe is trained as it is registered, less ``VALIDATION`` training images. These choose, for
each run, one threshold for all masks and then how coarse the grids are and what shares a step: the
smallest network, and the smallest file, whose error is at most ``TOLERATED`` points above that of
the network with all units, and above that before rounding. The test set is looked at once, after
that. Sizes are those of the file that is written, and read again, here.

``--choose`` trains each of ``CANDIDATES`` of the scales instead; it sees held-out images only.

Runs are resumable (``--work``), one thread; the file keeps its other runs. MNIST is looked for in
``--data-dir`` or ``BAYESDROP_DATA``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch
from result_files import added, write

import bayesdrop as bd
from bayesdrop.compression import choose_threshold, quantise, sweep_thresholds
from bayesdrop.files import read_json
from bayesdrop.recipes import get as get_recipe
from bayesdrop.recipes import run_recipe
from bayesdrop.recipes.building import build_network
from bayesdrop.recipes.run import Run

METHODS = ("gaussian-weights", "gnj", "ghs")
VALIDATION = {"digits-mlp": None, "lenet-500-300": 5000, "lenet5-caffe": 5000}
"""Images held out; None is what the data set holds out by itself."""
TOLERATED = {"digits-mlp": 0.5, "lenet-500-300": 0.1, "lenet5-caffe": 0.1}
"""Percentage points: one or two images of digits, five of MNIST."""
COARSENESS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
NUM_SAMPLES = 32
GROUPS = ("layer", "output", "input")
CANDIDATES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "weights N(0, 1)": ({"prior_scale": 1.0, "init_log_variance": -9.0}, {}),
    "weights N(0, 0.05^2)": ({}, {}),
    "the same, posteriors at 3e-3": ({}, {"variational_learning_rate": 3e-3}),
    "the same, 100 epochs with falling rates": ({}, {"epochs": 100, "decay_since": 0.0}),
    "the same, 100 epochs with falling rates, all from 1e-3": (
        {},
        {"epochs": 100, "decay_since": 0.0, "variational_learning_rate": 1e-3},
    ),
}
"""What a recipe's weights within scales, and its last stage, have instead."""


def chosen(run: Run, held_out: Any, example: torch.Tensor, tolerated: float) -> dict[str, Any]:
    """Prune units, and return the grids that validation data choose."""
    found: dict[str, Any] = {}
    masks = run.bnn.named_dropout_layers()
    if masks:
        frontier = sweep_thresholds(run.bnn, held_out)
        threshold = choose_threshold(frontier, max_error_increase=tolerated)
        found["threshold"] = threshold
        for _, mask in masks:
            mask.threshold = threshold
    limit = bd.evaluate(run.bnn, held_out, sample=False).error + tolerated + 1e-9
    candidates = []
    for group in GROUPS:
        for coarseness in COARSENESS:
            small = quantise(run.bnn, example, coarseness=coarseness, group=group)
            error = figures(small.network, run, held_out)["error"]
            if error <= limit:
                candidates.append((small.file_bytes, coarseness, group))
    _, found["coarseness"], found["group"] = min(candidates)
    return found


def figures(
    network: torch.nn.Module, run: Run, data: Any, *, sample: bool = False
) -> dict[str, float]:
    """Return error in percent, NLL in nats and ECE."""
    bnn = network
    if not isinstance(bnn, bd.BayesianNetwork):
        bnn = bd.BayesianNetwork(network, bd.Categorical(), run.bnn.num_data)
    options = {"num_samples": NUM_SAMPLES, "seed": run.seed} if sample else {}
    result = bd.evaluate(bnn, data, sample=sample, **options)
    return {name: getattr(result, name) for name in ("error", "nll", "ece")}


def run_one(network: str, method: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train a recipe, choose, and return what the test set and the file say."""
    recipe = get_recipe(f"{network}-{method}")
    folder = args.work / f"{recipe.name}-{seed}"
    run = run_recipe(
        recipe,
        out=folder,
        data_dir=args.data_dir,
        validation=VALIDATION[network],
        seed=seed,
        progress=False,
    )
    splits = run.load_data(args.data_dir)
    example = splits.train[0][:8]
    run.bnn.eval()
    row: dict[str, Any] = {"recipe": recipe.name, "seed": seed, "settings": recipe.to_dict()}
    row["minutes"] = run.minutes
    row["all_units"] = unpruned(run, splits.test)
    row |= chosen(run, splits.validation, example, TOLERATED[network])
    row["units"] = [int(mask.kept().sum()) for _, mask in run.bnn.named_dropout_layers()]
    row["pruned"] = figures(run.bnn, run, splits.test)
    row["sampled"] = figures(run.bnn, run, splits.test, sample=True)
    small = quantise(run.bnn, example, coarseness=row["coarseness"], group=row["group"])
    path = folder / "weights.q"
    bd.save_plain(small.network, path, format="quantised")
    plain = build_network(recipe, splits.num_classes, splits.image_shape)
    read = bd.load_plain(path, plain).eval()
    row["rounded"] = figures(read, run, splits.test)
    if path.stat().st_size != small.file_bytes:
        raise ValueError(f"{path.stat().st_size} bytes on disk instead of {small.file_bytes}")
    row["file"] = {
        name: value
        for name, value in small.to_dict().items()
        if name not in ("tensors", "network")
    }
    row["bits"] = {t.name: t.bits for t in small.tensors if t.is_weight}
    row["weights_left"] = {t.name: t.weights for t in small.tensors if t.is_weight}
    row["architecture"] = architecture(bd.compact(read, example))
    return row


def choose_one(
    network: str, method: str, seed: int, name: str, args: argparse.Namespace
) -> dict[str, Any]:
    """Train a candidate, and return its objective and what the held-out images say."""
    recipe = get_recipe(f"{network}-{method}")
    weights, stage = CANDIDATES[name]
    options = recipe.dropout_options
    options = {**options, "weights": {**options["weights"], **weights}}
    stages = (*recipe.stages[:-1], dataclasses.replace(recipe.stages[-1], **stage))
    recipe = dataclasses.replace(recipe, dropout_options=options, stages=stages)
    run = run_recipe(
        recipe,
        out=args.work / f"{recipe.name}-{name.replace(' ', '-')}-{seed}",
        data_dir=args.data_dir,
        validation=VALIDATION[network],
        seed=seed,
        progress=False,
    )
    held_out = run.load_data(args.data_dir).validation
    last = run.history[recipe.stages[-1].name][-1]
    row = {"recipe": recipe.name, "candidate": name, "seed": seed, "settings": recipe.to_dict()}
    row |= {key: last[key] for key in ("loss", "nll", "kl")} | {"minutes": run.minutes}
    row["all_units"] = unpruned(run, held_out)
    frontier = sweep_thresholds(run.bnn, held_out)
    threshold = choose_threshold(frontier, max_error_increase=TOLERATED[network])
    for _, mask in run.bnn.named_dropout_layers():
        mask.threshold = threshold
    row["pruned"] = figures(run.bnn, run, held_out)
    row["units"] = [int(mask.kept().sum()) for _, mask in run.bnn.named_dropout_layers()]
    return row


def unpruned(run: Run, data: Any) -> dict[str, float]:
    """Return the figures of the network with all units."""
    masks = run.bnn.named_dropout_layers()
    before = [mask.threshold for _, mask in masks]
    for _, mask in masks:
        mask.threshold = 0.0
    found = figures(run.bnn, run, data)
    for (_, mask), threshold in zip(masks, before, strict=True):
        mask.threshold = threshold
    return found


def architecture(network: torch.nn.Module) -> list[int]:
    """Return outputs of convolutions and inputs of dense layers, as the papers count."""
    layers = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    return [m.out_channels if isinstance(m, torch.nn.Conv2d) else m.in_features for m in layers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=list(VALIDATION), default="digits-mlp")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--choose", action="store_true", help="train candidates, test nothing")
    parser.add_argument("--candidates", nargs="*", choices=CANDIDATES, default=list(CANDIDATES))
    parser.add_argument("--data-dir")
    parser.add_argument("--work", type=Path, default=Path("runs/quantised"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    kind = "-choice" if args.choose else ""
    out = args.out or Path(__file__).parent / "results" / f"quantised-{args.network}{kind}.json"
    if args.choose:  # Gaussian weights alone have no scales.
        args.methods = [method for method in args.methods if method != "gaussian-weights"]
    for seed in args.seeds:
        for method in args.methods:
            for candidate in args.candidates if args.choose else [None]:
                command = f"--network {args.network} --methods {method} --seeds {seed}"
                if candidate is None:
                    row = run_one(args.network, method, seed, args)
                else:
                    command += f" --choose --candidates {candidate!r}"
                    row = choose_one(args.network, method, seed, candidate, args)
                head = {"command": f"python benchmarks/quantised.py {command}"}
                row = {**head, "torch": torch.__version__, **row}
                runs = read_json(out)["runs"] if out.exists() else []
                runs = added(runs, [row], ("recipe", "candidate", "seed"))
                write({"network": args.network, "bayesdrop": bd.__version__, "runs": runs}, out)


if __name__ == "__main__":
    main()
