"""Tables of how costs grow, and of how long it takes to start."""

from __future__ import annotations

from rows import read, table


def growth() -> str:
    """Return what a step with masks costs, as a multiple of a plain one, by what grows."""
    rows = [
        [
            f"{what} ({run['threads']} thread, load {run['load']:.0f})",
            name,
            *(_between(row[kind], row[spread]) for kind, spread in KINDS),
        ]
        for what, run in read("growth.json")["tables"].items()
        for name, row in run["rows"].items()
    ]
    return table(["a step by `fit`, plain = 1: what grows", "size", "wall", "CPU"], rows)


KINDS = (("ratio", "range"), ("cpu_ratio", "cpu_range"))


def _between(ratio: float, ends: list[float]) -> str:
    return f"{ratio:.2f} ({ends[0]:.2f}-{ends[1]:.2f})"


def startup() -> str:
    """Return the seconds until a command, or an import, is there."""
    result = read("startup.json")
    rows = [
        [
            f"`{name}`",
            *(f"{times[kind][which]:.2f}" for kind in ("wall", "cpu") for which in WHICH),
        ]
        for name, times in result["seconds"].items()
    ]
    title = f"least and median of {result['rounds']}, load {result['load_before']:.0f}"
    return table([title, "wall, s", "median", "CPU, s", "median"], rows)


WHICH = ("least", "median")
