"""Cost of a training step, as a multiple of plain torch with fused Adam.

    python benchmarks/step_time.py --threads 2 --out benchmarks/results/step_time.json

All variants run interleaved in one process, a slice of steps at a time in random order; the
figure is the median over rounds of (variant / plain in the same round). The default busy-waiting
of OpenMP makes a step up to ten times slower on a loaded machine, hence OMP_WAIT_POLICY=PASSIVE.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyro
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd

BATCH = 100


def lenet_500_300(gate: Callable[..., nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        *(gate(784, -1), nn.Linear(784, 500), nn.ReLU()),
        *(gate(500, -1), nn.Linear(500, 300), nn.ReLU()),
        *(gate(300, -1), nn.Linear(300, 10)),
    )


def lenet5_caffe(gate: Callable[..., nn.Module]) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 20, 5), nn.ReLU(), gate(20, -3), nn.MaxPool2d(2)),
        *(nn.Conv2d(20, 50, 5), nn.ReLU(), gate(50, -3), nn.MaxPool2d(2), nn.Flatten()),
        *(gate(800, -1), nn.Linear(800, 500), nn.ReLU()),
        *(gate(500, -1), nn.Linear(500, 10)),
    )


def no_gate(units: int, dim: int) -> nn.Module:
    return nn.Identity()


def torch_dropout(units: int, dim: int) -> nn.Module:
    return nn.Dropout(0.5) if dim == -1 else nn.Dropout2d(0.5)


def beta_bernoulli(units: int, dim: int) -> nn.Module:
    return bd.BetaBernoulliDropout(units, unit_dim=dim)


Data = tuple[torch.Tensor, torch.Tensor]
Steps = Callable[[Data], None]


def shuffled(data: Data) -> Iterator[Data]:
    """Yield the batches of an epoch, drawn as ``fit`` draws them: every variant pays for that."""
    x, y = data
    for rows in torch.randperm(len(x)).split(BATCH):
        yield x[rows], y[rows]


def plain_steps(net: nn.Module, fused: bool) -> Steps:
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-4, fused=fused)
    net.train()

    def run(data: Data) -> None:
        for x, y in shuffled(data):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()

    return run


def fit_steps(net: nn.Module, num_data: int) -> Steps:
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=num_data)

    def run(data: Data) -> None:
        bnn.num_data = len(data[0])
        bd.fit(bnn, data, epochs=1, batch_size=BATCH, progress=False)

    return run


def svi_steps(net: nn.Module, num_data: int) -> Steps:
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=num_data)
    svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 1e-3}), TraceMeanField_ELBO())

    def run(data: Data) -> None:
        bnn.train()
        for x, y in shuffled(data):
            svi.step(x, y)

    return run


def elbo_module_steps(net: nn.Module, num_data: int) -> Steps:
    bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=num_data)
    objective = TraceMeanField_ELBO()(bnn.model, bnn.guide)
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-3, fused=True)

    def run(data: Data) -> None:
        bnn.train()
        with pyro.settings.context(module_local_params=True), pyro.validation_enabled(False):
            for x, y in shuffled(data):
                optimizer.zero_grad()
                objective(x, y).backward()
                optimizer.step()

    return run


def measure(network: Callable, image: tuple[int, ...], args: argparse.Namespace) -> dict:
    torch.manual_seed(args.seed)
    num_data = 60_000
    rows = BATCH * args.slice_steps
    data = (torch.rand(rows, *image), torch.randint(0, 10, (rows,)))
    variants: dict[str, Steps] = {
        "plain torch, fused Adam": plain_steps(network(no_gate), fused=True),
        "plain torch, default Adam": plain_steps(network(no_gate), fused=False),
        "nn.Dropout, fused Adam": plain_steps(network(torch_dropout), fused=True),
        "beta-Bernoulli, bd.fit": fit_steps(network(beta_bernoulli), num_data),
        "beta-Bernoulli, ELBO module, fused Adam": elbo_module_steps(
            network(beta_bernoulli), num_data
        ),
        "beta-Bernoulli, stock SVI": svi_steps(network(beta_bernoulli), num_data),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    order = random.Random(args.seed)
    for round_index in range(args.rounds + 1):
        for name in order.sample(list(variants), len(variants)):
            started = time.perf_counter()
            variants[name](data)
            if round_index:  # the first round warms up
                seconds[name].append((time.perf_counter() - started) / args.slice_steps)
    base = seconds["plain torch, fused Adam"]
    return {
        name: {
            "milliseconds": round(1e3 * statistics.median(values), 3),
            "ratio": round(statistics.median(v / b for v, b in zip(values, base, strict=True)), 3),
        }
        for name, values in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--slice-steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = {
        "command": "python " + " ".join(sys.argv),
        "threads": args.threads,
        "batch_size": BATCH,
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "machine": platform.machine(),
        "lenet-500-300": measure(lenet_500_300, (1, 28, 28), args),
        "lenet5-caffe": measure(lenet5_caffe, (1, 28, 28), args),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
