"""UCI regression on the published splits: MC dropout, concrete and beta-Bernoulli dropout.

    python benchmarks/uci.py --sets boston yacht --out benchmarks/results/uci.json

One hidden layer of 50 units (100 for protein), masks on the inputs and the hidden units, Adam,
batches of 128, and for every method the same number of epochs: 400 for the sets of fewer than
2,000 rows, 40 for the others (the authors' script has 40, times 1, 10 or 100). For each split
every method has four candidates (``METHODS``), trained on four fifths of the training rows. The
other fifth chooses the candidate, and the scale of the observation noise, by log-likelihood. The
candidate is then trained on all training rows, and the test rows are looked at once. Everything
is standardised by the rows it is trained on; results are in the targets' own units. Needs the
files of ``bd.load_data`` in ``--data-dir`` or ``BAYESDROP_DATA``.

Results of finished (set, split, method) triples are kept in ``--work``: the same command continues
where it was stopped. Each run takes one thread; ``--jobs`` run side by side. The file is written
after each run and keeps those of other sets, splits, methods and settings.

Differences from the published protocol: the noise is learned while training and its predictive
scale chosen on validation rows, where the paper has a grid of precisions for each set; the paper's
grid of drop rates is kept. 1,000 posterior samples instead of 10,000. The authors' figures are
from 4,000 epochs (``--epochs-factor 10`` for the small sets, 100 for the others).
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
from multiprocessing import get_context
from pathlib import Path

import result_files
import torch
from torch import Tensor, nn

import bayesdrop as bd
from bayesdrop.data import RegressionSplit, regression_sets
from bayesdrop.files import read_json

METHODS: dict[str, tuple[str, list[dict]]] = {
    "mc-dropout": (
        "mc-dropout",
        [{"drop_prob": rate, "length_scale": 1e-2} for rate in (0.005, 0.01, 0.05, 0.1)],
    ),
    "concrete": ("concrete", [{"length_scale": scale} for scale in (1e-3, 1e-2, 1e-1, 1.0)]),
    "beta-bernoulli": ("beta-bernoulli", [{"kl_scale": s} for s in (1e-3, 1e-2, 1e-1, 1.0)]),
}
"""Name to a dropout key and the options among which the validation rows choose."""

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


def train(
    method: str, options: dict, rows: tuple[Tensor, Tensor], hidden: int, epochs: int, seed: int
) -> bd.BayesianNetwork:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(rows[0].shape[1], hidden), nn.ReLU(), nn.Linear(hidden, 1))
    if METHODS[method][0] == "beta-bernoulli":  # as the grids were searched
        options = {**options, "parametrization": "softplus"}
    network = bd.convert(network, METHODS[method][0], **options)
    bnn = bd.BayesianNetwork(network, bd.Gaussian("learned"), len(rows[1]))
    bd.fit(
        bnn,
        rows,
        epochs=epochs,
        batch_size=min(128, len(rows[1])),
        learning_rate=1e-3,
        variational_learning_rate=1e-2,
        # The prior of MC and concrete dropout is in their penalty.
        weight_decay=0.0,
        schedule=(),
        seed=seed,
        progress=False,
    )
    return bnn


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


def run_one(name: str, index: int, method: str, args: argparse.Namespace) -> dict:
    epochs = EPOCHS.get(name, 400) * args.epochs_factor
    path = args.work / name / f"{epochs}-{args.num_samples}-{method}-{index}.json"
    if path.exists():
        return read_json(path)
    torch.set_num_threads(1)
    started = time.perf_counter()
    hidden = 100 if name == "protein" else 50
    chosen_from = []
    part = bd.load_data(f"uci/{name}", split=index, validation=0.2, data_dir=args.data_dir)
    for options in METHODS[method][1]:
        bnn = train(method, options, part.train, hidden, epochs, index)
        chosen_from.append((*best_noise(bnn, part.validation), options))
    noise_scale, _, options = max(chosen_from, key=lambda candidate: candidate[1])
    # In units of the training rows' standard deviation, which differs a little from the part's.
    split = bd.load_data(f"uci/{name}", split=index, data_dir=args.data_dir)
    noise_scale *= part.y_scale / split.y_scale
    bnn = train(method, options, split.train, hidden, epochs, index)
    record = {
        "set": name,
        "split": index,
        "method": method,
        "epochs": epochs,
        "num_samples": args.num_samples,
        **measure(bnn, noise_scale, split, args.num_samples),
        "options": options,
        "noise_scale": noise_scale * split.y_scale,
        "keep_prob": [
            round(layer.keep_prob().mean().item(), 4) for _, layer in bnn.named_dropout_layers()
        ],
        "validation_log_likelihood": [
            {**candidate, "value": value} for _, value, candidate in chosen_from
        ],
        "minutes": (time.perf_counter() - started) / 60,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(record) + "\n")
    unfinished.replace(path)
    return record


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
            pool.submit(run_one, name, index, method, args)
            for name in args.sets
            for index in range(min(known[name], args.splits or known[name]))
            for method in args.methods
        ]
        runs: list[dict] = []
        for task in tasks:
            runs.append({**task.result(), **head})
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
