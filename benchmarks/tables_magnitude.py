"""Tables of ``magnitude.py``: the error at each share pruned, and candidates."""

from __future__ import annotations

import statistics
from typing import Any

from paired import SIGNS, difference, noise_of_error
from rows import RESULTS, epochs_of, kl_factor, read, spread, table

SUITES = {"digits-mlp": ("digits, 600 test images", 600), "lenet-500-300": ("MNIST", 10_000)}
"""Suite to what its table is headed with, and the number of test images."""

TITLES = {
    "plain": "plain network",
    "dropout": "nn.Dropout(0.5)",
    "l0": "L0, test gates",
    "sparse-vd": "sparse VD, mean weights",
    "group-lasso": "group lasso",
    "targeted": "targeted dropout of units",
    "targeted-dropconnect": "targeted dropout of weights",
    "targeted-ramped": "targeted dropout of units, ramped to 0.99",
    "targeted-dropconnect-ramped": "targeted dropout of weights, ramped to 0.99",
}
SHOWN = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9)


def _runs(suite: str, kind: str = "") -> list[dict[str, Any]]:
    path = RESULTS / f"magnitude-{suite}{kind}.json"
    return read(path.name)["runs"] if path.exists() else []


def _errors(run: dict[str, Any], by: str) -> dict[float, float]:
    return {row["share"]: row["error"] for row in run[by]}


def magnitude(suite: str, by: str) -> str:
    """Return the errors without the smallest units or weights; median over seeds, range."""
    runs = _runs(suite)
    cells = []
    for method, title in TITLES.items():
        own = [run for run in runs if run["method"] == method]
        if not own:
            continue
        errors = {run["seed"]: _errors(run, by) for run in own}
        plain = {run["seed"]: _errors(run, by) for run in runs if run["method"] == "plain"}
        about = [str(len(own)), epochs_of(own[0]["settings"]), kl_factor(own[0]["settings"])]
        shown = [spread([of[share] for of in errors.values()], 2) for share in SHOWN]
        signs = "" if method == "plain" else _signs(errors, plain, SUITES[suite][1])
        cells.append([title, *about, *shown, signs])
    header = [f"{SUITES[suite][0]}, error % with {by}s pruned", "seeds", "epochs", "KL"]
    header += [f"{100 * share:.0f} %" for share in SHOWN]
    return table([*header, "beside plain"], cells)


def _signs(own: dict[int, dict], plain: dict[int, dict], images: int) -> str:
    if not own.keys() & plain.keys():
        return ""
    found = []
    for share in SHOWN:
        first, second = ({s: of[share] for s, of in each.items()} for each in (own, plain))
        noise = noise_of_error(statistics.fmean(second.values()), images)
        found.append(SIGNS[difference(first, second).verdict(at_least=noise)])
    return " ".join(found)


def choice(suite: str) -> str:
    """Return the candidates of targeted dropout: errors on validation images, mean of seeds."""
    groups: dict[tuple[str, float, float], list[dict]] = {}
    for run in _runs(suite, "-choice"):
        groups.setdefault((run["method"], *run["rates"]), []).append(run)
    cells = []
    for (method, rate, share), runs in groups.items():
        by = "unit" if method == "targeted" else "weight"
        errors = [_errors(run, by) for run in runs]
        shown = [f"{statistics.fmean(of[at] for of in errors):.2f}" for at in SHOWN]
        area = statistics.fmean(statistics.fmean(of.values()) for of in errors)
        settings = runs[0]["settings"]
        about = [str(len(runs)), epochs_of(settings), kl_factor(settings)]
        cells.append([f"{TITLES[method]}, {rate:g}, {share:g}", *about, *shown, f"{area:.2f}"])
    header = [f"{suite}, validation error %, rate and share", "seeds", "epochs", "KL"]
    return table([*header, *(f"{100 * share:.0f} %" for share in SHOWN), "0 to 90 %"], cells)
