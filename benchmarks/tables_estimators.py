"""Tables of ``estimators.py``: the estimators beside scikit-learn's perceptrons."""

from __future__ import annotations

import math
import statistics

from paired import SIGNS, difference
from rows import NO_KL, mean_of, read, table

REGRESSIONS = (
    "MLPRegressor, calibrated",
    "BayesdropRegressor",
    "BayesdropRegressor, calibrated",
)
CLASSIFIERS = (
    "MLPClassifier",
    "MLPClassifier, calibrated",
    "BayesdropClassifier",
    "BayesdropClassifier, calibrated",
)


def regressions() -> str:
    """Return errors, log-likelihoods and intervals of the regressions."""
    measures = {"rmse": 3, "nll": 3, "coverage": 3, "width": 2}
    header = ["RMSE", "NLL", "held by 90 %", "width"]
    return _of(REGRESSIONS, measures, header, "MLPRegressor, calibrated", ("rmse", "nll"))


def classifications() -> str:
    """Return errors, log-likelihoods and calibration of the classifiers."""
    measures = {"error": 2, "nll": 3, "ece": 3}
    header = ["error %", "NLL", "ECE"]
    return _of(CLASSIFIERS, measures, header, "MLPClassifier, calibrated", tuple(measures))


def choice() -> str:
    """Return what the held-out rows said of masks on the inputs."""
    runs = read("estimators.json")["choices"]
    rows = []
    for name in dict.fromkeys(run["set"] for run in runs):
        for title in dict.fromkeys(run["choice"] for run in runs):
            own = [run for run in runs if (run["set"], run["choice"]) == (name, title)]
            cells = [_mean([run[key] for run in own], 3) for key in ("rmse", "nll", "coverage")]
            rows.append([f"{name}: {title}", str(len(own)), _kl(own[0], True), *cells])
    return table(["held-out rows", "splits", "KL", "RMSE", "NLL", "held by 90 %"], rows)


def _of(
    methods: tuple[str, ...],
    measures: dict[str, int],
    header: list[str],
    baseline: str,
    compared: tuple[str, ...],
) -> str:
    runs = [run for run in read("estimators.json")["runs"] if run["method"] in methods]
    rows = []
    for name in dict.fromkeys(run["set"] for run in runs):
        by_method = {
            method: [run for run in runs if (run["set"], run["method"]) == (name, method)]
            for method in methods
        }
        for method, own in by_method.items():
            cells = []
            for key, digits in measures.items():
                cell = _mean([run[key] for run in own], digits)
                if key in compared and method != baseline:
                    ours, theirs = (
                        {run["split"]: run[key] for run in group}
                        for group in (own, by_method[baseline])
                    )
                    cell += f" ({SIGNS[difference(ours, theirs).verdict()]})"
                cells.append(cell)
            ours = method.startswith("Bayesdrop")
            seconds = _mean([run["seconds"] for run in own], 1)
            rows.append([f"{name}: {method}", str(len(own)), _kl(own[0], ours), *cells, seconds])
    return table(["test rows", "splits", "KL", *header, "CPU s"], rows)


def _kl(run: dict, ours: bool) -> str:
    return f"{run['kl_weight']:g}" if ours else NO_KL


def _mean(values: list[float], digits: int) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return mean_of([statistics.fmean(values), error], digits)
