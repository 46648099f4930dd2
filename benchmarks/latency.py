"""Measured time of compact networks, and of eight posterior members, beside their FLOPs.

    python benchmarks/latency.py [--threads 1] [--repeats 100]

Two networks whose units are set by hand to numbers that trained ones have: LeNet-500-300 with
241-136-63 of 784-500-300 (the published ones), LeNet5-Caffe with 16-32-137-68 of 20-50-800-500
(seed 0 of ``lenet5-caffe-bb``). Which units stay is random, weights are not trained: neither
matters for the time. The full network, its compact network and one network of eight members of the
posterior run eagerly, by ``torch.compile`` and by ONNX Runtime, in batches of 1, 100 and 1000. One
process; for each way and size the networks take turns; figures are medians, of wall time and of
CPU time. LeNet5-Caffe is also measured in channels last. The units that are left are nearly always
open, so that the members have nearly the same ones.
"""

import argparse
import json
import os
import platform
import random
import sys
from pathlib import Path

# Before torch is imported: busy-waiting threads make a step up to ten times slower under load.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import torch
from torch import Tensor, nn

import bayesdrop as bd

RESULT = Path(__file__).parent / "results" / "latency.json"
MEMBERS = 8
NETWORKS = {
    "lenet-500-300": ((784,), (241, 136, 63)),
    "lenet5-caffe": ((1, 28, 28), (16, 32, 137, 68)),
}
CHANNELS_LAST = ("lenet5-caffe",)
"""Networks that are also measured in that order of elements in memory."""


def pruned(name: str, kept: tuple[int, ...]) -> bd.BayesianNetwork:
    """Return a network whose layers keep these numbers of units, at random."""
    network = bd.convert(bd.networks.build(name))
    bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=60_000).eval()
    for (_, layer), units in zip(bnn.named_dropout_layers(), kept, strict=True):
        concentration = torch.full((layer.num_units,), 1e-4)
        concentration[torch.randperm(layer.num_units)[:units]] = 50.0
        layer.set_posterior(concentration)
    return bnn


def measure(before: nn.Module, after: nn.Module, x: Tensor, repeats: int) -> dict:
    table = bd.compression.compare_latency(before, after, x, repeats=repeats)
    return {
        "flops_speedup": table.flops_speedup,
        "milliseconds": {
            way: {
                f"batch_{row.batch_size}": {
                    "wall": [row.before, row.after],
                    "cpu": [row.before_cpu, row.after_cpu],
                }
                for row in table.rows
                if row.way == way
            }
            for way in dict.fromkeys(row.way for row in table.rows)
        },
        "left_out": table.left_out,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    random.seed(0)
    result = {
        "command": "python " + " ".join(["benchmarks/latency.py", *sys.argv[1:]]),
        "members": MEMBERS,
        "repeats": options.repeats,
        "seed": 0,
        "threads": options.threads,
        "omp_wait_policy": os.environ["OMP_WAIT_POLICY"],
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "networks": {},
    }
    orders = [(name, torch.contiguous_format) for name in NETWORKS]
    orders += [(name, torch.channels_last) for name in CHANNELS_LAST]
    for name, order in orders:
        torch.manual_seed(0)  # the same units in either order
        shape, kept = NETWORKS[name]
        bnn, x = pruned(name, kept).to(memory_format=order), torch.rand(1000, *shape)
        together = bd.compact(bnn, x[:2], members=MEMBERS, seed=0)
        title = f"{name} in channels last" if order == torch.channels_last else name
        result["networks"][title] = {
            "units": list(kept),
            "compact": measure(bnn, bd.compact(bnn, x[:2]), x, options.repeats),
            "members": measure(bnn, together, x, options.repeats),
        }
        result["load_average_after"] = os.getloadavg()[0]
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
