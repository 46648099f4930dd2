"""Same seed, same bits: in every process, whatever hashes strings, and with loader workers.

    python benchmarks/reliability/determinism.py

Each row trains the same network of a convolution and masked layers in a new process, and hashes
weights, records and predictions. With another number of threads sums are taken in another order;
then the largest difference in a probability is given, beside ``TOLERANCE``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

from trials import digest, fit, publish

TOLERANCE = 1e-3
"""Of probabilities, between numbers of threads."""
ROWS: dict[str, dict[str, str]] = {
    "first process": {},
    "another process": {},
    "PYTHONHASHSEED=0": {"PYTHONHASHSEED": "0"},
    "PYTHONHASHSEED=1": {"PYTHONHASHSEED": "1"},
    "two loader workers": {"WORKERS": "2"},
    "two threads": {"OMP_NUM_THREADS": "2"},
}


def train() -> None:
    """Train, and print what came out as JSON."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    import bayesdrop as bd

    warnings.simplefilter("ignore")
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(600, 1, 12, 12, generator=generator)
    y = (x[:, 0, 3:9, 3:9].mean((1, 2)) > 0.5).long()
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    net = nn.Sequential(*layers, nn.Linear(200, 64), nn.ReLU(), nn.Linear(64, 2))
    bnn = bd.BayesianNetwork(bd.convert(net), bd.Categorical(), num_data=600)
    workers = int(os.environ.get("WORKERS", "0"))
    loader = DataLoader(TensorDataset(x, y), batch_size=50, shuffle=True, num_workers=workers)
    result = fit(bnn, loader, epochs=3)
    probabilities = bd.predict(bnn, x[:200], num_samples=8, seed=1).mean
    told = {
        "digest": digest([bnn, result.history, probabilities]),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps({**told, "probabilities": probabilities.tolist()}))


def run(environment: dict[str, str]) -> dict:
    command = [sys.executable, str(Path(__file__).resolve()), "--train"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def trial(names: tuple[str, ...] = tuple(ROWS)) -> dict:
    rows, first = {}, None
    for name in names:
        found = run(ROWS[name])
        first = first or found
        pairs = zip(first["probabilities"], found["probabilities"], strict=True)
        difference = max(abs(a - b) for one, two in pairs for a, b in zip(one, two, strict=True))
        rows[name] = {
            "same_bits": found["digest"] == first["digest"],
            "difference": difference,
            "threads": found["threads"],
        }
    return {"tolerance": TOLERANCE, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train()
    else:
        publish("determinism", trial(), options.out)


if __name__ == "__main__":
    main()
