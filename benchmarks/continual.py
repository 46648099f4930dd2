r"""One task after another: split MNIST, and what is left of the first tasks after the last.

    BAYESDROP_DATA=... python benchmarks/continual.py choose
    BAYESDROP_DATA=... python benchmarks/continual.py test

Five tasks of two digits each (0 or 1, 2 or 3, ...), seen one after another, with a head of two
outputs for each and two hidden layers of 100 units that all share (Zenke, Poole, Ganguli, 2017;
Nguyen et al., 2018, whose layers have 256). No data are kept. ``fine-tuning`` goes on from the
weights of the task before, ``joint`` has all tasks at once and is no continual learning. The
others have Gaussian weights (prior N(0, 0.7^2), a variance of e^-6 at the start) whose posterior
is the next task's prior (``bd.update_prior``): ``vcl`` alone, the rest with masks behind both
ReLUs, whose posteriors are carried on too. Kessler et al. (2021) mask the same places, with 200 to
1,000 epochs a task and weights pretrained on the first.

``choose`` runs each method once with every setting, the same for all, and looks at validation
images only; ``test`` runs the best of each with three seeds, and the test images once. Rows that
are in the file are not run again. Figures are those of 20 draws from the posterior. ``accuracy``
has a row for each task learned, with the accuracy on every task so far; ``forgetting`` is, over
all tasks but the last, the mean fall from the accuracy just after a task to that at the end.
``expected`` units are the sum of the keep probabilities, ``kept`` those above the threshold.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
import warnings
from pathlib import Path

import torch
from result_files import added, write
from torch import Tensor, nn

import bayesdrop as bd
from bayesdrop.errors import TruncationWarning

OUT = Path(__file__).parent / "results" / "continual-mnist.json"
TASKS = [f"mnist:{first}-{first + 1}" for first in range(0, 10, 2)]
WIDTH, PRIOR_SCALE, INIT_LOG_VARIANCE, SAMPLES = 100, 0.7, -6.0, 20
SEEDS = (0, 1, 2)
METHODS: dict[str, dict | None] = {
    "fine-tuning": None,
    "joint": None,
    "vcl": {},
    "beta-bernoulli": {},
    "indian-buffet": {"concentration": 10.0},
    "hierarchical-indian-buffet": {"concentration": 10.0},
}
"""Options of the masks; None for plain weights."""
SETTINGS = [
    {"learning_rate": rate, "epochs": epochs} for rate in (1e-3, 3e-3) for epochs in (3, 10)
]
Data = dict[str, tuple[Tensor, Tensor]]


def load(name: str) -> Data:
    """Return a task's parts as vectors of pixels and a constant, which is the bias."""
    splits = bd.load_data(name, validation=6000)
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    return {part: (with_constant(x.flatten(1)), y) for part, (x, y) in parts.items()}


def with_constant(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones(len(x), 1)], 1)


def linear(inputs: int, outputs: int, *, random: bool) -> nn.Module:
    plain = nn.Linear(inputs, outputs, bias=False)
    if not random:
        return plain
    options = {"prior_scale": PRIOR_SCALE, "init_log_variance": INIT_LOG_VARIANCE}
    return bd.nn.make("gaussian-weights", plain, **options)


def shared_layers(method: str) -> nn.Sequential:
    """Return the two hidden layers, with the method's masks behind their ReLUs."""
    options, masks = METHODS[method], []
    if method in bd.nn.layers:
        masks = [bd.nn.make(method, WIDTH, **(options or {})) for _ in range(2)]
        type(masks[0]).share(masks)
    layers: list[nn.Module] = []
    for index, inputs in enumerate((785, WIDTH)):
        layers += [linear(inputs, WIDTH, random=options is not None), nn.ReLU()]
        layers += masks[index : index + 1]
    return nn.Sequential(*layers)


class Joint(nn.Module):
    """All tasks at once: the last column of the input says which head's outputs are wanted."""

    def __init__(self, shared: nn.Module, heads: list[nn.Module]) -> None:
        super().__init__()
        self.shared, self.heads = shared, nn.ModuleList(heads)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of each example's head."""
        features, task = self.shared(x[:, :-1]), x[:, -1].long()
        outputs = torch.stack([head(features) for head in self.heads], 1)
        return outputs[torch.arange(len(x)), task]


