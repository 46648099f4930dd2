r"""Is an order better than one fixed law at every width? Tested with a correction over widths.

    python benchmarks/nested_claim.py --network lenet-500-300 --data mnist --epochs 20 \
        --seeds 0 1 2 3 4 --out benchmarks/results/nested-claim-lenet-500-300-mnist.json

The published claim is that a learned order with random weights is better than one fixed law in
accuracy, ECE and detection of other data at every width. The fixed law here is ``nested-uniform``
of ``nested.py``, chosen beforehand: no noise, and each layer's width of its own. Beside it stand
``vnd-stratified`` and, to see what the learned order adds, ``nested-stratified``: the same with a
fixed law.

Methods are compared on the same seeds and test images. Each figure is, or is linear to first order
in, one number for each image: whether it is wrong, its NLL, its part of its bin's gap (ECE), its
rank among the other set's images (AUROC; DeLong et al., 1988). ``paired.py`` says how spreads
over seeds and over images make one standard error. P-values of a figure are
adjusted over the widths (Holm). A row is called better at a width where its adjusted p-value is
below 0.05.

The rate of the weights' noise is the one of ``--choice`` whose ``vnd-stratified`` has the lowest
NLL on validation images, averaged over widths, among the longest runs there, unless
``--drop-prob`` says it. Other options are those of ``nested.py``. Trainings are resumable, and
what each image got is kept in ``--work``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import shlex
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import nested
import numpy as np
import result_files
import torch
from paired import holm, over_seeds_and_images
from rows import RESULTS
from scipy.stats import rankdata

import bayesdrop as bd
from bayesdrop.data import load_data, load_ood

BASELINE = "nested-uniform"
METHODS = [BASELINE, "nested-stratified", "vnd-stratified"]
FIGURES = {"error": 100.0, "nll": 1.0, "ece": 1.0, "auroc": 1.0}
"""Figure to the unit it is reported in; of all but AUROC less is better."""
_BINS = 15


def run(method: str, seed: int, args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Train one network, or load what an earlier call made of it; return what each image got."""
    name = nested.name_of(method, None, seed, args)
    file = args.work / f"{name}-images.npz"
    if not file.exists():
        splits = load_data(args.data, data_dir=args.data_dir, validation=args.validation)
        held_out = splits.validation if args.validation else splits.test
        started = time.process_time()
        bnn, _ = nested.train(method, None, seed, splits, args)
        minutes = (time.process_time() - started) / 60
        other = load_ood(nested.OOD[args.data], args.data, data_dir=args.data_dir)
        found = {"minutes": np.array(minutes)}
        for width in args.widths:
            held = bd.compression.hold_width(bnn, width)
            options = {"num_samples": args.num_samples, "sample": held.is_random, "seed": seed}
            inside = bd.predict(held, held_out, **options)
            outside = bd.predict(held, other, **options)
            figures = {
                "wrong": inside.mean.argmax(1) != inside.y,
                "nll": -inside.log_likelihood,
                "confidence": inside.confidence,
                "entropy": inside.predictive_entropy,
                "other": outside.predictive_entropy,
            }
            found |= {f"{width} {key}": v.float().numpy() for key, v in figures.items()}
        np.savez_compressed(file, **found)
        (args.work / name / "training.pt").unlink(missing_ok=True)
    with np.load(file) as stored:
        return dict(stored)


def chosen_drop_prob(runs: list[dict], network: str, data: str) -> float | None:
    """Return the rate of the lowest mean NLL of the longest validation runs, if there are any."""
    wanted = (network, data, "vnd-stratified")
    found = [run for run in runs if (run["network"], run["data"], run["method"]) == wanted]
    longest = max((run["epochs"] for run in found), default=0)
    nll = {
        run["drop_prob"]: statistics.fmean(row["nll"] for row in run["rows"])
        for run in found
        if run["epochs"] == longest
    }
    return min(nll, key=lambda rate: nll[rate]) if nll else None


