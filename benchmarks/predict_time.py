"""Time of Monte Carlo prediction, and of one pass with the mean masks, against plain passes.

    python benchmarks/predict_time.py [--threads 2] [--rounds 5]

One process; in every round each method runs once, in random order; a ratio is the median over
rounds of (method / plain passes of the same round), in seconds and in CPU seconds, which suffer
less from other jobs. Three networks: LeNet-500-300 whose units are kept with probability 1/2, the
same with 241-136-63 units alive (each nearly always open) and all others closed, and LeNet5-Caffe
at 1/2. ``predict`` computes open units; ``ordinary`` is the same call for a network with a hook
that does nothing, which makes it run as it is: the way before. Stock ``Predictive`` keeps the
trace of every sample, so it gets a share of the samples and its time is scaled up; the JSON says
by how much. It runs the model once more than there are samples, to learn the shapes, which the
factor respects. The passes with mean masks are ``bnn(x)`` in evaluation mode.
"""

import argparse
import json
import os
import platform
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Before torch is imported: busy-waiting threads make a step up to ten times slower under load.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import torch
from pyro.infer import Predictive
from torch import Tensor, nn

import bayesdrop as bd

WIDTHS = (784, 500, 300, 10)
LIVE = (241, 136, 63)
RESULT = Path(__file__).parent / "results" / "predict_time.json"
CLOCKS = {"seconds": time.perf_counter, "cpu_seconds": time.process_time}
Times = dict[str, dict[str, list[float]]]


def halves(bnn: bd.BayesianNetwork) -> bd.BayesianNetwork:
    """Set all keep probabilities to about one half, uniform between 0 and 1."""
    for _, layer in bnn.named_dropout_layers():
        layer.set_posterior(1.0, 1.0)
    return bnn.eval()


def make_network(live: tuple[int, ...] | None = None) -> bd.BayesianNetwork:
    layers: list[nn.Module] = []
    for width, next_width in zip(WIDTHS[:-1], WIDTHS[1:], strict=True):
        layers += [bd.BetaBernoulliDropout(width), nn.Linear(width, next_width), nn.ReLU()]
    bnn = bd.BayesianNetwork(nn.Sequential(*layers[:-1]), bd.Categorical(), num_data=60_000)
    halves(bnn)
    for (_, layer), units in zip(bnn.named_dropout_layers(), live or (), strict=False):
        concentration = torch.full((layer.num_units,), 1e-4)
        concentration[torch.randperm(layer.num_units)[:units]] = 50.0
        layer.set_posterior(concentration)
    return bnn


def make_lenet5() -> bd.BayesianNetwork:
    net = bd.convert(bd.networks.lenet5_caffe())
    return halves(bd.BayesianNetwork(net, bd.Categorical(), num_data=60_000))


def passes(network: Callable[[Tensor], Tensor], x: Tensor, num_samples: int, rows: int) -> None:
    with torch.no_grad():
        for chunk in x.split(rows):
            for _ in range(num_samples):
                network(chunk)


def ordinary(bnn: bd.BayesianNetwork, x: Tensor, num_samples: int) -> None:
    handle = bnn.network.register_forward_hook(lambda *_: None)
    bd.predict(bnn, x, num_samples=num_samples)
    handle.remove()


def stock_predictive(bnn: bd.BayesianNetwork, x: Tensor, num_samples: int) -> None:
    bnn.eval()
    sampler = Predictive(
        bnn.model, guide=bnn.guide, num_samples=num_samples, return_sites=("obs",)
    )
    with torch.no_grad():
        sampler(x)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num-samples", type=int, default=64)
    parser.add_argument("--num-inputs", type=int, default=10_000)
    parser.add_argument("--lenet5-inputs", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=1000, help="rows of a plain pass")
    parser.add_argument("--stock-samples", type=int, default=8)
    parser.add_argument("--single-passes", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULT)
    return parser.parse_args()


Method = tuple[Callable[[int], object], int, float]
"""What runs for a number of samples, that number, and the factor on its time."""