def joined(tasks: list[Data]) -> tuple[Tensor, Tensor]:
    """Return the training data of all tasks, with their number as a last column."""
    parts = [data["train"] for data in tasks]
    columns = [torch.full((len(x), 1), float(task)) for task, (x, _) in enumerate(parts)]
    x = torch.cat([torch.cat([x, c], 1) for (x, _), c in zip(parts, columns, strict=True)])
    return x, torch.cat([y for _, y in parts])


def accuracy(network: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    x, y = data
    bnn = bd.BayesianNetwork(network, bd.Categorical(), len(x)).eval()
    found = bd.predict(bnn, x, num_samples=SAMPLES).mean.argmax(-1)
    return round(float((found == y).double().mean()), 4)


@torch.no_grad()
def units(shared: nn.Module) -> list[dict]:
    """Return what each mask keeps, and whether the posterior has filled its truncation."""
    found = []
    for _, layer in bd.nn.named_dropout_layers(shared):
        keep = layer.keep_prob()
        found.append({"expected": round(float(keep.sum()), 1), "kept": int(layer.kept().sum())})
    return found


def train(
    network: nn.Module, data: tuple[Tensor, Tensor], seed: int, setting: dict
) -> bd.BayesianNetwork:
    bnn = bd.BayesianNetwork(network, bd.Categorical(), len(data[0]))
    bd.fit(bnn, data, batch_size=128, schedule=(), seed=seed, progress=False, **setting)
    return bnn


def run(method: str, setting: dict, seed: int, tasks: list[Data], part: str) -> dict:
    """Learn all tasks, and return the accuracies after each."""
    started = time.process_time()
    torch.manual_seed(seed)
    random = METHODS[method] is not None
    shared = shared_layers(method)
    heads = [linear(WIDTH, 2, random=random) for _ in tasks]
    networks = [nn.Sequential(shared, head) for head in heads]
    found: dict = {"method": method, "seed": seed, "part": part, **setting}
    rows, sizes = [], []
    if method == "joint":
        train(Joint(shared, heads), joined(tasks), seed, setting)
        rows = [[accuracy(n, d[part]) for n, d in zip(networks, tasks, strict=True)]]
    else:
        for index, data in enumerate(tasks):
            bnn = train(networks[index], data["train"], seed, setting)
            if random:
                bd.update_prior(bnn)
            seen = zip(networks[: index + 1], tasks, strict=False)
            rows.append([accuracy(network, data[part]) for network, data in seen])
            sizes.append(units(shared))
    last = rows[-1]
    falls = [rows[task][task] - last[task] for task in range(len(rows) - 1)]
    found |= {"accuracy": rows, "average": round(sum(last) / len(last), 4)}
    found |= {"forgetting": round(sum(falls) / len(falls), 4)} if falls else {}
    found |= {"units": sizes} if any(sizes) else {}
    return found | {"cpu_seconds": round(time.process_time() - started, 1)}


def best_setting(method: str, runs: list[dict]) -> dict:
    """Return the setting of the best average on validation images."""
    tried = [run for run in runs if run["method"] == method and run["part"] == "validation"]
    if len(tried) < len(SETTINGS):
        raise SystemExit(f"{method}: {len(tried)} of {len(SETTINGS)} settings; run 'choose' first")
    best = max(tried, key=lambda run: run["average"])
    return {name: best[name] for name in SETTINGS[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("choose", "test"))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", TruncationWarning)  # the rows say what is kept
    tasks = [load(name) for name in TASKS]
    runs = json.loads(args.out.read_text())["runs"] if args.out.exists() else []
    names = ["method", "seed", "part", *SETTINGS[0]]
    head = {"command": shlex.join(["python", *sys.argv]), "torch": torch.__version__}
    head |= {"bayesdrop": bd.__version__, "threads": 1, "tasks": TASKS, "width": WIDTH}
    head |= {"prior_scale": PRIOR_SCALE, "init_log_variance": INIT_LOG_VARIANCE}
    for method in args.methods:
        choosing = args.what == "choose"
        settings = SETTINGS if choosing else [best_setting(method, runs)]
        part = "validation" if choosing else "test"
        for setting in settings:
            for seed in SEEDS[:1] if choosing else args.seeds:
                row = {"method": method, "seed": seed, "part": part, **setting}
                if any(all(old[name] == row[name] for name in names) for old in runs):
                    continue
                found = run(method, setting, seed, tasks, part)
                print({k: v for k, v in found.items() if k != "accuracy"}, flush=True)
                runs = added(runs, [found], names)
                write({**head, "runs": runs}, args.out)


if __name__ == "__main__":
    main()
