"""Concrete dropout on y = 2 x + 8 + noise: epistemic uncertainty falls with the data, noise stays.

    python benchmarks/concrete_regression.py --out benchmarks/results/concrete-regression.json

The synthetic benchmark of Gal, Hron and Kendall (2017): x and the noise are standard normal, the
network is a multilayer perceptron of three hidden layers with two heads, the mean and the noise
scale, each of the five Linear layers with its own learned drop rate on its inputs. Training sets
of 10 to 10,000 points get the published numbers of epochs (Adam, 1e-3, batches of 20). Takes
``--jobs`` processes of one thread each.

Differences from the published protocol: hidden layers of ``--width`` units (the paper has 1024);
the second head is a raw scale, ``softplus`` of it the noise's standard deviation, instead of a
log-variance, and training targets are standardised, since a scale that overshoots in the first
steps (the targets are near 8) hardly comes back; results are in the targets' own units; masks are
exact at test time; 1,000 test points drawn once.

How far a rate moves in the smaller sets is bounded by Adam's steps of about the learning rate in
the logit, not by the data: 2,000 steps reach from 0.1 to 0.45 at most.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import shlex
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor, nn

import bayesdrop as bd

EPOCHS = {10: 2000, 25: 1000, 50: 500, 100: 200, 1000: 20, 10000: 2}
"""Training points to epochs, as published."""

PUBLISHED = {
    "source": "authors' notebook (PyTorch), mean of 3 repetitions, hidden layers of 1024",
    "rmse": {"10": 1.901, "25": 1.349, "50": 1.238, "100": 1.258, "1000": 1.036, "10000": 1.004},
    "hidden_drop_prob": {
        "10": 0.403, "25": 0.403, "50": 0.325, "100": 0.236, "1000": 0.232, "10000": 0.157
    },
    "aleatoric": {
        "10": 1.257, "25": 1.199, "50": 1.081, "100": 1.317, "1000": 1.222, "10000": 1.125
    },
    "epistemic": {
        "10": 1.278, "25": 1.081, "50": 0.904, "100": 0.716, "1000": 0.644, "10000": 0.531
    },
}  # fmt: skip
MEASURED = ("rmse", "aleatoric", "epistemic", "log_likelihood")


class TwoHeads(nn.Module):
    """A multilayer perceptron whose output is a mean and a raw noise scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(1, width)
        self.fc2 = nn.Linear(width, width)
        self.fc3 = nn.Linear(width, width)
        self.mean = nn.Linear(width, 1)
        self.raw_scale = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return means and raw noise scales, ``(N, 2)``."""
        for layer in (self.fc1, self.fc2, self.fc3):
            x = torch.relu(layer(x))
        return torch.cat([self.mean(x), self.raw_scale(x)], -1)


def draw(num_points: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, num_points, 1, generator=generator)
    return x, 2 * x + 8 + noise


def run_one(num_data: int, repetition: int, args: argparse.Namespace) -> dict:
    torch.set_num_threads(1)
    inputs, targets = draw(num_data, seed=1000 * repetition + num_data)
    centre, unit = targets.mean(), targets.std()
    data = inputs, (targets - centre) / unit
    torch.manual_seed(repetition)
    network = bd.convert(TwoHeads(args.width), "concrete", length_scale=1e-4)
    bnn = bd.BayesianNetwork(network, bd.Gaussian("heteroscedastic"), num_data)
    result = bd.fit(
        bnn,
        data,
        epochs=EPOCHS[num_data] * args.epochs_factor,
        batch_size=20,
        learning_rate=1e-3,
        variational_learning_rate=1e-3,
        weight_decay=0.0,
        schedule=(),
        seed=repetition,
        progress=False,
    )
    x, y = draw(1000, seed=999_999)
    prediction = bd.predict(
        bnn, (x, (y - centre) / unit), num_samples=args.num_samples, seed=repetition
    )
    rates = {
        path.removesuffix("_dropout"): round(1 - layer.keep_prob()[0].item(), 4)
        for path, layer in bnn.named_dropout_layers()
    }
    return {
        "num_data": num_data,
        "repetition": repetition,
        "rmse": float((prediction.mean * unit + centre - y).square().mean().sqrt()),
        "aleatoric": float(prediction.aleatoric_variance.mean().sqrt() * unit),
        "epistemic": float(prediction.epistemic_variance.mean().sqrt() * unit),
        "log_likelihood": float(prediction.log_likelihood.mean() - unit.log()),
        "drop_prob": rates,
        "minutes": result.seconds / 60,
    }


def summary(runs: list[dict]) -> dict:
    """Return the mean of each measure by number of training points."""
    rows = {}
    for num_data in sorted({run["num_data"] for run in runs}):
        own = [run for run in runs if run["num_data"] == num_data]
        row = {name: statistics.mean(run[name] for run in own) for name in MEASURED}
        row["hidden_drop_prob"] = statistics.mean(
            run["drop_prob"][name] for run in own for name in ("fc2", "fc3")
        )
        row["input_drop_prob"] = statistics.mean(run["drop_prob"]["fc1"] for run in own)
        rows[str(num_data)] = {name: round(value, 4) for name, value in row.items()}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-data", type=int, nargs="+", default=list(EPOCHS))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--epochs-factor", type=int, default=1, help="times the published epochs")
    parser.add_argument("--num-samples", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        tasks = [
            pool.submit(run_one, num_data, repetition, args)
            for num_data in args.num_data
            for repetition in range(args.repetitions)
        ]
        runs = [task.result() for task in tasks]
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "torch": torch.__version__,
        "bayesdrop": bd.__version__,
        "width": args.width,
        "epochs": {str(size): EPOCHS[size] * args.epochs_factor for size in args.num_data},
        "published": PUBLISHED,
        "mean": summary(runs),
        "runs": runs,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["mean"], indent=1))


if __name__ == "__main__":
    main()
