"""The estimators as they are beside scikit-learn's perceptrons, with and without calibration.

    python benchmarks/estimators.py --out benchmarks/results/estimators.json

Five UCI regressions on their published splits, and the three UCI classifications that come with
scikit-learn on stratified splits (a fifth is tested; the seed is the split's number). In every
split a fifth of the training rows is held out: each method, with the arguments that it ships
with, is fitted once to the other four, and what has to be set afterwards (a perceptron's noise, a
conformal interval, a temperature) is set on that fifth. Nothing else is chosen, and the test rows
are looked at once. Perceptrons get the same standardised inputs and targets. One KL factor, 1.

``--choose`` fits the regressions with and without masks on the inputs, on splits of other
numbers, and looks at the held-out fifth only: from this the default comes.

Runs that are in the file are not run again. Needs the files of ``bd.load_data`` in ``--data-dir``
or ``BAYESDROP_DATA``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import math
import shlex
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import result_files
import sklearn
import torch
from sklearn import datasets
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import bayesdrop as bd
from bayesdrop.estimators import BayesdropClassifier, BayesdropRegressor
from bayesdrop.files import read_json
from bayesdrop.metrics.conformal import conformal_intervals

REGRESSIONS = ("boston", "concrete", "energy", "wine", "yacht")
CLASSIFICATIONS = {
    "breast cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
    "wine cultivars": datasets.load_wine,
}
LEVEL = 0.9
CHOICES = {"masks on inputs": True, "none on inputs": False}
FIRST_OF_CHOICE = 15
"""Splits from here on serve ``--choose``, those below the test."""

Rows = tuple[np.ndarray, np.ndarray]


def of_regression(mean: np.ndarray, ends: Rows, log_likelihood: np.ndarray, y: np.ndarray) -> dict:
    """Return the figures of a regression, in standard deviations of the training targets."""
    lower, upper = ends
    return {
        "rmse": float(np.sqrt(np.mean((mean - y) ** 2))),
        "nll": -float(np.mean(log_likelihood)),
        "coverage": float(np.mean((lower <= y) & (y <= upper))),
        "width": float(np.mean(upper - lower)),
    }


def perceptron(split: int, train: Rows, held_out: Rows, test: Rows) -> dict[str, dict]:
    """Fit scikit-learn's regressor; held-out rows set its noise and its intervals."""
    model = MLPRegressor(random_state=split).fit(*train)
    mean, past = model.predict(test[0]), model.predict(held_out[0])
    scale = float(np.sqrt(np.mean((past - held_out[1]) ** 2)))
    errors = -0.5 * ((test[1] - mean) / scale) ** 2 - math.log(scale * math.sqrt(2 * math.pi))
    intervals = conformal_intervals(past, held_out[1], miscoverage=1 - LEVEL)
    ends = tuple(end.numpy() for end in intervals.predict(mean))
    return {"MLPRegressor, calibrated": of_regression(mean, ends, errors, test[1])}


def masked(split: int, train: Rows, held_out: Rows, test: Rows) -> dict[str, dict]:
    """Fit our regressor; held-out rows set the conformal intervals of its second row."""
    model = BayesdropRegressor(random_state=split).fit(*train)
    mean, std = model.predict(test[0], return_std=True)
    errors = log_likelihood(model, *test)
    past, scale = model.predict(held_out[0], return_std=True)
    intervals = conformal_intervals(past, held_out[1], miscoverage=1 - LEVEL, scale=scale)
    ends = tuple(end.numpy() for end in intervals.predict(mean, scale=std))
    own = model.predict_interval(test[0], level=LEVEL)
    return {
        "BayesdropRegressor": of_regression(mean, own, errors, test[1]),
        "BayesdropRegressor, calibrated": of_regression(mean, ends, errors, test[1]),
    }


