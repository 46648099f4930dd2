"""Heads and hidden units of a transformer on 8 x 8 digits, pruned by their posterior.

    python benchmarks/transformer_pruning.py --out benchmarks/results/transformer_pruning.json

The rows of an image are a sequence of 8. Two layers of ``nn.TransformerEncoder`` with 8 heads and
128 hidden units are trained plain, and with beta-Bernoulli masks on heads and hidden units alone;
then ``bd.compact`` cuts the masked one. Error and NLL are of the mean mask on the test set, the
difference is the largest between the outputs of the masked and of the compact network on it, and
FLOPs are those of one example. Latency is the median of interleaved passes without gradients, and
there are two plain rows: torch runs a whole encoder layer by one fused kernel where it can, which
it cannot where heads are missing.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import bayesdrop as bd
from bayesdrop.compression import compaction_report, count_flops, count_params, measure_latency

WIDTH, HEADS, HIDDEN, LAYERS = 64, 8, 128, 2
EPOCHS, BATCH, LEARNING_RATE, VARIATIONAL_LEARNING_RATE = 80, 50, 2e-3, 0.1
BATCH_SIZES = (1, 100)


class Digits(nn.Module):
    """A classifier of images by their rows."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, HIDDEN, dropout=0.0, batch_first=True, norm_first=False
        )
        self.embed = nn.Linear(8, WIDTH)
        self.position = nn.Parameter(0.02 * torch.randn(8, WIDTH))
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        h = self.embed(x.reshape(-1, 8, 8)) + self.position
        return self.head(self.encoder(h).mean(1))


def scores(network: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    with torch.no_grad():
        logits = network.eval()(x)
    error = 100 * (logits.argmax(1) != y).double().mean()
    return {"error": error.item(), "nll": F.cross_entropy(logits, y).item()}


def fused(on: bool) -> None:
    torch.backends.mha.set_fastpath_enabled(on)


def latency(networks: dict[str, nn.Module], x: Tensor) -> dict[str, dict[str, float]]:
    """Return the milliseconds of each network, by batch size; without torch's fused kernel too."""
    found: dict[str, dict[str, float]] = {name: {} for name in (*networks, "plain, not fused")}
    for size in BATCH_SIZES:
        options = {"example_input": x, "batch_size": size, "repeats": 100}
        times = measure_latency(*networks.values(), **options)
        for name, value in zip(networks, times, strict=True):
            found[name][str(size)] = value
        fused(False)
        (found["plain, not fused"][str(size)],) = measure_latency(networks["plain"], **options)
        fused(True)
    return found


def run(seed: int) -> dict:
    """Train and measure the networks of one seed."""
    data = bd.load_data("digits")
    (x, _), (x_test, y_test) = data.train, data.test
    torch.manual_seed(seed)
    plain = Digits()
    masked = bd.convert(plain, select="encoder", trained=False)
    started = time.process_time()
    results: dict = {"seed": seed}
    options = {"epochs": EPOCHS, "batch_size": BATCH, "seed": seed}
    options |= {"learning_rate": LEARNING_RATE, "progress": False}
    options |= {"variational_learning_rate": VARIATIONAL_LEARNING_RATE}
    for network in (plain, masked):
        bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=len(x))
        bd.fit(bnn, data.train, **options)
    results["plain"] = scores(plain, x_test, y_test)
    results["masked"] = scores(masked, x_test, y_test)
    small = bd.compact(masked, x[:2])
    with torch.no_grad():
        difference = (small(x_test) - masked(x_test)).abs().max().item()
    results["masked"]["difference"] = difference
    results["kept"] = {c.units: [c.kept, c.total] for c in compaction_report(small).cuts}
    for name, network in (("plain", plain), ("masked", small)):
        results[name]["params"] = count_params(network)
        results[name]["flops"] = count_flops(network, x[:1])
    results["latency"] = latency({"plain": plain, "compact": small}, x)
    results["cpu_seconds"] = time.process_time() - started
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = []
    for seed in options.seeds:
        runs.append(run(seed))
        print(json.dumps(runs[-1]), flush=True)
    settings = {"epochs": EPOCHS, "batch_size": BATCH, "lr": LEARNING_RATE, "threads": 1}
    settings |= {"variational_lr": VARIATIONAL_LEARNING_RATE}
    settings |= {"width": WIDTH, "heads": HEADS, "hidden": HIDDEN, "layers": LAYERS}
    if options.out:
        options.out.write_text(json.dumps({"settings": settings, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
