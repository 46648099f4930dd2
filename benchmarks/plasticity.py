"""Neural plasticity: the same objective from a large network and from a few units.

    python benchmarks/plasticity.py --network lenet-500-300 --start few --seeds 0 1 2 \
        --out benchmarks/results/plasticity.json

and the same with ``--start large``, ``--network lenet5-caffe`` and ``digits-mlp``, which takes
seconds. Three stages: dense (slope 5000, which is plain training), plastic (slope 7, DisARM), hard
(slope 5000 again). One price for each parameter that a gate governs, 0.1 nats of the whole data
set (the papers' 0.1 / N; 0.01 for the few digits), one rate schedule, 10,000 held-out images of
MNIST or 300 of digits. From few units the network grows in the first half of the plastic stage:
after an epoch with the lowest validation NLL so far, every layer with nine
tenths of its units kept gets some more (``bd.inference.growth.grow``), and the optimiser goes on.
Meanwhile gates learn at a seventh of their rate: under Adam that is the papers' slope 1, with the
scores seven times as large. (With all units kept as the condition, and the full rate, growth ended
at 50-40: one early unit that closes stops it for good.) The test set is looked at once, at the end
of a run.

Nothing was tuned for these rows but what ``benchmarks/choices.md`` says. A killed run continues
from its last epoch (``--work``); one thread.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import dataclasses
import math
import shlex
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from result_files import added, write
from torch import nn

import bayesdrop as bd
from bayesdrop.data import load_data
from bayesdrop.files import read_json
from bayesdrop.inference.growth import grow
from bayesdrop.inference.objectives import DisARM, Reinforce
from bayesdrop.reporting.costs import compact_figures

PLASTIC, STEEP = 7.0, 5000.0
GROWS = 0.5
"""Fraction of the plastic stage in which units come."""
CAUTION = 7.0
"""How much slower gates learn meanwhile."""
KEPT = 0.9
"""Fraction of a layer's units that must be kept for more to come."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A network's widths, what it grows by, and how it is trained."""

    large: tuple[int, ...]
    few: tuple[int, ...]
    more: tuple[int, ...]
    masks: tuple[str, ...]
    epochs: tuple[int, int, int]
    data: str = "mnist"
    held_out: int = 10_000
    price: float = 0.1
    gate_rate: float = 3e-3


_HIDDEN = ("fc2_dropout", "fc3_dropout")
SETTINGS = {
    "digits-mlp": Setting(
        (500, 300), (10, 10), (2, 2), _HIDDEN, (50, 240, 30), "digits", 300, 0.01, 1e-2
    ),
    "lenet-500-300": Setting((500, 300), (20, 20), (10, 10), _HIDDEN, (5, 25, 6)),
    "lenet5-caffe": Setting(
        (20, 50, 500),
        (3, 5, 20),
        (1, 2, 15),
        ("conv1_dropout", "conv2_dropout", "fc2_dropout"),
        (5, 40, 10),
    ),
}


def network(name: str, widths: tuple[int, ...], pixels: int) -> nn.Module:
    """The LeNet of these widths, with gates."""
    if name != "lenet5-caffe":
        first, second = widths
        layers: dict[str, nn.Module] = {
            "flatten": nn.Flatten(),
            "fc1": nn.Linear(pixels, first),
            "relu1": nn.ReLU(),
            "fc2": nn.Linear(first, second),
            "relu2": nn.ReLU(),
            "fc3": nn.Linear(second, 10),
        }
    else:
        maps, more, dense = widths
        layers = {
            "conv1": nn.Conv2d(1, maps, 5),
            "relu1": nn.ReLU(),
            "pool1": nn.MaxPool2d(2),
            "conv2": nn.Conv2d(maps, more, 5),
            "relu2": nn.ReLU(),
            "pool2": nn.MaxPool2d(2),
            "flatten": nn.Flatten(),
            "fc1": nn.Linear(16 * more, dense),
            "relu3": nn.ReLU(),
            "fc2": nn.Linear(dense, 10),
        }
    plain = nn.Sequential(OrderedDict(layers))
    price = SETTINGS[name].price
    return bd.convert(plain, "neural-plasticity", trained=False, cost_per_parameter=price)


class Run:
    """One training, an epoch at a time, with all that a checkpoint holds."""

    def __init__(self, args: argparse.Namespace, seed: int, path: Path) -> None:
        self.args, self.path, self.setting = args, path, SETTINGS[args.network]
        self.state: dict[str, Any] = {"epoch": 0, "lowest": math.inf, "cpu": 0.0, "history": []}
        saved = torch.load(path, weights_only=True) if path.exists() else None
        torch.manual_seed(seed)
        widths = self.setting.large if args.start == "large" else self.setting.few
        self.widths = tuple(saved["widths"]) if saved else widths
        self.splits = load_data(
            self.setting.data, data_dir=args.data_dir, validation=self.setting.held_out
        )
        pixels = math.prod(self.splits.image_shape)
        net = network(args.network, self.widths, pixels)
        self.bnn = bd.BayesianNetwork(net, bd.Categorical(), len(self.splits.train[1]))
        self.bnn(self.splits.train[0][:2])
        gates = [p for n, p in self.bnn.named_parameters() if n.endswith("scores")]
        weights = [p for n, p in self.bnn.named_parameters() if not n.endswith("scores")]
        groups = [{"params": weights, "lr": args.rate}, {"params": gates, "lr": args.gate_rate}]
        self.optimizer = torch.optim.Adam(groups, fused=True)
        if saved:
            self.bnn.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            torch.set_rng_state(saved["random"])
            self.state = saved["state"]

    def epoch(self) -> None:
        """Train one epoch, grow, and write the checkpoint."""
        started = time.process_time()
        dense, plastic, hard = self.args.epochs
        epoch = self.state["epoch"]
        is_plastic = dense <= epoch < dense + plastic
        growing = is_plastic and epoch < dense + GROWS * plastic and self.args.start == "few"
        factor = 0.1 if epoch >= dense + plastic + hard // 2 else 1.0
        gate_rate = self.args.gate_rate / CAUTION if growing else self.args.gate_rate
        for group, rate in zip(
            self.optimizer.param_groups, (self.args.rate, gate_rate), strict=True
        ):
            group["initial_lr"] = rate * factor
        record = bd.fit(
            self.bnn,
            self.splits.train,
            epochs=1,
            validation=self.splits.validation,
            optimizer=self.optimizer,
            schedule=(),
            objective=DisARM() if is_plastic else Reinforce("examples"),
            buffers={"slope": PLASTIC if is_plastic else STEEP},
            progress=False,
        ).history[0]
        best = record["val_nll"] < self.state["lowest"]
        if is_plastic:
            self.state["lowest"] = min(self.state["lowest"], record["val_nll"])
        if growing and best:
            self._grow()
        keep = ("epoch", "loss", "nll", "kl", "units", "val_nll", "val_error")
        row = {key: record[key] for key in keep} | {"epoch": epoch + 1, "total": self.widths}
        self.state["history"].append(row)
        self.state["epoch"] += 1
        self.state["cpu"] += time.process_time() - started
        self.save()
        print(self.args.network, self.args.start, row, flush=True)

    def _grow(self) -> None:
        layers = dict(self.bnn.named_dropout_layers())
        full = [bool(layers[name].kept().double().mean() >= KEPT) for name in self.setting.masks]
        more = [n if is_full else 0 for n, is_full in zip(self.setting.more, full, strict=True)]
        asked = {name: n for name, n in zip(self.setting.masks, more, strict=True) if n}
        if asked:
            grow(self.bnn, asked, optimizer=self.optimizer)
        self.widths = tuple(width + n for width, n in zip(self.widths, more, strict=True))

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        torch.save(
            {
                "widths": list(self.widths),
                "model": self.bnn.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "random": torch.get_rng_state(),
                "state": self.state,
            },
            part,
        )
        part.replace(self.path)

    def row(self, seed: int) -> dict[str, Any]:
        """Return what the run has come to, on the test set."""
        x, y = self.splits.test
        self.bnn.eval()
        size, small = compact_figures(self.bnn, x[:1000])
        assert small is not None
        evaluation = bd.evaluate(self.bnn, (x, y), sample=False)
        return {
            "network": self.args.network,
            "start": self.args.start,
            "seed": seed,
            "epochs": list(self.args.epochs),
            "rates": [self.args.rate, self.args.gate_rate],
            "price": self.setting.price,
            "units": self.bnn.units(),
            "units_total": self.bnn.units_total(),
            "error": evaluation.error,
            "nll": evaluation.nll,
            "params": size.params,
            "flops": size.flops,
            "cpu_minutes": self.state["cpu"] / 60,
            "every_tenth_epoch": [
                [record["units"], round(record["val_nll"], 4)]
                for record in self.state["history"][9::10]
            ],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=list(SETTINGS), default="lenet-500-300")
    parser.add_argument("--start", choices=["large", "few"], default="large")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, nargs=3, help="dense, plastic, hard")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--gate-rate", type=float)
    parser.add_argument("--data-dir")
    parser.add_argument("--work", type=Path, default=Path("runs/plasticity"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.epochs = tuple(args.epochs or SETTINGS[args.network].epochs)
    args.gate_rate = args.gate_rate or SETTINGS[args.network].gate_rate
    torch.set_num_threads(1)
    for seed in args.seeds:
        name = "-".join(map(str, (args.network, args.start, *args.epochs, args.gate_rate, seed)))
        run = Run(args, seed, args.work / f"{name}.pt")
        while run.state["epoch"] < sum(args.epochs):
            run.epoch()
        row = run.row(seed) | {"command": shlex.join(["python", *sys.argv])}
        earlier = read_json(args.out)["runs"] if args.out.exists() else []
        keys = ("network", "start", "epochs", "rates", "seed")
        result = {"torch": torch.__version__, "bayesdrop": bd.__version__}
        write({**result, "runs": added(earlier, [row], keys)}, args.out)


if __name__ == "__main__":
    main()
