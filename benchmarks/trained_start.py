r"""What masks do to a trained network before the first step, and after some training.

    python benchmarks/trained_start.py --out benchmarks/results/trained-start.json

A network of six convolutions with batch norm, and LeNet-300-100 on 64 inputs, are trained on
scikit-learn's digits. ``bd.convert`` then puts each registered layer into it, started as its class
starts (``trained=False``) and as for a trained network (``trained=True``; noise of a fixed rate,
which is then not put in, at rate 0.1). No step is made between: error and NLL on the 600 test
images are those of the mean mask and of 32 sampled ones. Nested layers have a row at full width,
too. The beta-Bernoulli networks are then trained on, for twice as many epochs. One thread.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
import warnings
from pathlib import Path

import torch
from result_files import write
from torch import nn

import bayesdrop as bd
from bayesdrop.errors import ConversionWarning

EPOCHS = 15
RATE = 0.1
"""Of noise of a fixed rate where it is asked for."""


def convolutions() -> nn.Module:
    """Return six convolutions with batch norm, and a Linear."""
    layers: list[nn.Module] = []
    widths = (1, 16, 16, 32, 32, 32, 32)
    for index, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        if index in (1, 3):
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


NETWORKS = {
    "six convolutions": convolutions,
    "300-100": lambda: bd.networks.lenet_300_100(in_features=64),
}


def fitted(network: nn.Module, data: tuple, seed: int, epochs: int, **options: float) -> nn.Module:
    """Return a network after training, as a Bayesian one."""
    bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=len(data[0]))
    bd.fit(bnn, data, epochs=epochs, batch_size=50, seed=seed, progress=False, **options)
    return bnn.eval()


def figures(bnn: nn.Module, data: tuple, seed: int) -> dict:
    """Return error and NLL of a network by its mean mask and by sampled ones."""
    x, y = data
    found = {}
    for way, sample in (("mean", False), ("sampled", True)):
        if sample and not bnn.is_random:
            continue
        probs = bd.predict(bnn, x, num_samples=32, sample=sample, seed=seed).mean
        nll = -probs[torch.arange(len(y)), y].clamp(min=1e-12).log().mean()
        found[way] = {"error": float((probs.argmax(-1) != y).float().mean()), "nll": float(nll)}
    return found


def converted(plain: nn.Module, key: str, trained: bool) -> nn.Module:
    """Return a network with layers of a key put in."""
    options = {"drop_prob": RATE} if trained and bd.nn.layers[key].fixed_rate else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)
        return bd.convert(plain, key, trained=trained, input_dropout=False, **options)


def run(name: str, seed: int, keys: list[str]) -> dict:
    """Train one network, and put each layer into it."""
    digits = bd.load_data("digits")
    torch.manual_seed(seed)
    plain = fitted(NETWORKS[name](), digits.train, seed, EPOCHS)
    runs = {"network": name, "seed": seed, "before": figures(plain, digits.test, seed)["mean"]}
    runs["layers"] = {}
    for key in keys:
        row = runs["layers"][key] = {}
        for trained in (False, True):
            net = converted(plain.network, key, trained)
            bnn = bd.BayesianNetwork(net, bd.Categorical(), len(digits.train[0])).eval()
            found = row["trained" if trained else "as the class"] = figures(bnn, digits.test, seed)
            if "nested" in key:
                full = bd.compression.hold_width(bnn, 1.0)
                found["full width"] = figures(full, digits.test, seed)["mean"]
            if key == "beta-bernoulli":
                started = time.process_time()
                bnn = fitted(net, digits.train, seed, 2 * EPOCHS, variational_learning_rate=0.1)
                found["after training"] = figures(bnn, digits.test, seed)
                found["units"], found["of"] = bnn.units(), bnn.units_total()
                found["cpu_seconds"] = round(time.process_time() - started, 1)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--keys", nargs="*", default=list(bd.nn.layers))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = []
    for name in args.networks:
        for seed in range(args.seeds):
            runs.append(run(name, seed, args.keys))
            print(runs[-1], flush=True)
    head = {"command": shlex.join(["python", *sys.argv]), "torch": torch.__version__}
    write({**head, "bayesdrop": bd.__version__, "threads": 1, "runs": runs}, args.out)


if __name__ == "__main__":
    main()
