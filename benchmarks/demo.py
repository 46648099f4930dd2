r"""What ``make demo`` shows, over five seeds.

    python benchmarks/demo.py --out benchmarks/results/demo.json

Runs the demonstration with each seed and evaluates its three networks on the test images: the
digits 0 to 7, with 8 and 9 as unknown data. Settings were chosen on validation images with other
seeds. One thread.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from pathlib import Path

import torch
from result_files import write

import bayesdrop as bd
from bayesdrop.data import load_ood
from bayesdrop.recipes import load_run
from bayesdrop.recipes.demo import run_demo

FOLDERS = {"plain": "plain", "nn.Dropout": "dropout", "beta-bernoulli": "beta-bernoulli"}
"""What is compared to its folder in a demonstration's."""


def figures(folder: Path, kind: str, seed: int) -> dict:
    """Return the figures of one network of a finished demonstration."""
    run = load_run(folder / FOLDERS[kind])
    test = run.load_data().test
    unknown = {"unknown": load_ood("digits:8-9", run.data)}
    found = {"kind": kind, "seed": seed, "settings": run.recipe.to_dict()}
    found["units"] = run.bnn.units()
    for way, sample in (("mean", False), ("sampled", True)):
        if sample and not run.bnn.is_random:
            continue
        result = bd.evaluate(run.bnn, test, ood=unknown, num_samples=64, sample=sample, seed=seed)
        found[way] = {key: getattr(result, key) for key in ("error", "nll", "brier", "ece")}
        found[way]["auroc"] = result.ood["unknown"]["entropy"]["auroc"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, help="of each network, for a quick look")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = []
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            run_demo(folder, seed=seed, epochs=args.epochs, progress=False)
            for kind in FOLDERS:
                runs.append(figures(folder, kind, seed))
                print(runs[-1], flush=True)
    head = {"command": shlex.join(["python", *sys.argv]), "torch": torch.__version__}
    write({**head, "bayesdrop": bd.__version__, "threads": 1, "runs": runs}, args.out)


if __name__ == "__main__":
    main()
