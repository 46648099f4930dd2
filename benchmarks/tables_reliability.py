"""Tables of the trials in ``reliability/``: what was tried, and what came of it."""

from __future__ import annotations

from rows import read, table

PLACES = {
    "prediction": "predict, evaluate, metrics, compression",
    "calls": "modes, files, counts, seeds, tables",
    "programs": "constructors, loss, convert",
    "training": "fit",
}
OUTCOMES = ("refused", "harmless", "silent")


def inputs() -> str:
    """Return what came of bad inputs, by what they are given to."""
    groups = read("reliability-bad-inputs.json")["by_group"]
    names = ("clear", "right", "raw", "silent")
    cells = {PLACES[group]: [row.get(n, 0) for n in names] for group, row in groups.items()}
    cells["all"] = [sum(column) for column in zip(*cells.values(), strict=True)]
    header = ["given to", "inputs", "an error or warning of ours", "a right result"]
    lines = [[place, str(sum(row)), *map(str, row)] for place, row in cells.items()]
    return table([*header, "another error", "silent"], lines)


def kills() -> str:
    """Return where runs were killed and how many were lost."""
    rows = read("reliability-kills.json")["rows"]
    header = ["SIGKILL", "kills", "runs", "lost, or other bits", "failed", "files left behind"]
    names = ("kills", "runs", "lost", "failed", "files_left")
    lines = [[kind, *(str(row[name]) for name in names)] for kind, row in rows.items()]
    total = [str(sum(row[name] for row in rows.values())) for name in names]
    return table(header, [*lines, ["all", *total]])


def flips() -> str:
    """Return what came of files with one flipped bit."""
    rows = read("reliability-bit-flips.json")["rows"]
    lines, totals = [], [0] * 5
    for kind, row in rows.items():
        raw = sum(count for name, count in row.items() if name not in OUTCOMES)
        cells = [sum(row.values()), *(row.get(name, 0) for name in OUTCOMES), raw]
        totals = [total + cell for total, cell in zip(totals, cells, strict=True)]
        lines.append([kind, *map(str, cells)])
    header = ["file", "flips", "refused", "without effect", "silent", "raw error"]
    return table(header, [*lines, ["all", *map(str, totals)]])


def memory() -> str:
    """Return the slopes of memory, objects and parameters, per call."""
    rows = read("reliability-memory.json")["rows"]
    header = ["action", "calls", "bytes a call", "objects a call", "parameters in Pyro's store"]
    names = ("calls", "bytes", "objects", "parameters_in_store")
    return table(
        header, [[kind, *(f"{row[n] + 0.0:g}" for n in names)] for kind, row in rows.items()]
    )


def determinism() -> str:
    """Return which processes give the same bits, and how far others are."""
    rows = read("reliability-determinism.json")["rows"]
    header = ["process", "threads", "same bits", "largest difference of a probability"]
    return table(
        header,
        [
            [kind, str(row["threads"]), "yes" if row["same_bits"] else "no"]
            + [f"{row['difference']:.1e}" if row["difference"] else "0"]
            for kind, row in rows.items()
        ],
    )