def log_likelihood(model: BayesdropRegressor, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return that of the mixture over masks; targets are near standardised, as the network's."""
    scaled = (y - model._target_scaler.mean_) / model._target_scaler.scale_
    pair = (model._inputs(x, model.bnn_), torch.tensor(scaled[:, None], dtype=torch.float32))
    found = bd.predict(model.bnn_, pair, num_samples=model.num_samples, seed=0).log_likelihood
    return found.numpy() - math.log(model._target_scaler.scale_[0])


def classifiers(split: int, train: Rows, held_out: Rows, test: Rows) -> dict[str, dict]:
    """Fit both classifiers; held-out rows set a temperature for their second rows."""
    found = {}
    for name, model in {
        "MLPClassifier": make_pipeline(StandardScaler(), MLPClassifier(random_state=split)),
        "BayesdropClassifier": BayesdropClassifier(random_state=split),
    }.items():
        started = time.process_time()
        model.fit(*train)
        seconds = time.process_time() - started
        frozen = CalibratedClassifierCV(FrozenEstimator(model), method="temperature")
        frozen.fit(*held_out)
        for title, one in ((name, model), (f"{name}, calibrated", frozen)):
            figures = bd.metrics.ClassifierFigures.from_predictions(
                one.predict_proba(test[0]), test[1]
            )
            found[title] = {
                "error": figures.error,
                "nll": figures.nll,
                "ece": figures.ece,
                "seconds": seconds,
            }
    return found


def regression(name: str, split: int, data_dir: str | None) -> tuple[Rows, Rows, Rows]:
    found = bd.load_data(f"uci/{name}", split=split, validation=0.2, data_dir=data_dir)
    parts = (found.train, found.validation, found.test)
    return tuple((x.double().numpy(), y.double().numpy()) for x, y in parts)


def classification(name: str, split: int) -> tuple[Rows, Rows, Rows]:
    x, y = CLASSIFICATIONS[name](return_X_y=True)
    x, test_x, y, test_y = train_test_split(x, y, test_size=0.2, stratify=y, random_state=split)
    x, held_x, y, held_y = train_test_split(x, y, test_size=0.2, stratify=y, random_state=split)
    return (x, y), (held_x, held_y), (test_x, test_y)


def run(name: str, split: int, data_dir: str | None) -> list[dict]:
    """Return the records of all methods on one split."""
    head = {"set": name, "split": split}
    if name in CLASSIFICATIONS:
        found = classifiers(split, *classification(name, split))
        return [{**head, "method": method, **row} for method, row in found.items()]
    rows, records = regression(name, split, data_dir), []
    for fit in (perceptron, masked):
        started = time.process_time()
        found = fit(split, *rows)
        seconds = time.process_time() - started
        records += [
            {**head, "method": method, **row, "seconds": seconds} for method, row in found.items()
        ]
    return records


def choose(name: str, split: int, data_dir: str | None) -> list[dict]:
    """Return what the held-out rows say of masks on the inputs."""
    train, held_out, _ = regression(name, split, data_dir)
    records = []
    for title, masks in CHOICES.items():
        model = BayesdropRegressor(random_state=split, dropout_options={"input_dropout": masks})
        mean = model.fit(*train).predict(held_out[0])
        own = model.predict_interval(held_out[0], level=LEVEL)
        row = of_regression(mean, own, log_likelihood(model, *held_out), held_out[1])
        records.append({"set": name, "split": split, "choice": title, **row})
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=int, default=10, help="of each set, from 0")
    parser.add_argument("--choose", action="store_true", help="masks on the inputs or not")
    parser.add_argument("--data-dir")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    head = {"command": shlex.join(["python", *sys.argv]), "torch": torch.__version__}
    head |= {"bayesdrop": bd.__version__, "sklearn": sklearn.__version__, "kl_weight": 1.0}
    part = "choices" if args.choose else "runs"
    names = REGRESSIONS if args.choose else (*REGRESSIONS, *CLASSIFICATIONS)
    first = FIRST_OF_CHOICE if args.choose else 0
    for split in range(first, first + args.splits):
        for name in names:
            result = read_json(args.out) if args.out.exists() else {"runs": [], "choices": []}
            if any((r["set"], r["split"]) == (name, split) for r in result[part]):
                continue
            new = (choose if args.choose else run)(name, split, args.data_dir)
            result[part] += [{**record, **head} for record in new]
            result_files.write(result, args.out)
            print(name, split, flush=True)


if __name__ == "__main__":
    main()
