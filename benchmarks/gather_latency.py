"""Latency of LeNet-500-300 with input-dependent masks, dense and gathered, against plain.

    python benchmarks/gather_latency.py [--run runs/lenet-500-300-dbb] [--rounds 300]

The networks: plain; compact with fixed masks (``compact_bb``); compact with input-dependent masks,
computed for all units that are open for some input (``compact_dbb``); and the same network that
gathers the open units of the input at hand (``gather_dbb``, ``compact(..., per_input=True)``).
With ``--run``, a folder of ``bayesdrop train lenet-500-300-dbb``, the input-dependent masks and
the images are its own, and ``compact_bb`` has its units that are open for some input. Without,
masks are made up so that 264-140-65 units are open for some input and about 100-36-34 for one,
the published averages, chosen at random: inputs are noise.

One process and one thread; in every round each network runs once on the same input, in random
order; a ratio is the median over rounds of (network / plain of the same round). A batch of one is
another image in every round. The time of a Python call of a small network is mostly overhead,
about the same for every operation: the gather has the most operations and the fewest FLOPs.
"""

import argparse
import copy
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Before torch is imported: busy-waiting threads make a step up to ten times slower under load.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import torch
from torch import Tensor, nn

import bayesdrop as bd

RESULT = Path(__file__).parent / "results" / "gather_latency.json"
STATIC, DYNAMIC = (264, 140, 65), (100, 36, 34)
LAYERS = ("fc1_dropout", "fc2_dropout", "fc3_dropout")


def synthetic(num_inputs: int) -> tuple[nn.Module, Tensor]:
    """Return LeNet-500-300 with gates of the published sparsity, and noise."""
    net = bd.to_dependent(bd.convert(bd.networks.lenet_500_300())).eval()
    x = torch.rand(num_inputs, 784)
    for linear in (net.fc1, net.fc2):
        nn.init.ones_(linear.bias)  # no ReLU at zero, where activations would be tied
    for name, static, dynamic in zip(LAYERS, STATIC, DYNAMIC, strict=True):
        gate = net.get_submodule(name)
        gate.prune(torch.randperm(gate.num_units) >= static)

        def standardise(layer: nn.Module, inputs: tuple[Tensor], share: float) -> None:
            values = inputs[0]
            layer.running_mean.copy_(values.mean(0))
            layer.running_var.copy_(values.var(0))
            # A unit is open where its standardised activation is above its quantile.
            standard = (values - layer.running_mean) / (layer.running_var + 1e-5).sqrt()
            layer.shift_loc.data.copy_(-standard.quantile(1.0 - share, 0))

        hook = gate.register_forward_pre_hook(
            lambda layer, inputs, share=dynamic / static: standardise(layer, inputs, share)
        )
        with torch.no_grad():
            net(x)
        hook.remove()
    return net, x


def from_run(folder: Path, data_dir: Path | None, num_inputs: int) -> tuple[nn.Module, Tensor]:
    from bayesdrop.recipes import load_run

    run = load_run(folder)
    return run.bnn.network.eval(), run.load_data(data_dir).test[0][:num_inputs]


def with_fixed_masks(network: nn.Module) -> nn.Module:
    """Return the network with every gate open that is not closed for every input."""
    net = copy.deepcopy(network)
    for name in LAYERS:
        gate = net.get_submodule(name)
        fixed = bd.BetaBernoulliDropout(gate.num_units)
        fixed.location.data.fill_(3.0)
        fixed.location.data[~gate.kept()] = -9.0
        net.set_submodule(name, fixed)
    return net.eval()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="folder of a run with input-dependent masks")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--num-inputs", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULT)
    return parser.parse_args()


def measure(
    networks: dict[str, Callable[[Tensor], Tensor]], x: Tensor, batch_size: int, rounds: int
) -> dict[str, dict[str, float]]:
    times: dict[str, list[float]] = {name: [] for name in networks}
    warm_up = 10
    for turn in range(rounds + warm_up):
        start = turn * batch_size % (len(x) - batch_size + 1)
        rows = x[start : start + batch_size]
        for name in random.sample(list(networks), len(networks)):
            begun = time.perf_counter()
            networks[name](rows)
            times[name].append(time.perf_counter() - begun)
    kept = {name: values[warm_up:] for name, values in times.items()}
    return {
        name: {
            "ratio_to_plain": statistics.median(
                a / b for a, b in zip(values, kept["plain"], strict=True)
            ),
            "median_microseconds": 1e6 * statistics.median(values),
        }
        for name, values in kept.items()
    }


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    if options.run is None:
        dependent, x = synthetic(options.num_inputs)
    else:
        dependent, x = from_run(options.run, options.data_dir, options.num_inputs)
    networks = {
        "plain": bd.without_dropout(dependent).eval(),
        "compact_bb": bd.compact(with_fixed_masks(dependent), x[:2]),
        "compact_dbb": bd.compact(dependent, x[:2]),
        "gather_dbb": bd.compact(dependent, x[:2], per_input=True),
    }
    cost = bd.compression.measure_per_input(dependent, x)
    with torch.inference_mode():
        expected = dependent(x[:100])
        rows = torch.cat([networks["gather_dbb"](row) for row in x[:100].split(1)])
        difference = float((rows - expected).abs().max())
        latency = {
            f"batch_{size}": measure(networks, x, size, options.rounds) for size in (1, 100)
        }
    wins = {
        size: values["gather_dbb"]["ratio_to_plain"]
        < min(v["ratio_to_plain"] for k, v in values.items() if k != "gather_dbb")
        for size, values in latency.items()
    }
    result = {
        "command": "python " + " ".join(["benchmarks/gather_latency.py", *sys.argv[1:]]),
        "network": "LeNet-500-300"
        + (" with made-up masks" if options.run is None else ", trained on MNIST"),
        "units": {
            "open_for_some_input": [
                int(dependent.get_submodule(name).kept().sum()) for name in LAYERS
            ],
            "open_for_one_input": [cost.units[name] for name in LAYERS],
        },
        "flops": {
            "plain": cost.flops_total,
            **{
                name: bd.compression.count_flops(net, x[:1])
                for name, net in networks.items()
                if "_" in name
            },
            "gather_dbb": cost.flops_needed,
            "as_published": cost.flops,
        },
        "largest_difference_of_outputs": difference,
        "latency": latency,
        "gather_is_fastest": wins,
        "rounds": options.rounds,
        "seed": 0,
        "threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ["OMP_WAIT_POLICY"],
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
