"""Tables of what privacy costs on MNIST."""

from __future__ import annotations

import json
import statistics

from rows import NO_KL, RESULTS, read, spread, table

TITLES = {"plain": "plain", "beta-bernoulli": "BB"}
"""Methods of ``private.py`` to their rows."""


def _runs(name: str) -> list[dict]:
    return read(name)["runs"] if (RESULTS / name).exists() else []


def _groups(runs: list[dict], *keys: str) -> list[list[dict]]:
    groups: dict[str, list[dict]] = {}
    for run in runs:
        groups.setdefault(json.dumps([run[key] for key in keys]), []).append(run)
    return list(groups.values())


def _common(own: list[dict]) -> list[str]:
    factor = NO_KL if own[0]["method"] == "plain" else "1"
    return [TITLES[own[0]["method"]], str(len(own)), str(own[0]["epochs"]), factor]


def _settings(run: dict) -> list[str]:
    clip = run["privacy"]["clip_norm"]
    return [f"{run['settings']['learning_rate']:g}", "none" if clip is None else f"{clip:g}"]


def private() -> str:
    """Return error on the test set by epsilon, medians and ranges over seeds."""
    runs = sorted(
        _runs("private.json"),
        key=lambda run: (run["epsilon"] or float("inf"), list(TITLES).index(run["method"])),
    )
    rows = []
    for own in _groups(runs, "epsilon", "method", "settings", "epochs"):
        promise, total = own[0]["privacy"], own[0]["epsilon"]
        bounds = ["none", "none"]
        if total is not None:
            bounds = [f"{promise['epsilon_prv']:.2f}", f"{promise['epsilon_rdp']:.2f}"]
        ways = ("mean", "sampled") if "sampled" in own[0] else ("mean",)
        errors = [spread([run[way]["error"] for run in own], 2) for way in ways]
        nlls = [spread([run[way]["nll"] for run in own], 3) for way in ways]
        cells = [*_common(own), *bounds, f"{promise['noise_multiplier']:.2f}", *_settings(own[0])]
        cells += [errors[0], errors[1] if len(ways) > 1 else "same"]
        cells += [nlls[0], nlls[1] if len(ways) > 1 else "same"]
        cells += [_kept(own), f"{statistics.median(run['cpu_seconds'] for run in own):.0f}"]
        rows.append(cells)
    header = ["LeNet-300-100, MNIST", "seeds", "epochs", "KL", "epsilon", "by RDP", "noise"]
    header += ["rate", "clip", "error %", "sampled", "NLL", "sampled", "units", "CPU s"]
    return table(header, rows)


def _kept(own: list[dict]) -> str:
    layers = zip(*(run["units"] for run in own), strict=True)
    return "-".join(f"{statistics.median(units):.0f}" for units in layers) or "784-300-100"


def choice() -> str:
    """Return the candidates, measured on held-out training images."""
    rows = [
        [
            *_common([run]),
            *_settings(run),
            f"{run['mean']['error']:.2f}",
            f"{run['mean']['nll']:.3f}",
        ]
        for run in _runs("private-choice.json")
    ]
    header = ["epsilon 3, held-out images", "seeds", "epochs", "KL", "rate", "clip"]
    return table([*header, "error %", "NLL"], rows)
