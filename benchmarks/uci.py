"""UCI regression on the published splits: MC dropout, concrete and beta-Bernoulli dropout.

    python benchmarks/uci.py --sets yacht energy --epochs-factor 10 \
        --out benchmarks/results/uci.json

One hidden layer of 50 units (100 for protein), masks on the inputs and the hidden units, Adam,
batches of 128, and for every method the same number of epochs: 400 for the sets of fewer than
2,000 rows, 40 for the others (the authors' script has 40, times 1, 10 or 100). For each split
every method has its candidates (``METHODS``), trained on four fifths of the training rows. The
other fifth chooses the candidate, and the scale of the observation noise, by log-likelihood. The
candidate is then trained on all training rows, and the test rows are looked at once. Everything
is standardised by the rows it is trained on; results are in the targets' own units. Needs the
files of ``bd.load_data`` in ``--data-dir`` or ``BAYESDROP_DATA``.

All splits of a set are trained side by side as the blocks of one network, which gives what
training them one by one does (``batched.py``). What the validation rows say of a candidate, and
results of finished (set, split, method) triples, are kept in ``--work``: the same command
continues where it was stopped. Each network takes one thread; ``--jobs`` run side by side. The
file is written after each method of a set and keeps the runs of other sets, splits, methods and
settings.

Differences from the published protocol: the noise is learned while training and its predictive
scale chosen on validation rows, where the paper has a grid of precisions for each set; drop rates
are the paper's four and three smaller ones. 1,000 posterior samples instead of 10,000. The
authors' figures are from 4,000 epochs (``--epochs-factor 10`` for the small sets, 100 for the
others).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import math
import shlex
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import batched
import result_files
import torch
from torch import Tensor, nn

import bayesdrop as bd
from bayesdrop.data import RegressionSplit, regression_sets
from bayesdrop.files import read_json

METHODS: dict[str, tuple[str, list[dict]]] = {
    "mc-dropout": (
        "mc-dropout",
        [
            {"drop_prob": rate, "length_scale": 1e-2}
            for rate in (5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2, 0.1)
        ],
    ),
    "concrete": (
        "concrete",
        [{"length_scale": scale} for scale in (1e-3, 1e-2, 1e-1, 1.0, 3.0, 10.0)],
    ),
    "beta-bernoulli": (
        "beta-bernoulli",
        [{"kl_scale": scale} for scale in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)],
    ),
    "beta-bernoulli-whole": ("beta-bernoulli", [{"kl_scale": 1.0}]),
}
"""Name to a dropout key and the options among which the validation rows choose."""

TOGETHER = {"mc-dropout", "concrete"}
"""Keys whose candidates are trained side by side: their options may differ by block."""

PUBLISHED = {
    "source": "Gal and Ghahramani (2016), authors' repository, grid search, mean and standard "
    "error over the splits",
    "rmse": {
        "boston": [2.90, 0.18], "concrete": [4.82, 0.16], "energy": [0.54, 0.06],
        "kin8nm": [0.08, 0.00], "naval": [0.00, 0.00], "power": [4.01, 0.04],
        "protein": [4.27, 0.02], "wine": [0.62, 0.01], "yacht": [0.67, 0.05],
    },
    "log_likelihood": {
        "boston": [-2.40, 0.04], "concrete": [-2.93, 0.02], "energy": [-1.21, 0.01],
        "kin8nm": [1.14, 0.01], "naval": [4.45, 0.00], "power": [-2.80, 0.01],
        "protein": [-2.87, 0.00], "wine": [-0.93, 0.01], "yacht": [-1.25, 0.01],
    },
}  # fmt: skip

EPOCHS = {"kin8nm": 40, "naval": 40, "power": 40, "protein": 40}
"""Epochs of the large sets; the others have 400."""

NOISE_SCALES = torch.logspace(-2.5, 0.5, 61)
BASELINE = "mc-dropout"
"""From whose results on the same splits the others' differences are."""

MEASURED = ("rmse", "rmse_mean_mask", "log_likelihood")
SETTINGS = ("set", "epochs", "num_samples")
"""What the splits of a mean have in common, beside the method."""


Rows = tuple[Tensor, Tensor]


