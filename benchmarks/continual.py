r"""One task after another: split digits and split MNIST, and what is left of the first tasks.

    python benchmarks/continual.py digits choose
    python benchmarks/continual.py digits test
    BAYESDROP_DATA=... python benchmarks/continual.py mnist choose
    BAYESDROP_DATA=... python benchmarks/continual.py mnist test

Five tasks of two digits each (0 or 1, 2 or 3, ...), seen one after another, with a head of two
outputs for each and one hidden layer that all share (Zenke, Poole, Ganguli, 2017). No data are
kept. ``fine-tuning`` goes on from the weights of the task before, ``joint`` has all tasks at once
and is no continual learning. The others have Gaussian weights, whose posterior is the next task's
prior (``bd.update_prior``): ``vcl`` alone (Nguyen et al., 2018), the rest with a mask behind the
ReLU, whose posterior is carried on too. Masks start at their prior, so that units come into use as
tasks want them. Kessler et al. (2021) mask the same place, with 200 to 1,000 epochs a task and
weights pretrained on the first. ``indian-buffet, widened`` starts with a fifth of the units and
gets as many again (``bd.nn.widen``) before a task whenever the last unit is kept.

``choose`` runs each method once with every setting, four for each, and looks at validation images
only; ``test`` runs the best of each with three seeds, and the test images once. Rows that are in
the file are not run again. Figures are those of 20 draws from the posterior. ``accuracy`` has a
row for each task learned, with the accuracy on every task so far; ``forgetting`` is, over all
tasks but the last, the mean fall from the accuracy just after a task to that at the end.
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

RESULTS = Path(__file__).parent / "results"
PRIOR_SCALE, INIT_LOG_VARIANCE, SAMPLES = 0.5, -6.0, 20
SEEDS = (0, 1, 2)
SETS = {
    "digits": {"inputs": 64, "width": 50, "mass": 5.0, "validation": 200, "batch": 100},
    "mnist": {"inputs": 784, "width": 100, "mass": 10.0, "validation": 6000, "batch": 256},
}
EPOCHS = {"digits": (30, 120), "mnist": (5, 15)}
PLAIN = ("fine-tuning", "joint")
WIDENED = "indian-buffet, widened"
METHODS = (
    *PLAIN,
    *("vcl", "beta-bernoulli", "indian-buffet", "hierarchical-indian-buffet"),
    WIDENED,
)
Data = dict[str, tuple[Tensor, Tensor]]


def settings_of(method: str, name: str) -> list[dict]:
    """Return what is tried of a method: four settings for each."""
    rates = (1e-3, 3e-3) if method in PLAIN else (3e-3, 1e-2)
    return [{"learning_rate": r, "epochs": epochs} for r in rates for epochs in EPOCHS[name]]


def load(name: str) -> list[Data]:
    """Return the tasks' parts as vectors of pixels and a constant, which is the bias."""
    tasks = []
    for first in range(0, 10, 2):
        splits = bd.load_data(f"{name}:{first}-{first + 1}", validation=SETS[name]["validation"])
        parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
        tasks.append({part: (with_constant(x.flatten(1)), y) for part, (x, y) in parts.items()})
    return tasks


def with_constant(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones(len(x), 1)], 1)


def linear(inputs: int, outputs: int, *, random: bool) -> nn.Module:
    plain = nn.Linear(inputs, outputs, bias=False)
    if not random:
        return plain
    options = {"prior_scale": PRIOR_SCALE, "init_log_variance": INIT_LOG_VARIANCE}
    return bd.nn.make("gaussian-weights", plain, **options)


def mask(method: str, units: int, mass: float) -> bd.BayesianDropout:
    """Return a mask at its prior, whose expected number of units is the mass."""
    if method == "beta-bernoulli":  # the finite model whose limit the process is
        start = dict.fromkeys(("prior_concentration1", "init_concentration1"), mass / units)
        return bd.nn.make(method, units, threshold=0.1, **start)
    layer = bd.nn.make(method.partition(",")[0], units, concentration=mass)
    layer.sticks.set_posterior(mass)
    if layer.key == "hierarchical-indian-buffet":
        mean = (mass / (mass + 1)) ** torch.arange(1.0, units + 1)
        layer.set_posterior(mean / (1 - mean))
    return layer


def shared_layers(method: str, name: str) -> nn.Sequential:
    """Return the hidden layer, with the method's mask behind its ReLU."""
    size = SETS[name]
    width = size["width"] // 5 if method == WIDENED else size["width"]
    first = linear(size["inputs"] + 1, width, random=method not in PLAIN)
    masks = [] if method in (*PLAIN, "vcl") else [mask(method, width, size["mass"])]
    return nn.Sequential(first, nn.ReLU(), *masks)


