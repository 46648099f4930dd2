"""Tables of masks that are put into trained networks."""

from __future__ import annotations

import statistics

from rows import read, table

STARTS = ("as the class", "trained")


def _runs(network: str) -> list[dict]:
    return [run for run in read("trained-start.json")["runs"] if run["network"] == network]


def _error(found: list[dict], way: str) -> str:
    return f"{100 * statistics.fmean(one[way]['error'] for one in found):.1f}"


def start() -> str:
    """Return the errors before the first step: mean over the seeds, mean mask and sampled."""
    runs = _runs("six convolutions")
    before = 100 * statistics.fmean(run["before"]["error"] for run in runs)
    rows = [["the trained network", str(len(runs)), f"{before:.1f}", "", f"{before:.1f}", ""]]
    for key in runs[0]["layers"]:
        cells = [
            _error([run["layers"][key][start] for run in runs], way)
            for start in STARTS
            for way in ("mean", "sampled")
        ]
        rows.append([f"`{key}`", str(len(runs)), *cells])
    header = ["put in", "seeds", "class's start: mean mask, %", "sampled, %"]
    return table([*header, "`trained`: mean mask, %", "sampled, %"], rows)


def after() -> str:
    """Return what training on makes of beta-Bernoulli masks from either start."""
    rows = []
    for network in ("six convolutions", "300-100"):
        runs = _runs(network)
        before = 100 * statistics.fmean(run["before"]["error"] for run in runs)
        for start, title in zip(STARTS, ("its class's", "nearly open"), strict=True):
            found = [run["layers"]["beta-bernoulli"][start] for run in runs]
            after = [one["after training"] for one in found]
            units = statistics.fmean(sum(one["units"]) / sum(one["of"]) for one in found)
            cells = [f"{before:.1f}", _error(after, "mean"), _error(after, "sampled")]
            nll = statistics.fmean(one["sampled"]["nll"] for one in after)
            rows.append(
                [network, title, "1", str(len(runs)), *cells, f"{nll:.3f}", f"{100 * units:.0f}"]
            )
    header = ["network", "start of the masks", "KL", "seeds", "before, %", "mean mask, %"]
    return table([*header, "sampled, %", "NLL, sampled", "units kept, %"], rows)
