"""Tables of tasks that are learned one after another."""

from __future__ import annotations

from statistics import median

from rows import NO_KL, RESULTS, read, spread, table

TITLES = {
    "fine-tuning": "plain weights, going on",
    "joint": "plain weights, all tasks at once",
    "vcl": "Gaussian weights (VCL)",
    "indian-buffet, widened": "with `indian-buffet`, widened",
}
PLAIN = ("fine-tuning", "joint")


def continual(name: str) -> str:
    """Return a row for each method, at the setting that validation chose."""
    path = RESULTS / f"continual-{name}.json"
    tested: dict[str, list[dict]] = {}
    for run in read(path.name)["runs"] if path.exists() else []:
        if run["part"] == "test":
            tested.setdefault(run["method"], []).append(run)
    header = ["method", "KL", "seeds", "epochs a task", "accuracy, %", "forgetting, points"]
    rows = [_row(method, runs) for method, runs in tested.items()]
    return table([*header, "expected units after each task", "kept at the end", "CPU s"], rows)


def _row(method: str, runs: list[dict]) -> list[str]:
    title = TITLES.get(method, f"with `{method}`")
    falls = [100 * run["forgetting"] for run in runs if "forgetting" in run]
    return [
        title,
        NO_KL if method in PLAIN else f"{runs[0]['kl_weight']:g}",
        str(len(runs)),
        str(runs[0]["epochs"]),
        spread([100 * run["average"] for run in runs], 1),
        spread(falls, 1) if falls else "",
        *_units(runs),
        spread([run["cpu_seconds"] for run in runs], 0),
    ]


def _units(runs: list[dict]) -> tuple[str, str]:
    if "units" not in runs[0]:
        return "", ""
    after = zip(*(run["units"] for run in runs), strict=True)
    expected = [median(size["expected"] for size in sizes) for sizes in after]
    last = [run["units"][-1] for run in runs]
    widths = sorted({size["of"] for size in last})
    kept = f"{spread([size['kept'] for size in last], 0)} of {' or '.join(map(str, widths))}"
    return "-".join(f"{value:.0f}" for value in expected), kept
