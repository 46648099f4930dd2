"""What differential privacy costs on MNIST: LeNet-300-100 with and without beta-Bernoulli dropout.

    python benchmarks/private.py --choose
    python benchmarks/private.py

Each network is trained from scratch by ``fit(private=...)`` on 55,000 images, at each epsilon
(delta 1e-5) and without noise and clipping (``--epsilon inf``), otherwise alike. The first command
tries the same candidates for both networks at epsilon 3, for a third of the epochs and with one
seed, and measures them on the 5,000 held-out training images; the second takes the best of each.
(Before, with the plain network, a rate of 1e-3, SGD, and batches of 4,096 were tried once each and
were no better; a rate of 2e-2 and batches of 512 were level.) What choosing spends is not counted,
as usual; the seed of the noise is fixed, so that the figures can be reproduced, and the networks
themselves are therefore no private release.

Killed at any moment, the same command continues: runs in the result file are not run again, and
the one that was interrupted goes on from its last epoch in ``--work``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import itertools
import json
import math
import time
from pathlib import Path

import torch
from result_files import added, write
from torch import Tensor

import bayesdrop as bd
from bayesdrop.inference.private import Private

METHODS = ("plain", "beta-bernoulli")
DELTA = 1e-5
CHOICE = Path(__file__).parent / "results" / "private-choice.json"
CANDIDATES = {"learning_rate": (3e-3, 1e-2), "clip_norm": (0.3, 1.0)}
BATCH_SIZE, EPOCHS, CHOICE_EPOCHS = 1024, 15, 5
KEYS = ("method", "epsilon", "seed", "settings", "epochs")


def program(method: str, data: tuple[Tensor, Tensor], seed: int) -> bd.BayesianNetwork:
    torch.manual_seed(seed)
    network = bd.networks.build("lenet-300-100", in_features=data[0][0].numel(), num_classes=10)
    if method != "plain":
        network = bd.convert(network, method)
    return bd.BayesianNetwork(network, bd.Categorical(), len(data[1]))


@torch.no_grad()
def measure(bnn: bd.BayesianNetwork, data: tuple[Tensor, Tensor], num_samples: int) -> dict:
    """Return error (percent) and NLL (nats) of the mean mask, and of posterior samples."""
    x, y = data
    found = {"mean": torch.cat([bnn(part) for part in x.split(1000)]).log_softmax(-1)}
    if bnn.is_random:
        prediction = bd.predict(bnn, x, num_samples=num_samples, seed=0)
        found["sampled"] = prediction.mean.clamp(min=1e-12).log()
    rows = torch.arange(len(y))
    return {
        way: {
            "error": 100 * float((scores.argmax(-1) != y).double().mean()),
            "nll": -float(scores[rows, y].double().mean()),
        }
        for way, scores in found.items()
    }


def run_one(args: argparse.Namespace, job: dict, splits: bd.data.DataSplits) -> dict:
    epsilon, settings = job["epsilon"], job["settings"]
    private = Private(clip_norm=math.inf, noise_multiplier=0.0, seed=job["seed"])
    if epsilon is not None:
        private = Private(settings["clip_norm"], epsilon, delta=DELTA, seed=job["seed"])
    bnn = program(job["method"], splits.train, job["seed"])
    name = json.dumps(job, sort_keys=True)
    folder = args.work / "".join(c if c.isalnum() or c in ".-" else "_" for c in name)
    started = time.process_time()
    result = bd.fit(
        bnn,
        splits.train,
        epochs=job["epochs"],
        batch_size=BATCH_SIZE,
        learning_rate=settings["learning_rate"],
        private=private,
        seed=job["seed"],
        checkpoint_dir=folder,
        progress=False,
    )
    test = splits.validation if args.choose else splits.test
    return {
        **job,
        **measure(bnn, test, args.num_samples),
        "units": bnn.units(),
        "privacy": result.privacy.to_dict(),
        "kl_weight": 1.0,
        "cpu_seconds": time.process_time() - started,
        "minutes": result.seconds / 60,
        "versions": {"bayesdrop": bd.__version__, "torch": str(torch.__version__)},
    }


def chosen(method: str) -> dict:
    """Return the candidate of the lowest validation error, ties by NLL."""
    runs = json.loads(CHOICE.read_text())["runs"] if CHOICE.exists() else []
    tried = [run for run in runs if run["method"] == method]
    if len(tried) < math.prod(map(len, CANDIDATES.values())):
        raise SystemExit(f"{method}: first run python benchmarks/private.py --choose")
    return min(tried, key=lambda run: (run["mean"]["error"], run["mean"]["nll"]))["settings"]


def jobs(args: argparse.Namespace) -> list[dict]:
    if args.choose:
        grids = [
            dict(zip(CANDIDATES, values, strict=True))
            for values in itertools.product(*CANDIDATES.values())
        ]
        return [
            {
                "method": method,
                "epsilon": 3.0,
                "seed": 100,
                "settings": grid,
                "epochs": CHOICE_EPOCHS,
            }
            for method, grid in itertools.product(args.method, grids)
        ]
    return [
        {
            "method": method,
            "epsilon": epsilon if math.isfinite(epsilon) else None,
            "seed": seed,
            "settings": chosen(method),
            "epochs": EPOCHS,
        }
        for seed, epsilon, method in itertools.product(args.seed, args.epsilon, args.method)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="[default: benchmarks/results/private*.json]")
    parser.add_argument("--work", type=Path, default=Path("runs/private"))
    parser.add_argument("--method", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--epsilon", nargs="+", type=float, default=[1.0, 3.0, 8.0, math.inf])
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--choose", action="store_true", help="try the candidates instead")
    parser.add_argument("--num-samples", type=int, default=32)
    args = parser.parse_args()
    args.out = args.out or (CHOICE if args.choose else CHOICE.with_name("private.json"))
    torch.set_num_threads(1)
    splits = bd.data.load_images("mnist")
    result = json.loads(args.out.read_text()) if args.out.exists() else {"runs": []}
    done = {json.dumps([run[key] for key in KEYS]) for run in result["runs"]}
    for job in jobs(args):
        if json.dumps([job[key] for key in KEYS]) in done:
            continue
        run = run_one(args, job, splits)
        # Another process may have written meanwhile.
        result = json.loads(args.out.read_text()) if args.out.exists() else {"runs": []}
        result["runs"] = added(result["runs"], [run], KEYS)
        write(result, args.out)
        shown = {way: round(run[way]["error"], 2) for way in ("mean", "sampled") if way in run}
        print(job, shown, f"{run['cpu_seconds']:.0f} CPU s", flush=True)


if __name__ == "__main__":
    main()
