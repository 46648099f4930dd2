"""Tables of the study, from whatever of its jobs is finished."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import study_design as design
from rows import DATA, NETWORKS, table
from study_analysis import MEASURES, Difference, Resampling, Seeds, holm, verdicts
from study_evidence import load
from study_jobs import LATENCIES, PINS, RESULTS, Job, Plan

from bayesdrop.files import read_json

BASELINES = ("plain", "ensemble")
HEADLINE = (
    "plain",
    "ensemble",
    "dropout mean",
    "dropout sampled",
    "bb mean",
    "bb sampled",
    "sbp sampled",
    "l0 sampled",
)
"""The README's rows."""

WAYS = {"mean": "mean mask", "sampled": "sampled"}


@dataclass(frozen=True)
class Row:
    """A method's way of predicting, over its seeds.

    Args:
        title: As the table calls it.
        results: Seed to the job's figures.
        evidence: Seed to what was said of each image.
        way: ``"mean"`` or ``"sampled"``.
        unseen: AUROC of classes that a network has not seen, one a seed; may be empty.
    """

    title: str
    results: dict[int, dict[str, Any]]
    evidence: Seeds
    way: str
    unseen: list[float]

    def over_seeds(self, name: str) -> list[float]:
        """Return a figure of each seed; ``auroc fashion-mnist`` is nested."""
        first, *rest = name.split()
        values = [result["ways"][self.way][first] for result in self.results.values()]
        return [value[" ".join(rest)] if rest else value for value in values]

    def cost(self, name: str) -> list[Any]:
        """Return a cost of each seed, where it is known."""
        return [
            result["costs"][name] for result in self.results.values() if name in result["costs"]
        ]


def plan() -> Plan:
    """Return the jobs that the committed results are of, whatever is installed."""
    some = next(RESULTS.rglob("*.json"))
    return Plan(read_json(PINS), versions=read_json(some)["job"]["versions"])


def settings() -> list[tuple[str, str]]:
    """Return the networks and data of which a baseline is finished."""
    if not PINS.exists() or not any(RESULTS.rglob("*.json")):
        return []
    return [setting for setting in design.SETTINGS if "plain" in rows(*setting)]


def baselines(network: str, data: str) -> list[str]:
    """Return the baselines of a setting that are finished."""
    return [name for name in BASELINES if name in rows(network, data)]