def methods_of(name: str, options: argparse.Namespace) -> dict[str, Method]:
    """Return the ways to predict with one of the networks."""
    if name == "lenet5-caffe, keep 1/2":
        bnn, x = make_lenet5(), torch.rand(options.lenet5_inputs, 1, 28, 28)
    else:
        bnn = make_network(LIVE if "live" in name else None)
        x = torch.rand(options.num_inputs, WIDTHS[0])
    plain = bd.without_dropout(bnn).eval()
    count = options.num_samples
    found: dict[str, Method] = {
        "plain_passes": (lambda n: passes(plain, x, n, options.rows), count, 1.0),
        "predict": (lambda n: bd.predict(bnn, x, num_samples=n), count, 1.0),
        "predict_moments_only": (
            lambda n: bd.predict(bnn, x, num_samples=n, keep_samples=False),
            count,
            1.0,
        ),
        "predict_ordinary": (lambda n: ordinary(bnn, x, n), count, 1.0),
    }
    if "live" in name:
        small = bd.compact(bnn, x[:2])
        found["compact_passes"] = (lambda n: passes(small, x, n, options.rows), count, 1.0)
    if name == "lenet-500-300, keep 1/2":
        factor = (options.num_samples + 1) / (options.stock_samples + 1)
        by_example = {"num_samples": count, "shared_by": "example"}
        found["predict_per_example"] = (lambda n: bd.predict(bnn, x, **by_example), count, 1.0)
        stock = (lambda n: stock_predictive(bnn, x, n), options.stock_samples, factor)
        found["stock_predictive"] = stock
    return found


NETWORKS = ("lenet-500-300, keep 1/2", "lenet-500-300, 241-136-63 live", "lenet5-caffe, keep 1/2")


def single_passes(options: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """Return the ratios of a pass with mean masks to a plain one, by network and batch size."""
    networks = {"lenet-500-300": make_network(), "lenet5-caffe": make_lenet5()}
    shapes = {"lenet-500-300": WIDTHS[:1], "lenet5-caffe": (1, 28, 28)}
    return {
        name: {
            f"batch_{size}": single_pass(bnn, torch.rand(size, *shapes[name]), options)
            for size in (1, 10, 100, 1000)
        }
        for name, bnn in networks.items()
    }


def single_pass(
    bnn: bd.BayesianNetwork, x: Tensor, options: argparse.Namespace
) -> dict[str, float]:
    plain = bd.without_dropout(bnn).eval()
    rounds = max(10, options.single_passes // max(1, len(x) // 10))
    times = in_turns({"plain": lambda n: plain(x), "mean": lambda n: bnn(x)}, rounds + 3)
    return {
        clock: statistics.median(
            a / b for a, b in zip(of["mean"][3:], of["plain"][3:], strict=True)
        )
        for clock, of in times.items()
    }


@torch.no_grad()
def in_turns(calls: dict[str, Callable[[int], object]], rounds: int) -> Times:
    times: Times = {clock: {name: [] for name in calls} for clock in CLOCKS}
    for _ in range(rounds):
        for name in random.sample(list(calls), len(calls)):
            start = {clock: now() for clock, now in CLOCKS.items()}
            calls[name](1)
            for clock, now in CLOCKS.items():
                times[clock][name].append(now() - start[clock])
    return times


def ratios(times: Times) -> dict[str, dict[str, object]]:
    each = {
        clock: {
            name: [a / b for a, b in zip(values, of["plain_passes"], strict=True)]
            for name, values in of.items()
        }
        for clock, of in times.items()
    }
    return {
        "median_seconds": {n: statistics.median(v) for n, v in times["seconds"].items()},
        "ratio_to_plain_passes": {
            clock: {name: statistics.median(values) for name, values in of.items()}
            for clock, of in each.items()
        },
        "ratio_range": {n: [min(v), max(v)] for n, v in each["seconds"].items()},
    }


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    random.seed(0)
    load = os.getloadavg()[0]
    result = {
        "command": "python " + " ".join(["benchmarks/predict_time.py", *sys.argv[1:]]),
        "num_samples": options.num_samples,
        "num_inputs": options.num_inputs,
        "lenet5_inputs": options.lenet5_inputs,
        "rows_of_a_plain_pass": options.rows,
        "stock_predictive_samples": options.stock_samples,
        "stock_predictive_scaled_by": (options.num_samples + 1) / (options.stock_samples + 1),
        "seed": 0,
        "rounds": options.rounds,
        "threads": options.threads,
        "omp_wait_policy": os.environ["OMP_WAIT_POLICY"],
        "load_average": load,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "networks": {},
        "single_pass": single_passes(options),
    }
    for name in NETWORKS:
        methods = methods_of(name, options)
        times: Times = {clock: {method: [] for method in methods} for clock in CLOCKS}
        for run, _, _ in methods.values():
            run(2)
        for number in range(options.rounds):
            for method in random.sample(list(methods), len(methods)):
                run, count, factor = methods[method]
                start = {clock: now() for clock, now in CLOCKS.items()}
                run(count)
                for clock, now in CLOCKS.items():
                    times[clock][method].append((now() - start[clock]) * factor)
            line = ", ".join(f"{m} {v[-1]:.1f} s" for m, v in times["seconds"].items())
            sys.stdout.write(f"{name}, round {number + 1}/{options.rounds}: {line}\n")
            sys.stdout.flush()
        result["networks"][name] = ratios(times)
        result["load_average_after"] = os.getloadavg()[0]
        result["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
