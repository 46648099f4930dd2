"""How the cost of masks grows: the ratio of a step to that in plain torch (fused Adam).

    python benchmarks/growth.py --threads 1 --out benchmarks/results/growth.json

Masks are beta-Bernoulli, trained by ``fit``; beside them the same network without masks. Both take
turns, a slice of steps at a time, in one process; a figure is the median over rounds of the ratio
in the same round, in wall time and in the process's CPU time. One table each for the units of a
layer, the number of layers, the size of a batch, masks of an example, units that have left
(``compact_every``), and networks of other kinds. ``--device cuda`` runs all on a GPU, ``--quick``
one size of each to see that it runs, ``--tables`` those whose titles begin so, beside what is in
the file. Denormal floats are zero for both, as ``fit`` has it: deep stacks without norms have
gradients of that size, and would be ten times slower in plain torch.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import random
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch
from result_files import write
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd
from bayesdrop.ops.stable import flushed_denormals

LIVE = (241, 142, 62)
"""Units that the recipe lenet-500-300-bb ends with on MNIST (seed 0 in its results)."""

SLICE = 0.3
"""Seconds of a slice of plain steps, at most, but for one step."""

Network = Callable[[bool], nn.Module]
"""A network with masks or without."""


def stack(widths: list[int]) -> Network:
    """Dense layers, with a mask on the inputs of each."""

    def build(masked: bool) -> nn.Module:
        sizes, parts = [*widths, 10], [nn.Flatten()]
        for before, after in zip(sizes, sizes[1:], strict=False):
            gate = [bd.BetaBernoulliDropout(before)] if masked else []
            parts += [*gate, nn.Linear(before, after), nn.ReLU()]
        return nn.Sequential(*parts[:-1])

    return build


def converted(build: Callable[[], nn.Module]) -> Network:
    """A network that ``convert`` puts the masks into."""

    def both(masked: bool) -> nn.Module:
        network = build()
        return bd.convert(network, "beta-bernoulli") if masked else network

    return both


def resnet18() -> nn.Module:
    """ResNet-18 for 32 x 32 images: torchvision's, with a first convolution of stride 1."""
    from torchvision.models import resnet18 as build

    network = build(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


class Block(nn.Module):
    """A block of a vision transformer: attention of four heads, then a dense layer and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down, self.act = (
            nn.Linear(width, 2 * width),
            nn.Linear(2 * width, width),
            nn.GELU(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the tokens with what attention and the dense layers add to them."""
        y = self.before(x)
        q, k, v = (
            f(y).unflatten(-1, (4, -1)).transpose(1, 2) for f in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        return x + self.down(self.act(self.up(self.after(x))))


class ViT(nn.Module):
    """A small vision transformer: patches of 4 x 4 of a 32 x 32 image, width 128, four blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 128, 4, stride=4)
        self.place = nn.Parameter(0.02 * torch.randn(64, 128))
        self.blocks = nn.Sequential(*(Block(128) for _ in range(4)))
        self.head = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of images."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.blocks(tokens).mean(1))


MLP = [784, 500, 300]


def cases(quick: bool) -> dict[str, dict[str, tuple]]:
    """Return table and row to network, shape of an example, batch, masks of an example, left."""
    units = (500, 5_000, 50_000)
    layers = (3, 9, 33, 129)
    sizes = (10, 100, 1_000, 10_000)
    masks = (1, 4, 16)
    found = {
        "units of a layer (64-K-10)": {
            f"{k:,}": (stack([64, k]), (64,), 100, 1, None) for k in units
        },
        "layers of 100 units": {
            f"{n}": (stack([100] * n), (100,), 100, 1, None) for n in layers
        },
        "batch, LeNet-500-300": {f"{b:,}": (stack(MLP), (784,), b, 1, None) for b in sizes},
        "masks of an example, LeNet-500-300": {
            f"{m}": (stack(MLP), (784,), 100, m, None) for m in masks
        },
        "units left, LeNet-500-300": {
            "784-500-300, nothing left": (stack(MLP), (784,), 100, 1, None),
            "241-142-62, masked": (stack(MLP), (784,), 100, 1, False),
            "241-142-62, the others left": (stack(MLP), (784,), 100, 1, True),
        },
        "network": {
            "ResNet-18, 32 x 32, batch 8": (converted(resnet18), (3, 32, 32), 8, 1, None),
            "ViT 4 x 128, 32 x 32, batch 32": (converted(ViT), (3, 32, 32), 32, 1, None),
        },
    }  # fmt: skip
    if quick:
        found = {
            table: dict([next(iter(rows.items()))] if "left" not in table else rows.items())
            for table, rows in found.items()
            if table != "network"
        }
    return found


def prune(network: nn.Module) -> None:
    """Leave the first units of each mask, as many as a trained network has."""
    layers = [m for m in network.modules() if isinstance(m, bd.BayesianDropout)]
    for layer, live in zip(layers, LIVE, strict=True):
        kept = torch.arange(layer.num_units) < live
        layer.threshold = 0.01
        layer.set_posterior(torch.where(kept, 20.0, 1e-3))


class Plain:
    """Steps of a network without masks."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.train()
        self.optimizer = torch.optim.Adam(
            network.parameters(), lr=1e-3, weight_decay=1e-4, fused=True
        )

    def __call__(self, x: torch.Tensor, y: torch.Tensor, size: int) -> None:
        """Make the steps of an epoch."""
        for rows in torch.randperm(len(x)).split(size):
            self.optimizer.zero_grad()
            F.cross_entropy(self.network(x[rows]), y[rows]).backward()
            self.optimizer.step()


class Masked:
    """Steps of ``fit``: one run, which a callback measures, since units leave between epochs."""

    def __init__(self, network: nn.Module, masks: int, leave: bool | None) -> None:
        self.masks, self.leave = masks, leave
        self.bnn = bd.BayesianNetwork(network, bd.Categorical(), num_data=60_000)
        if leave is not None:
            prune(network)

    def seconds(self, x: torch.Tensor, y: torch.Tensor, size: int) -> tuple[float, float]:
        """Return wall and CPU seconds of the last epoch of a run of two."""
        self.bnn.num_data = len(x)
        marks: list[tuple[float, float]] = []

        def mark(bnn: object, record: object) -> None:
            marks.append((time.perf_counter(), time.process_time()))

        bd.fit(
            self.bnn,
            (x, y),
            epochs=2,
            batch_size=size,
            num_masks=self.masks,
            compact_every=1 if self.leave else None,
            callbacks=[mark],
            progress=False,
        )
        (wall, cpu), (wall_after, cpu_after) = marks
        return wall_after - wall, cpu_after - cpu


def measure(case: tuple, args: Namespace) -> dict[str, float]:
    """Return the milliseconds of a plain step, and the ratios of a masked one."""
    build, shape, size, masks, leave = case
    torch.manual_seed(0)
    plain = Plain(build(False).to(args.device))
    x = torch.rand(args.slice_steps * size, *shape, device=args.device)
    y = torch.randint(0, 10, (len(x),), device=args.device)
    started = time.process_time()
    plain(x[:size], y[:size], size)
    steps = max(1, min(args.slice_steps, int(SLICE / (time.process_time() - started))))
    x, y = x[: steps * size], y[: steps * size]
    masked = Masked(build(True).to(args.device), masks, leave)
    order, pairs, base = random.Random(0), [], []
    for index in range(args.rounds + 1):
        seconds: dict[str, tuple[float, float]] = {}
        for name in order.sample(["plain", "masked"], 2):
            if name == "masked":
                seconds[name] = masked.seconds(x, y, size)
                continue
            started, used = time.perf_counter(), time.process_time()
            with flushed_denormals():
                plain(x, y, size)
            if args.device != "cpu":
                torch.cuda.synchronize()
            seconds[name] = time.perf_counter() - started, time.process_time() - used
        if index:
            first, second = seconds["plain"], seconds["masked"]
            base.append(first[0] / steps)
            pairs.append((second[0] / first[0], second[1] / first[1]))
    wall, cpu = zip(*pairs, strict=True)
    return {
        "plain_ms": round(1e3 * statistics.median(base), 2),
        "ratio": round(statistics.median(wall), 2),
        "range": [round(min(wall), 2), round(max(wall), 2)],
        "cpu_ratio": round(statistics.median(cpu), 2),
        "cpu_range": [round(min(cpu), 2), round(max(cpu), 2)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slice-steps", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="One size of each, one round.")
    parser.add_argument("--tables", nargs="*", default=[""], help="Beginnings of titles.")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.rounds, args.slice_steps = (1, 2) if args.quick else (args.rounds, args.slice_steps)
    result = {"torch": torch.__version__, "cores": os.cpu_count(), "tables": {}}
    if args.out and args.out.exists():
        result = json.loads(args.out.read_text())
    for table, rows in cases(args.quick).items():
        if not table.startswith(tuple(args.tables)):
            continue
        run = {"command": "python " + " ".join(sys.argv), "threads": args.threads}
        run |= {"device": args.device, "load": round(os.getloadavg()[0], 1), "rows": {}}
        for name, case in rows.items():
            run["rows"][name] = measure(case, args)
            print(f"{table}: {name}: {run['rows'][name]}", flush=True)
            result["tables"][table] = run
            if args.out:
                write(result, args.out)


if __name__ == "__main__":
    main()