def widen_if_filled(shared: nn.Sequential, heads: list[nn.Module], more: int) -> None:
    """Give the layer more units if its last one is kept."""
    first, _, gates = shared
    if bool(gates.kept()[gates.rank.argmax()]):
        bd.nn.widen(first, gates, heads, more)


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
    """Return what the mask keeps of how many units, if there is one."""
    found = []
    for _, layer in bd.nn.named_dropout_layers(shared):
        keep = layer.keep_prob()
        found.append({"expected": round(float(keep.sum()), 1), "kept": int(layer.kept().sum())})
        found[-1]["of"] = layer.num_units
    return found


def run(method: str, name: str, setting: dict, seed: int, tasks: list[Data], part: str) -> dict:
    """Learn all tasks, and return the accuracies after each."""
    started = time.process_time()
    torch.manual_seed(seed)
    shared, width = shared_layers(method, name), SETS[name]["width"]
    units_now = shared[0].weight.shape[0]
    heads = [linear(units_now, 2, random=method not in PLAIN) for _ in tasks]
    networks = [nn.Sequential(shared, head) for head in heads]

    def train(network: nn.Module, data: tuple[Tensor, Tensor]) -> bd.BayesianNetwork:
        bnn = bd.BayesianNetwork(network, bd.Categorical(), len(data[0]))
        options = {"batch_size": SETS[name]["batch"], "schedule": (), "progress": False}
        bd.fit(bnn, data, seed=seed, **options, **setting)
        return bnn

    rows, sizes = [], []
    if method == "joint":
        train(Joint(shared, heads), joined(tasks))
        rows = [[accuracy(n, d[part]) for n, d in zip(networks, tasks, strict=True)]]
    else:
        for index, data in enumerate(tasks):
            if method == WIDENED and index:
                widen_if_filled(shared, heads, width // 5)
            bnn = train(networks[index], data["train"])
            if method not in PLAIN:
                bd.update_prior(bnn)
            seen = zip(networks[: index + 1], tasks, strict=False)
            rows.append([accuracy(network, data[part]) for network, data in seen])
            sizes += units(shared)
    last = rows[-1]
    falls = [rows[task][task] - last[task] for task in range(len(rows) - 1)]
    found: dict = {"method": method, "seed": seed, "part": part, "kl_weight": 1.0, **setting}
    found |= {"accuracy": rows, "average": round(sum(last) / len(last), 4)}
    found |= {"forgetting": round(sum(falls) / len(falls), 4)} if falls else {}
    found |= {"units": sizes} if sizes else {}
    return found | {"cpu_seconds": round(time.process_time() - started, 1)}


def best_setting(method: str, name: str, runs: list[dict]) -> dict:
    """Return the setting of the best average on validation images."""
    tried = [run for run in runs if run["method"] == method and run["part"] == "validation"]
    settings = settings_of(method, name)
    if len(tried) < len(settings):
        raise SystemExit(f"{method}: {len(tried)} of {len(settings)} settings; 'choose' first")
    best = max(tried, key=lambda run: run["average"])
    return {key: best[key] for key in settings[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=SETS)
    parser.add_argument("what", choices=("choose", "test"))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = args.out or RESULTS / f"continual-{args.name}.json"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", TruncationWarning)  # the rows say what is kept
    tasks = load(args.name)
    runs = json.loads(out.read_text())["runs"] if out.exists() else []
    head = {"command": shlex.join(["python", *sys.argv]), "torch": torch.__version__}
    head |= {"bayesdrop": bd.__version__, "threads": 1, **SETS[args.name]}
    head |= {"prior_scale": PRIOR_SCALE, "init_log_variance": INIT_LOG_VARIANCE}
    choosing = args.what == "choose"
    part = "validation" if choosing else "test"
    for method in args.methods:
        settings = settings_of(method, args.name)
        names = ["method", "seed", "part", *settings[0]]
        for setting in settings if choosing else [best_setting(method, args.name, runs)]:
            for seed in SEEDS[:1] if choosing else args.seeds:
                row = {"method": method, "seed": seed, "part": part, **setting}
                if any(all(old[key] == row[key] for key in names) for old in runs):
                    continue
                found = run(method, args.name, setting, seed, tasks, part)
                print({k: v for k, v in found.items() if k != "accuracy"}, flush=True)
                runs = added(runs, [found], names)
                write({**head, "runs": runs}, out)


if __name__ == "__main__":
    main()
