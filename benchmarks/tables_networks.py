"""Tables of networks from elsewhere: what each step made of them, and what was left."""

from __future__ import annotations

from collections import Counter

from rows import read, table

STEPS = ("convert", "train", "predict", "compact", "export")


def _runs() -> list[dict]:
    return read("networks.json")["runs"]


def _step(run: dict, step: str) -> str:
    if step not in run:
        return "-"
    return "yes" if run[step] == "yes" else "no, see below"


def _share(run: dict, name: str) -> list[str]:
    if f"{name}_after" not in run:
        return [f"{run[name]:,d}" if name in run else "-", "-"]
    return [f"{run[name]:,d}", f"{100 * run[f'{name}_after'] / run[name]:.0f}"]


def networks() -> str:
    """Return a row for each network."""
    rows = []
    for run in _runs():
        steps = {step: _step(run, step) for step in STEPS}
        masks = f"{run['masks']} / {run['layers']}" if "masks" in run else "-"
        costs = [*_share(run, "params"), *_share(run, "flops")]
        rows.append([run["name"], run["group"], masks, *steps.values(), *costs])
    header = ["network", "from", "masks / layers", "convert", "train", "predict", "compact exact"]
    header += ["export", "parameters", "kept, %", "FLOPs", "kept, %"]
    return table(header, rows)


def failures() -> str:
    """Return what the package says where a step failed."""
    rows = [
        [run["name"], step, run[step].replace("|", "/").replace("\n", " ")]
        for run in _runs()
        for step in STEPS
        if run.get(step, "yes") != "yes"
    ]
    return table(["network", "step", "what it says"], rows or [["-", "-", "every step worked"]])


def left() -> str:
    """Return what conversion has left as it was, and why."""
    rows = []
    for run in _runs():
        found = Counter((kind, why) for _, kind, why in run.get("left", ()))
        for (kind, why), number in found.items():
            rows.append([run["name"], f"{number} x {kind}", why])
    return table(["network", "left", "because"], rows)
