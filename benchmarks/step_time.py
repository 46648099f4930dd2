"""Cost of a training step, as a multiple of plain torch with fused Adam.

    python benchmarks/step_time.py --threads 1 --out benchmarks/results/step_time.json

``--device cuda`` has networks and data on a GPU.

All variants run interleaved in one process, a slice of steps at a time in random order. A figure
is the median over rounds of (variant / plain in the same round), with its quartiles, once in wall
time and once in the process's CPU time. Images have as much ink as MNIST's. The rows of
``bd.fit`` pay for its call, once in a slice. The default busy-waiting of OpenMP makes a step up to
ten times slower on a loaded machine, hence OMP_WAIT_POLICY=PASSIVE.
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
from functools import partial
from pathlib import Path

import pyro
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd
from bayesdrop.nn import BayesianWeights

BATCH = 100
INK = 0.19
"""Share of MNIST's pixels that are not zero."""
PLAIN, BY_FIT = "plain torch, fused Adam", "beta-Bernoulli, bd.fit"
QUADRATURE = "beta-Bernoulli, prior_concentration0=2"
STACKS = (5, 35)
"""Masked layers of 100 units, of which the difference gives the cost of one."""

Gate = Callable[[int, int], nn.Module]


def lenet_500_300(gate: Gate) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        *(gate(784, -1), nn.Linear(784, 500), nn.ReLU()),
        *(gate(500, -1), nn.Linear(500, 300), nn.ReLU()),
        *(gate(300, -1), nn.Linear(300, 10)),
    )


def lenet5_caffe(gate: Gate) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 20, 5), nn.ReLU(), gate(20, -3), nn.MaxPool2d(2)),
        *(nn.Conv2d(20, 50, 5), nn.ReLU(), gate(50, -3), nn.MaxPool2d(2), nn.Flatten()),
        *(gate(800, -1), nn.Linear(800, 500), nn.ReLU()),
        *(gate(500, -1), nn.Linear(500, 10)),
    )


def stack(layers: int, gate: Gate) -> nn.Module:
    hidden = [[gate(100, -1), nn.Linear(100, 100), nn.ReLU()] for _ in range(layers)]
    parts = [part for three in hidden for part in three]
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), *parts, nn.Linear(100, 10))


def no_gate(units: int, dim: int) -> nn.Module:
    return nn.Identity()


def torch_dropout(units: int, dim: int) -> nn.Module:
    return nn.Dropout(0.5) if dim == -1 else nn.Dropout2d(0.5)


def mask(key: str, units: int, dim: int, **options: float) -> nn.Module:
    return bd.nn.make(key, units, unit_dim=dim, **options)


beta_bernoulli = partial(mask, "beta-bernoulli")

Data = tuple[torch.Tensor, torch.Tensor]
Steps = Callable[[Data], None]


def shuffled(data: Data) -> Iterator[Data]:
    """Yield the batches of an epoch, drawn as ``fit`` draws them: every variant pays for that."""
    x, y = data
    for rows in torch.randperm(len(x)).split(BATCH):
        yield x[rows], y[rows]


def plain_steps(net: nn.Module, fused: bool = True, compiled: bool = False) -> Steps:
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-4, fused=fused)
    net.train()
    forward = torch.compile(net) if compiled else net

    def run(data: Data) -> None:
        for x, y in shuffled(data):
            optimizer.zero_grad()
            F.cross_entropy(forward(x), y).backward()
            optimizer.step()

    return run


def bayesian(net: nn.Module) -> bd.BayesianNetwork:
    return bd.BayesianNetwork(net, bd.Categorical(), num_data=60_000)


def fit_steps(net: nn.Module) -> Steps:
    bnn = bayesian(net)

    def run(data: Data) -> None:
        bnn.num_data = len(data[0])
        bd.fit(bnn, data, epochs=1, batch_size=BATCH, progress=False)

    return run


def loss_steps(net: nn.Module, compiled: bool) -> Steps:
    """A loop of one's own over ``bnn.loss``, which ``torch.compile`` takes as one graph."""
    bnn = bayesian(net)
    optimizer = torch.optim.Adam(bnn.parameters(), lr=1e-3, fused=True)

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return bnn.loss(x, y).loss / bnn.num_data

    objective = torch.compile(loss) if compiled else loss

    def run(data: Data) -> None:
        bnn.train()
        for x, y in shuffled(data):
            optimizer.zero_grad()
            objective(x, y).backward()
            optimizer.step()

    return run


def svi_steps(net: nn.Module) -> Steps:
    bnn = bayesian(net)
    svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 1e-3}), TraceMeanField_ELBO())

    def run(data: Data) -> None:
        bnn.train()
        for x, y in shuffled(data):
            svi.step(x, y)

    return run


def elbo_module_steps(net: nn.Module) -> Steps:
    bnn = bayesian(net)
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


def on_device(network: Callable[[Gate], nn.Module], device: str) -> Callable[[Gate], nn.Module]:
    """Return what builds the network on a device."""
    return lambda gate: network(gate).to(device)


