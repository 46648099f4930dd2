"""Tables of neural plasticity: gradients of masks, and networks that are pruned and that grow."""

from __future__ import annotations

import statistics

from rows import NETWORKS, RESULTS, read, spread, table

TITLES = {"digits-mlp": "digits, 64-500-300", **NETWORKS}
PUBLISHED = {
    "digits-mlp": [],
    "lenet-500-300": [("784-300-100, L0-ARM", "1.7", "143-153-78")],
    "lenet5-caffe": [("20-50-800-500, L0-ARM", "0.9", "20-16-32-257")],
}
STARTS = {"large": "the large network", "few": "few units, grown"}


def mask_gradients() -> str:
    """Return variance and bias over the exact gradient's length, and the cost of a step."""
    result = read("mask-gradients.json")
    runs = result["runs"]
    states = list(dict.fromkeys(run["gates"] for run in runs))
    rows = []
    for name in dict.fromkeys(run["estimator"] for run in runs):
        cost = result["costs"].get(name)
        cells = ["" if cost is None else f"{cost:.2f}"]
        for state in states:
            found = [r for r in runs if r["estimator"] == name and r["gates"] == state]
            cells.append(f"{statistics.fmean(r['variance'] for r in found):.2f}")
            cells.append(f"{statistics.fmean(r['bias'] for r in found):.2f}")
        rows.append([name, *cells])
    header = ["gradient in the log-odds", "CPU of a step"]
    header += [f"gates {state}: {word}" for state in states for word in ("variance", "bias")]
    return table(header, rows)


def committed() -> list[dict]:
    """Return the runs that are there."""
    path = RESULTS / "plasticity.json"
    return read("plasticity.json")["runs"] if path.exists() else []


def growing() -> str:
    """Return what is left of either start, beside the published rows."""
    rows = []
    for network, published in PUBLISHED.items():
        title = TITLES[network]
        for name, error, units in published:
            rows.append([f"{title}: published, {name}", "?", "?", "1", error, "", units, "", ""])
        own = [run for run in committed() if run["network"] == network]
        for epochs in dict.fromkeys(tuple(run["epochs"]) for run in own):
            found = {
                start: [r for r in own if (r["start"], tuple(r["epochs"])) == (start, epochs)]
                for start in STARTS
            }
            rows += _pair(title, epochs, {start: runs for start, runs in found.items() if runs})
    header = ["network", "seeds", "epochs", "KL", "error %", "NLL", "kept"]
    return table([*header, "1000 parameters", "of the other start's"], rows)


def _pair(title: str, epochs: tuple[int, ...], found: dict[str, list[dict]]) -> list[list[str]]:
    """Return the rows of both starts with the same epochs."""
    sizes = {start: statistics.median(r["params"] for r in runs) for start, runs in found.items()}
    rows = []
    for start, runs in found.items():
        layers = zip(*(run["units"] for run in runs), strict=True)
        units = [sorted(layer)[len(runs) // 2] for layer in layers]
        others = [size for other, size in sizes.items() if other != start]
        rows.append(
            [
                f"{title}: {STARTS[start]}",
                str(len(runs)),
                " + ".join(map(str, epochs)),
                "1",
                spread([r["error"] for r in runs], 2),
                spread([r["nll"] for r in runs], 3),
                "-".join(map(str, units)),
                spread([r["params"] / 1000 for r in runs], 1),
                f"{sizes[start] / others[0]:.2f}x" if others else "",
            ]
        )
    return rows
