"""Tables of recurrent dropout on text."""

from __future__ import annotations

from rows import NO_KL, RESULTS, read, spread, table

TASKS = ("reviews", "shakespeare")
DIGITS = {"reviews": 4, "shakespeare": 3}
UNITS = {"reviews": "RMSE", "shakespeare": "bits"}
TITLES = {"none": "none", "naive": "naive, rate", "variational": "one mask a sequence, rate"}


def committed() -> list[str]:
    """Return the tasks that have a result file."""
    return [task for task in TASKS if (RESULTS / f"recurrent-{task}.json").exists()]


def text(task: str) -> str:
    """Return a row for each method, of fixed rates that which validation chose."""
    result, digits, unit = read(f"recurrent-{task}.json"), DIGITS[task], UNITS[task]
    groups: dict[str, dict[str, list[dict]]] = {}
    for run in result["runs"]:
        method = run["row"].partition(",")[0]
        groups.setdefault(method, {}).setdefault(run["row"], []).append(run)
    rows = []
    for method, settings in groups.items():
        # A rate that was not run on all seeds was given up for what validation said of the first.
        most = max(map(len, settings.values()))
        full = {row: runs for row, runs in settings.items() if len(runs) == most}
        chosen = min(full, key=lambda row: _mean([r["chosen"]["validation"] for r in full[row]]))
        runs = full[chosen]
        title = f"{TITLES.get(method, f'`{method}`')}{chosen.removeprefix(method).lstrip(',')}"
        factor = "1" if method in ("beta-bernoulli", "concrete") else NO_KL
        cells = [
            spread([run["last"]["train"] for run in runs], digits),
            spread([run["last"]["test"] for run in runs], digits),
            spread([run["chosen"]["test"] for run in runs], digits),
            spread([run["chosen"]["sampled"] for run in runs], digits)
            if "sampled" in runs[0]["chosen"]
            else "",
        ]
        seconds = spread([run["cpu_seconds"] for run in runs], 0)
        rows.append([title, factor, str(len(runs)), *cells, _kept(runs), seconds])
    header = ["dropout", "KL", "seeds", f"end: train, {unit}", f"end: test, {unit}"]
    return table([*header, "chosen epoch: test", "sampled", "words kept", "CPU s"], rows)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _kept(runs: list[dict]) -> str:
    found = [run["kept"]["embed.word_dropout"] for run in runs if "kept" in run]
    return spread(found, 0) if found else ""
