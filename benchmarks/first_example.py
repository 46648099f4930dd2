r"""The README's example, over five seeds: what masks change where some labels are wrong.

    python benchmarks/first_example.py choose --out benchmarks/results/first-example-choice.json
    python benchmarks/first_example.py test --out benchmarks/results/first-example.json

Scikit-learn's digits, 897 for training, of which a share of the labels is drawn anew at random;
validation (300) and test (600) have theirs untouched. Three networks 64-500-300-10 with the same
epochs, batches, learning rate, weight decay and initial weights: plain, with nn.Dropout(0.5)
before the second and the last ``Linear``, and with beta-Bernoulli dropout before each, its KL
counted once: the ELBO.

``choose`` looks at validation images only, with seeds that ``test`` has not, and trains each
candidate for all three networks. ``SETTINGS`` are those of the smallest beta-Bernoulli network
among the ones whose error there is within one standard error of the lowest; ``OWN`` are those with
the lowest error of each of the others, which so have a second row. ``test`` looks at the test
images once, with their own labels and with labels redrawn as those of training are. One thread;
seconds are those of the process, not of the wall.
"""

from __future__ import annotations

import argparse
import itertools
import shlex
import sys
import time
from pathlib import Path

import torch
from result_files import write
from torch import Tensor, nn

import bayesdrop as bd
from bayesdrop.compression import count_flops

SETTINGS: dict[str, float] = {
    "epochs": 100,
    "learning_rate": 3e-3,
    "variational_learning_rate": 0.1,
    "kl_warm_up": 0.5,
}
"""Shared by the three networks."""

OWN: dict[str, dict[str, float]] = {
    "plain": {**SETTINGS, "epochs": 50, "learning_rate": 1e-3},
    "nn.Dropout": {**SETTINGS, "epochs": 50, "learning_rate": 1e-3},
}
SHARES = (0.2, 0.0)
"""Of labels that are drawn anew; the README has the first."""

CANDIDATES = {
    "epochs": (50, 100),
    "learning_rate": (1e-3, 3e-3),
    "variational_learning_rate": (0.03, 0.1),
}
KINDS = ("plain", "nn.Dropout", "beta-bernoulli")
SEEDS = range(5)
CHOICE_SEEDS = range(100, 103)


def noisy(y: Tensor, share: float, seed: int) -> Tensor:
    """Return labels of which about ``share`` are drawn anew, with the seed's generator."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(len(y), generator=generator) < share
    return torch.where(chosen, torch.randint(10, y.shape, generator=generator), y)


def network(kind: str) -> nn.Module:
    """Return the network of a kind; all three have the same initial weights after one seed."""
    layers = [nn.Flatten(), nn.Linear(64, 500), nn.ReLU(), nn.Linear(500, 300), nn.ReLU()]
    layers.append(nn.Linear(300, 10))
    if kind == "nn.Dropout":
        layers[3:3], layers[6:6] = [nn.Dropout(0.5)], [nn.Dropout(0.5)]
    plain = nn.Sequential(*layers)
    return bd.convert(plain, kind) if kind == "beta-bernoulli" else plain


def train_one(kind: str, share: float, seed: int, split: str, settings: dict) -> dict:
    """Train one network and return its figures on a split."""
    digits = bd.load_data("digits")
    x, y = digits.train
    torch.manual_seed(seed)
    bnn = bd.BayesianNetwork(network(kind), bd.Categorical(), num_data=len(x))
    started = time.process_time()
    bd.fit(
        bnn,
        (x, noisy(y, share, seed)),
        epochs=int(settings["epochs"]),
        batch_size=50,
        learning_rate=settings["learning_rate"],
        variational_learning_rate=settings["variational_learning_rate"],
        kl_weight=bd.schedules.warm_up(settings["kl_warm_up"]),
        seed=seed,
        progress=False,
    )
    found = {"kind": kind, "share": share, "seed": seed, "split": split, "settings": settings}
    found |= {"cpu_seconds": round(time.process_time() - started, 1), "units": bnn.units()}
    found["flops"] = count_flops(bd.compact(bnn, x[:1]) if found["units"] else bnn.network, x[:1])
    images, labels = digits.test if split == "test" else digits.validation
    as_trained = noisy(labels, share, 1000 + seed)
    for way, sample in (("mean", False), ("sampled", True)):
        if sample and not bnn.is_random:
            continue
        for title, truth in ((way, labels), (f"{way}, labels redrawn", as_trained)):
            result = bd.evaluate(bnn, (images, truth), num_samples=64, sample=sample, seed=seed)
            found[title] = {key: getattr(result, key) for key in ("error", "nll", "brier", "ece")}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=["choose", "test"])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = []
    if args.mode == "choose":
        for values in itertools.product(*CANDIDATES.values()):
            settings = {**SETTINGS, **dict(zip(CANDIDATES, values, strict=True))}
            for kind, seed in itertools.product(KINDS, CHOICE_SEEDS):
                runs.append(train_one(kind, SHARES[0], seed, "validation", settings))
                print(runs[-1], flush=True)
    else:
        rows = [(kind, SETTINGS) for kind in KINDS] + list(OWN.items())
        for share, (kind, settings), seed in itertools.product(SHARES, rows, SEEDS):
            runs.append(train_one(kind, share, seed, "test", settings))
            print(runs[-1], flush=True)
    head = {"command": shlex.join(["python", *sys.argv]), "torch": torch.__version__}
    write({**head, "bayesdrop": bd.__version__, "threads": 1, "runs": runs}, args.out)


if __name__ == "__main__":
    main()