def with_layer(network: Callable[[Gate], nn.Module], key: str) -> nn.Module:
    """Return the network with layers of a key: masks at its gates, or random weights."""
    if issubclass(bd.nn.layers[key], BayesianWeights):
        return bd.convert(network(no_gate), key)
    return network(partial(mask, key))


def variants(network: Callable[[Gate], nn.Module], keys: list[str]) -> dict[str, Steps]:
    found = {
        PLAIN: plain_steps(network(no_gate)),
        "plain torch, default Adam": plain_steps(network(no_gate), fused=False),
        "nn.Dropout, fused Adam": plain_steps(network(torch_dropout)),
        BY_FIT: fit_steps(network(beta_bernoulli)),
        "beta-Bernoulli, ELBO module, fused Adam": elbo_module_steps(network(beta_bernoulli)),
        "beta-Bernoulli, stock SVI": svi_steps(network(beta_bernoulli)),
        QUADRATURE: fit_steps(network(partial(beta_bernoulli, prior_concentration0=2.0))),
    }
    return found | {key: fit_steps(with_layer(network, key)) for key in keys}


def compiled_variants(network: Callable[[Gate], nn.Module]) -> dict[str, Steps]:
    """Return what ``torch.compile``, which needs a C++ compiler, makes of a step."""
    return {
        "plain torch, torch.compile": plain_steps(network(no_gate), compiled=True),
        "beta-Bernoulli, bnn.loss": loss_steps(network(beta_bernoulli), compiled=False),
        "beta-Bernoulli, bnn.loss, torch.compile": loss_steps(network(beta_bernoulli), True),
    }


Times = dict[str, list[tuple[float, float]]]


def measure(found: dict[str, Steps], args: argparse.Namespace) -> Times:
    """Return wall and CPU seconds of a step in every round."""
    rows = BATCH * args.slice_steps
    image = torch.rand(rows, 1, 28, 28)
    images, labels = image * (torch.rand_like(image) < INK), torch.randint(0, 10, (rows,))
    data = images.to(args.device), labels.to(args.device)
    seconds: Times = {name: [] for name in found}
    order = random.Random(args.seed)
    for round_index in range(args.rounds + 1):
        for name in order.sample(list(found), len(found)):
            started, used = time.perf_counter(), time.process_time()
            found[name](data)
            if args.device != "cpu":
                torch.cuda.synchronize()
            pair = time.perf_counter() - started, time.process_time() - used
            if round_index:  # the first round warms up
                seconds[name].append((pair[0] / args.slice_steps, pair[1] / args.slice_steps))
    return seconds


def ratios(seconds: Times) -> dict[str, dict]:
    found = {}
    for name, values in seconds.items():
        wall, cpu = (
            [v[kind] / base[kind] for v, base in zip(values, seconds[PLAIN], strict=True)]
            for kind in (0, 1)
        )
        low, middle, high = statistics.quantiles(wall, n=4, method="inclusive")
        found[name] = {
            "milliseconds": round(1e3 * statistics.median(v[0] for v in values), 3),
            "ratio": round(middle, 3),
            "quartiles": [round(low, 3), round(high, 3)],
            "cpu_ratio": round(statistics.median(cpu), 3),
        }
    return found


def layer_cost(args: argparse.Namespace) -> dict[str, float]:
    """Return what the mask of one more layer of 100 units adds to a step, in ms of wall and CPU.

    Both networks are trained by ``fit``, which flushes denormals: in a deep plain one they take
    more time than the masks.
    """
    found = {}
    for layers in STACKS:
        build = on_device(partial(stack, layers), args.device)
        found[f"plain {layers}"] = fit_steps(build(no_gate))
        found[f"masked {layers}"] = fit_steps(build(beta_bernoulli))
    seconds = measure(found, args)
    few, many = STACKS

    def extra(kind: int) -> float:
        rounds = zip(*(seconds[name] for name in found), strict=True)
        more = [(m2[kind] - p2[kind]) - (m1[kind] - p1[kind]) for p1, m1, p2, m2 in rounds]
        return round(1e3 * statistics.median(more) / (many - few), 3)

    return {"milliseconds": extra(0), "cpu_milliseconds": extra(1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--slice-steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keys", nargs="*", help="Registered layers. [default: all]")
    parser.add_argument("--networks", nargs="*", default=["lenet-500-300", "lenet5-caffe"])
    parser.add_argument("--compiled", action="store_true", help="Have rows of torch.compile too.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    keys = [key for key in bd.nn.layers if key != "beta-bernoulli"]
    keys = keys if args.keys is None else args.keys
    networks = {
        "lenet-500-300": on_device(lenet_500_300, args.device),
        "lenet5-caffe": on_device(lenet5_caffe, args.device),
    }
    load = os.getloadavg()[0]

    def found(name: str) -> dict[str, Steps]:
        extra = compiled_variants(networks[name]) if args.compiled else {}
        return variants(networks[name], keys) | extra

    result = {
        "command": "python " + " ".join(sys.argv),
        "threads": args.threads,
        "device": args.device,
        "load_before": round(load, 2),
        "cores": os.cpu_count(),
        "batch_size": BATCH,
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "machine": platform.machine(),
        **{name: ratios(measure(found(name), args)) for name in args.networks},
        "one_more_masked_layer": layer_cost(args),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
