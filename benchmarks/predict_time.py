"""Time of Monte Carlo prediction against as many plain passes and stock ``Predictive``.

    python benchmarks/predict_time.py [--threads 2] [--rounds 5]

One process; in every round each method runs once, in random order; a ratio is the median over
rounds of (method / plain passes of the same round), in seconds and in CPU seconds, which suffer
less from other jobs. Stock ``Predictive`` keeps the trace of every sample, so it gets a share of
the samples and its time is scaled up; the JSON says by how much. It runs the model once more than
there are samples, to learn the shapes, which the factor respects.
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
RESULT = Path(__file__).parent / "results" / "predict_time.json"


def make_network() -> bd.BayesianNetwork:
    layers: list[nn.Module] = []
    for width, next_width in zip(WIDTHS[:-1], WIDTHS[1:], strict=True):
        # Keep probabilities of about one half, as in a trained network.
        dropout = bd.BetaBernoulliDropout(width, init_concentration1=1.0, init_concentration0=1.0)
        layers += [dropout, nn.Linear(width, next_width), nn.ReLU()]
    return bd.BayesianNetwork(nn.Sequential(*layers[:-1]), bd.Categorical(), num_data=60_000)


def plain_passes(bnn: bd.BayesianNetwork, x: Tensor, num_samples: int, rows: int) -> None:
    layers = [layer for layer in bnn.network if not isinstance(layer, bd.BayesianDropout)]
    network = nn.Sequential(*layers)
    with torch.no_grad():
        for chunk in x.split(rows):
            for _ in range(num_samples):
                network(chunk)


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
    parser.add_argument("--rows", type=int, default=1000, help="rows of a plain pass")
    parser.add_argument("--stock-samples", type=int, default=8)
    parser.add_argument("--out", type=Path, default=RESULT)
    return parser.parse_args()


def stock_factor(options: argparse.Namespace) -> float:
    return (options.num_samples + 1) / (options.stock_samples + 1)


def summary(options: argparse.Namespace, times: dict[str, dict[str, list[float]]]) -> dict:
    medians = {
        clock: {name: statistics.median(values) for name, values in by_name.items()}
        for clock, by_name in times.items()
    }
    ratios = {
        clock: {
            name: [a / b for a, b in zip(values, by_name["plain_passes"], strict=True)]
            for name, values in by_name.items()
        }
        for clock, by_name in times.items()
    }
    return {
        "command": "python " + " ".join(["benchmarks/predict_time.py", *sys.argv[1:]]),
        "network": "LeNet-500-300 with beta-Bernoulli dropout before every Linear",
        "num_samples": options.num_samples,
        "num_inputs": options.num_inputs,
        "rows_of_a_plain_pass": options.rows,
        "stock_predictive_samples": options.stock_samples,
        "stock_predictive_scaled_by": stock_factor(options),
        "seed": 0,
        "rounds": len(times["seconds"]["plain_passes"]),
        "threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ["OMP_WAIT_POLICY"],
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "median": medians,
        "ratio_to_plain_passes": {
            clock: {name: statistics.median(values) for name, values in by_name.items()}
            for clock, by_name in ratios.items()
        },
        "ratio_range": {
            name: [min(values), max(values)] for name, values in ratios["seconds"].items()
        },
    }


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    random.seed(0)
    bnn = make_network()
    x = torch.rand(options.num_inputs, WIDTHS[0])
    count = options.num_samples
    methods: dict[str, Callable[[int], object]] = {
        "plain_passes": lambda n: plain_passes(bnn, x, n, options.rows),
        "predict_shared": lambda n: bd.predict(bnn, x, num_samples=n),
        "predict_shared_moments_only": lambda n: bd.predict(
            bnn, x, num_samples=n, keep_samples=False
        ),
        "predict_per_example": lambda n: bd.predict(bnn, x, num_samples=n, shared_by="example"),
        "stock_predictive": lambda n: stock_predictive(bnn, x, n),
    }
    samples = dict.fromkeys(methods, count) | {"stock_predictive": options.stock_samples}
    for run in methods.values():
        run(2)
    factor = dict.fromkeys(methods, 1.0)
    factor["stock_predictive"] = stock_factor(options)
    clocks = {"seconds": time.perf_counter, "cpu_seconds": time.process_time}
    times: dict[str, dict[str, list[float]]] = {
        clock: {name: [] for name in methods} for clock in clocks
    }
    for number in range(options.rounds):
        for name in random.sample(list(methods), len(methods)):
            start = {clock: now() for clock, now in clocks.items()}
            methods[name](samples[name])
            for clock, now in clocks.items():
                times[clock][name].append((now() - start[clock]) * factor[name])
        line = ", ".join(f"{name} {value[-1]:.1f} s" for name, value in times["seconds"].items())
        sys.stdout.write(f"round {number + 1}/{options.rounds}: {line}\n")
        sys.stdout.flush()
        # After every round, so that an interrupted run keeps what it has.
        result = summary(options, times)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    sys.stdout.write(json.dumps(result["ratio_to_plain_passes"], indent=2) + "\n")


if __name__ == "__main__":
    main()