def with_latency(job: Job, result: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a result with the latency that ``study_latency.py`` measured, where it does."""
    if result is None or job.network not in design.CONVOLUTIONAL:
        return result
    costs = {name: value for name, value in result["costs"].items() if name != "speedup"}
    measured = read_json(LATENCIES)["runs"] if LATENCIES.exists() else {}
    if job.name in measured:
        costs["speedup"] = measured[job.name]["speedup"]
    return {**result, "costs": costs}


@functools.cache
def rows(network: str, data: str) -> dict[str, Row]:
    """Return the rows that have two seeds or more: method and way to row."""
    jobs, found = plan(), {}
    for method, what in design.METHODS.items():
        for way in what.ways:
            done = {}
            for job in jobs.runs(network, data, method, way):
                result = with_latency(job, job.result(jobs.results))
                if result is not None and job.seed in design.SEEDS:
                    done[job.seed] = (result, load(jobs.results / f"{job.name}.npz")[way])
            if len(done) < 2:
                continue
            title = what.title + (f", {WAYS[way]}" if len(what.ways) > 1 else "")
            results = {seed: result for seed, (result, _) in done.items()}
            evidence = {seed: kept for seed, (_, kept) in done.items()}
            key = method if len(what.ways) == 1 else f"{method} {way}"
            others = [
                job.result(jobs.results) for job in jobs.held_out(network, data, method, way)
            ]
            unseen = [
                value
                for result in others
                if result is not None
                for value in result["ways"][way]["auroc"].values()
            ]
            found[key] = Row(title, results, evidence, way, unseen)
    return found


_resampling = functools.cache(Resampling)


@functools.cache
def differences(network: str, data: str, baseline: str) -> dict[str, dict[str, Difference]]:
    """Return measure to row to its difference from a baseline."""
    found = rows(network, data)
    if baseline not in found:
        return {}
    resampling = _resampling(len(next(iter(found[baseline].evidence.values())).correct))
    return {
        measure: {
            key: resampling.compare(row.evidence, found[baseline].evidence, measure)
            for key, row in found.items()
            if key != baseline
        }
        for measure in MEASURES
    }


def figures(network: str, data: str) -> str:
    """Return the table of a setting: figures, what they cost, and what the differences bear."""
    header = [f"{NETWORKS[network]} on {DATA[data]}", "seeds", "KL", "error %", "NLL", "ECE"]
    header += ["AURC", f"AUROC {DATA[design.OTHER[data]]}", "AUROC unseen classes", "NLL, shifted"]
    header += ["units", "FLOPs", "faster", "kB", "CPU s"]
    header += [f"beside {name}" for name in BASELINES]
    lines = []
    for key, row in rows(network, data).items():
        shift = [statistics.fmean(of["nll"][1:]) for of in row.over_seeds("shift")]
        lines.append(
            [
                row.title,
                str(len(row.results)),
                _kl(row),
                _spread(row.over_seeds("error"), 2),
                _spread(row.over_seeds("nll"), 4),
                _spread(row.over_seeds("ece"), 4),
                _spread([1000 * value for value in row.over_seeds("aurc")], 2),
                _spread(row.over_seeds(f"auroc {design.OTHER[data]}"), 3),
                _spread(row.unseen, 3) if len(row.unseen) > 1 else "",
                _spread(shift, 3),
                _units(row),
                _flops(network, data, row),
                _faster(row),
                f"{statistics.median(row.cost('bytes')) / 1024:,.0f}",
                f"{statistics.median(row.cost('cpu_seconds')):.0f}",
                *(_signs(network, data, name, key) for name in BASELINES),
            ]
        )
    told = [i for i in range(len(header)) if any(line[i] for line in lines)]
    return table([header[i] for i in told], [[line[i] for i in told] for line in lines])


def headline() -> str:
    """Return the README's table: some rows on both data sets, MNIST's figures first."""
    network, sets = "lenet-500-300", ("mnist", "fashion-mnist")
    found = [rows(network, data) for data in sets]
    lines = []
    for key in HEADLINE:
        both = [of[key] for of in found]
        line = [both[0].title, _either([_kl(row) for row in both])]
        for name, digits in (("error", 2), ("nll", 3), ("ece", 4)):
            means = [statistics.fmean(row.over_seeds(name)) for row in both]
            line.append(" / ".join(f"{mean:.{digits}f}" for mean in means))
        other = [
            statistics.fmean(row.over_seeds(f"auroc {design.OTHER[data]}"))
            for row, data in zip(both, sets, strict=True)
        ]
        line.append(" / ".join(f"{auroc:.3f}" for auroc in other))
        line.append(_either([_flops(network, *of) for of in zip(sets, both, strict=True)]))
        for name in BASELINES:
            line.append(_either([_signs(network, data, name, key) for data in sets]))
        lines.append(line)
    seeds = {len(of[key].results) for of in found for key in HEADLINE}
    names = " / ".join(DATA[data] for data in sets)
    header = [f"{NETWORKS[network]} on {names}, {_either(map(str, sorted(seeds)))} seeds", "KL"]
    header += ["error %", "NLL", "ECE", "AUROC of the other", "FLOPs"]
    return table([*header, *(f"beside {name}" for name in BASELINES)], lines)


def _either(cells: Iterable[str]) -> str:
    return " / ".join(dict.fromkeys(cells))


def beside(network: str, data: str, baseline: str) -> str:
    """Return the table of differences from a baseline, with what could have been seen."""
    found = differences(network, data, baseline)
    header = [f"less {rows(network, data)[baseline].title}", "seeds", "KL"]
    for name in ("error, points", "NLL", "ECE"):
        header += [name, "p (Holm)", "detectable"]
    lines = []
    corrected = {
        measure: holm({key: of.p for key, of in found[measure].items()}) for measure in MEASURES
    }
    for key, row in rows(network, data).items():
        if key == baseline:
            continue
        cells = [row.title, str(found["error"][key].seeds), _kl(row)]
        for measure, digits in zip(MEASURES, (2, 4, 4), strict=True):
            of = found[measure][key]
            interval = f"({of.low:+.{digits}f} to {of.high:+.{digits}f})"
            cells += [f"{of.value:+.{digits}f} {interval}", _p(corrected[measure][key])]
            cells.append(f"{of.detectable:.{digits}f}")
        lines.append(cells)
    return table(header, lines)


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _flops(network: str, data: str, row: Row) -> str:
    totals = rows(network, data)["plain"].cost("flops") * len(design.MEMBERS)
    shares = [total / own for total, own in zip(totals, row.cost("flops"), strict=False)]
    return f"{statistics.median(shares):.1f}x"


def _signs(network: str, data: str, baseline: str, key: str) -> str:
    found = differences(network, data, baseline)
    if key == baseline or not found:
        return ""
    return " ".join(verdicts(found[measure])[key] for measure in MEASURES)


def _kl(row: Row) -> str:
    return " / ".join(sorted({result["kl"] for result in row.results.values()}))


def _spread(values: list[float], digits: int) -> str:
    deviation = statistics.stdev(values)
    return f"{statistics.fmean(values):.{digits}f} ± {deviation:.{digits}f}"


def _faster(row: Row) -> str:
    # Measured beside the uncut network, in turns; few seeds had the machine to themselves.
    measured = row.cost("speedup")
    if not measured:
        return ""
    return " / ".join(f"{statistics.median(of[n] for of in measured):.1f}x" for n in ("1", "100"))


def _units(row: Row) -> str:
    units = [value for value in row.cost("units") if value]
    if not units:
        return ""
    return "-".join(str(round(statistics.median(layer))) for layer in zip(*units, strict=True))