def build(key: str, options: dict, rows: Rows, hidden: int, seed: int) -> bd.BayesianNetwork:
    """Return the network of a split with the initial weights of a seed."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(rows[0].shape[1], hidden), nn.ReLU(), nn.Linear(hidden, 1))
    if key == "beta-bernoulli":  # as the grids were searched
        options = {**options, "parametrization": "softplus"}
    network = bd.convert(network, key, **options)
    return bd.BayesianNetwork(network, bd.Gaussian("learned"), len(rows[1]))


RATES = {"learning_rate": 1e-3, "variational_learning_rate": 1e-2}


def train(
    key: str, tasks: list[tuple[int, dict]], rows: dict[int, Rows], hidden: int, epochs: int
) -> list[bd.BayesianNetwork]:
    """Train a network for each task, a split with the options of its masks, whose seed it is."""
    networks = [build(key, options, rows[split], hidden, split) for split, options in tasks]
    groups: dict[str, list[int]] = {}
    for place, (_, options) in enumerate(tasks):
        groups.setdefault("" if key in TOGETHER else json.dumps(options), []).append(place)
    for places in groups.values():
        splits = [tasks[place][0] for place in places]
        batched.fit(
            [networks[place] for place in places],
            [rows[split] for split in splits],
            splits,
            epochs=epochs,
            batch_size=min(128, len(rows[splits[0]][1])),
            **RATES,
        )
    return networks


def best_noise(bnn: bd.BayesianNetwork, rows: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Return the noise scale with the highest log-likelihood of the rows, and that likelihood."""
    samples = bd.predict(bnn, rows[0], num_samples=200, seed=0).samples[..., 0]
    errors = (rows[1] - samples).square()
    log_likelihoods = [
        float(
            (-0.5 * errors / scale**2 - scale.log()).logsumexp(0).mean()
            - math.log(len(samples))
            - 0.5 * math.log(2 * math.pi)
        )
        for scale in NOISE_SCALES
    ]
    best = max(range(len(NOISE_SCALES)), key=log_likelihoods.__getitem__)
    return float(NOISE_SCALES[best]), log_likelihoods[best]


def measure(
    bnn: bd.BayesianNetwork, noise_scale: float, split: RegressionSplit, num_samples: int
) -> dict:
    x, y = split.test
    known = bd.BayesianNetwork(bnn.network, bd.Gaussian(noise_scale), bnn.num_data)
    sampled = bd.predict(known, (x, y), num_samples=num_samples, keep_samples=False, seed=0)
    mean_mask = bd.predict(known, x, sample=False)

    def rmse(prediction: bd.metrics.Prediction) -> float:
        return split.y_scale * float((prediction.mean[:, 0] - y).square().mean().sqrt())

    return {
        "rmse": rmse(sampled),
        "rmse_mean_mask": rmse(mean_mask),
        "log_likelihood": float(sampled.log_likelihood.mean()) - math.log(split.y_scale),
    }


def run_set(name: str, splits: list[int], method: str, args: argparse.Namespace) -> list[dict]:
    """Return the records of a method on splits of a set; what is not there yet is trained."""
    torch.set_num_threads(1)
    epochs = EPOCHS.get(name, 400) * args.epochs_factor
    paths = {
        i: args.work / name / f"{epochs}-{args.num_samples}-{method}-{i}.json" for i in splits
    }
    absent = [i for i in splits if not paths[i].exists()]
    if absent:
        for record in measured(name, absent, method, epochs, args):
            write(record, paths[record["split"]])
    return [read_json(paths[i]) for i in splits]


def measured(
    name: str, splits: list[int], method: str, epochs: int, args: argparse.Namespace
) -> list[dict]:
    """Choose, train and test a method on splits of a set."""
    started = time.process_time()
    key, candidates = METHODS[method]
    load = partial(bd.load_data, f"uci/{name}", data_dir=args.data_dir)
    parts = {i: load(split=i, validation=0.2) for i in splits}
    known = chosen_from(name, key, candidates, parts, epochs, args)
    best = {i: max(known[i], key=lambda candidate: candidate["value"]) for i in splits}
    whole = {i: load(split=i) for i in splits}
    rows = {i: split.train for i, split in whole.items()}
    tasks = [(i, best[i]["options"]) for i in splits]
    records = []
    for i, bnn in zip(splits, train(key, tasks, rows, hidden_units(name), epochs), strict=True):
        # In units of the training rows' standard deviation; the part's differs a little.
        noise_scale = best[i]["noise_scale"] * parts[i].y_scale / whole[i].y_scale
        record = {
            "set": name,
            "split": i,
            "method": method,
            "epochs": epochs,
            "num_samples": args.num_samples,
            **measure(bnn, noise_scale, whole[i], args.num_samples),
            "options": best[i]["options"],
            "noise_scale": noise_scale * whole[i].y_scale,
            "keep_prob": [
                round(layer.keep_prob().mean().item(), 4)
                for _, layer in bnn.named_dropout_layers()
            ],
            "validation_log_likelihood": [
                {**candidate["options"], "value": candidate["value"]} for candidate in known[i]
            ],
        }
        records.append(record)
    minutes = (time.process_time() - started) / 60 / len(splits)
    return [{**record, "minutes": minutes, "clock": "process"} for record in records]