def parts_of(images: dict[str, np.ndarray], width: float) -> dict[str, tuple[np.ndarray, ...]]:
    """Return each figure as parts of images: their mean is the figure to first order.

    AUROC has two: of the test images and of the other set's, each with the figure as its mean.
    """
    wrong, nll, confidence, entropy, other = (
        images[f"{width} {key}"].astype(float)
        for key in ("wrong", "nll", "confidence", "entropy", "other")
    )
    edge = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gap = confidence - (1 - wrong)
    sign = np.sign(np.bincount(edge, gap, _BINS))[edge]
    both = rankdata(np.concatenate([entropy, other]))
    inside, outside = len(entropy), len(other)
    below = both[inside:] - rankdata(other)  # test images below each of the other set's
    above = outside - (both[:inside] - rankdata(entropy))
    return {
        "error": (wrong,),
        "nll": (nll,),
        "ece": (sign * gap,),
        "auroc": (above / outside, below / inside),
    }


def compare(
    runs: dict[int, dict[str, np.ndarray]],
    others: dict[int, dict[str, np.ndarray]],
    widths: list[float],
) -> dict[str, list[dict]]:
    """Return each figure's differences from the others' at each width, with p-values."""
    result: dict[str, list[dict]] = {figure: [] for figure in FIGURES}
    for width in widths:
        pairs = [(parts_of(runs[s], width), parts_of(others[s], width)) for s in runs]
        for figure, unit in FIGURES.items():
            # Seed, and set of images: the difference of each image's part.
            parts = [
                [unit * (a - b) for a, b in zip(own[figure], other[figure], strict=True)]
                for own, other in pairs
            ]
            by_seed = [float(of_seed[0].mean()) for of_seed in parts]
            image_variance = sum(
                float(np.var(np.mean(of_set, axis=0), ddof=1)) / len(of_set[0])
                for of_set in zip(*parts, strict=True)
            )
            mean, error, p = over_seeds_and_images(by_seed, image_variance)
            result[figure].append({"width": width, "mean": mean, "error": error, "p": p})
    for rows in result.values():
        for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
            row["adjusted_p"] = adjusted
    return result


def means_of(runs: dict[int, dict[str, np.ndarray]], widths: list[float]) -> dict[str, list]:
    """Return each figure at each width, a list over widths of the mean over seeds."""
    by_width = [[parts_of(images, width) for images in runs.values()] for width in widths]
    return {
        figure: [
            unit * float(np.mean([parts[figure][0].mean() for parts in of_seeds]))
            for of_seeds in by_width
        ]
        for figure, unit in FIGURES.items()
    }


def main() -> None:
    parser = nested.parser_of(__doc__.splitlines()[0])
    parser.set_defaults(methods=METHODS)
    parser.add_argument(
        "--choice", type=Path, default=RESULTS / "nested-choice.json", help="what validation said"
    )
    args = parser.parse_args()
    if args.drop_prob is None:
        runs = json.loads(args.choice.read_text())["runs"]
        args.drop_prob = chosen_drop_prob(runs, args.network, args.data)
    args.work.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        tasks = {
            (method, seed): pool.submit(run, method, seed, args)
            for seed in args.seeds
            for method in args.methods
        }
        runs = {
            method: {seed: tasks[method, seed].result() for seed in args.seeds}
            for method in args.methods
        }
    epochs = args.epochs or nested.recipe_of(BASELINE, args).stages[0].epochs
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "torch": torch.__version__,
        "bayesdrop": bd.__version__,
        "network": args.network,
        "data": args.data,
        "seeds": args.seeds,
        "epochs": epochs,
        "num_samples": args.num_samples,
        "validation": args.validation,
        "widths": args.widths,
        "baseline": BASELINE,
        "methods": {
            method: {
                **nested.settings_of(method, None, args),
                "cpu_minutes": [round(float(images["minutes"]), 2) for images in found.values()],
                "mean": means_of(found, args.widths),
                "less_baseline": None
                if method == BASELINE
                else compare(found, runs[BASELINE], args.widths),
            }
            for method, found in runs.items()
        },
    }
    result_files.write(result, args.out)


if __name__ == "__main__":
    main()