def chosen_from(
    name: str,
    key: str,
    candidates: list[dict],
    parts: dict[int, RegressionSplit],
    epochs: int,
    args: argparse.Namespace,
) -> dict[int, list[dict]]:
    """Return what the validation rows of each split say of each candidate."""
    folder = args.work / name / f"{epochs}-{key}"
    paths = {
        (i, json.dumps(options)): folder / f"{json.dumps(options)}-{i}.json"
        for options in candidates
        for i in parts
    }
    rows = {i: part.train for i, part in parts.items()}
    absent = [(i, json.loads(o)) for (i, o), path in paths.items() if not path.exists()]
    # One candidate after the other where they are not trained together anyway.
    for options in [None] if key in TOGETHER else candidates:
        tasks = [task for task in absent if options in (None, task[1])]
        for (i, own), bnn in zip(
            tasks, train(key, tasks, rows, hidden_units(name), epochs), strict=True
        ):
            noise_scale, value = best_noise(bnn, parts[i].validation)
            found = {"options": own, "noise_scale": noise_scale, "value": value}
            write(found, paths[i, json.dumps(own)])
    return {i: [read_json(paths[i, json.dumps(o)]) for o in candidates] for i in parts}


def hidden_units(name: str) -> int:
    return 100 if name == "protein" else 50


def write(record: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(record) + "\n")
    unfinished.replace(path)


def added(earlier: list[dict], runs: list[dict]) -> list[dict]:
    """Return earlier runs without those that were run again, and the new ones."""
    return result_files.added(earlier, runs, (*SETTINGS, "method", "split"))


def summary(runs: list[dict]) -> list[dict]:
    """Return a row of means and standard errors over the splits for each set and its settings.

    Splits differ more than methods do, so the differences are of results on the same split.
    """
    rows: dict[tuple, dict[str, list[dict]]] = {}
    for run in runs:
        by_method = rows.setdefault(tuple(run[name] for name in SETTINGS), {})
        by_method.setdefault(run["method"], []).append(run)
    return [
        {
            **dict(zip(SETTINGS, settings, strict=True)),
            "methods": {
                method: {
                    "splits": len(own),
                    **{name: _mean([run[name] for run in own]) for name in MEASURED},
                }
                for method, own in rows[settings].items()
            },
            "differences": {
                method: differences(own, rows[settings][BASELINE])
                for method, own in rows[settings].items()
                if method != BASELINE and BASELINE in rows[settings]
            },
        }
        for settings in sorted(rows)
    ]


def differences(runs: list[dict], baseline: list[dict]) -> dict[str, list[float]]:
    """Return the mean of the paired differences of each measure, over the splits of both."""
    others = {run["split"]: run for run in baseline}
    pairs = [(run, others[run["split"]]) for run in runs if run["split"] in others]
    return {name: _mean([a[name] - b[name] for a, b in pairs]) for name in MEASURED if pairs}


def _mean(values: list[float]) -> list[float]:
    return [round(statistics.mean(values), 5), round(_standard_error(values), 5)]


def _standard_error(values: list[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = {n.removeprefix("uci/"): s.num_splits for n, s in regression_sets.items()}
    parser.add_argument("--sets", nargs="+", default=list(known), choices=list(known))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--splits", type=int, help="only so many of each set's splits")
    parser.add_argument("--epochs-factor", type=int, default=1)
    parser.add_argument("--num-samples", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, one thread each")
    parser.add_argument("--data-dir")
    parser.add_argument("--work", type=Path, default=Path("runs/uci"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    head = {"command": shlex.join(["python", *sys.argv]), "torch": torch.__version__}
    head |= {"bayesdrop": bd.__version__}
    earlier = read_json(args.out)["runs"] if args.out.exists() else []
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        tasks = [
            pool.submit(run_set, name, list(range(known[name]))[: args.splits], method, args)
            for name in args.sets
            for method in args.methods
        ]
        runs: list[dict] = []
        for task in tasks:
            runs += [{**record, **head} for record in task.result()]
            result_files.write(content(added(earlier, runs)), args.out)


def content(runs: list[dict]) -> dict:
    """Return the content of a result file."""
    return {
        "units": "of the targets; log-likelihood in nats per test row; [mean, standard error]",
        "published": PUBLISHED,
        "summary": summary(runs),
        "runs": runs,
    }


if __name__ == "__main__":
    main()
