"""Tables of ``methods.py``: figures, what they are beside others, and dataset shift."""

from __future__ import annotations

import statistics

import tables_study
from paired import by_seed, signs
from rows import DATA, NETWORKS, NO_KL, WIDTHS, epochs_of, kl_factor, read, spread, table

TITLES = {
    ("plain", "mean"): "plain network",
    ("dropout", "mean"): "nn.Dropout(0.5), off at test",
    ("dropout", "sampled"): "nn.Dropout(0.5), sampled (MC dropout)",
    ("plain", "ensemble"): "deep ensemble of 5",
    ("bb", "mean"): "BB, mean mask",
    ("bb", "sampled"): "BB, sampled",
    ("dbb", "mean"): "DBB, mean mask",
    ("dbb", "sampled"): "DBB, sampled",
    ("ibp-20", "mean"): "Indian buffet, mean mask",
    ("ibp-20", "sampled"): "Indian buffet, sampled",
    ("sbp", "mean"): "SBP, mean mask",
    ("sbp", "sampled"): "SBP, sampled",
    ("l0", "mean"): "L0, test gates",
    ("l0", "sampled"): "L0, sampled",
    ("sparse-vd", "mean"): "sparse VD, mean weights",
    ("sparse-vd", "sampled"): "sparse VD, sampled",
    ("generalized", "mean"): "generalized, architecture, mean mask",
    ("generalized", "sampled"): "generalized, architecture, sampled",
    ("generalized-uniform", "mean"): "Dropout++, mean mask",
    ("generalized-uniform", "sampled"): "Dropout++, sampled",
    ("standout", "mean"): "StandOut, mean mask",
    ("standout", "sampled"): "StandOut, sampled",
    ("contextual", "mean"): "contextual, mean mask",
    ("contextual", "sampled"): "contextual, sampled",
    ("ssl", "mean"): "group lasso",
    ("targeted", "mean"): "targeted dropout of units, off at test",
    ("targeted", "sampled"): "targeted dropout of units, sampled",
    ("targeted-dropconnect", "mean"): "targeted dropout of weights, off at test",
    ("targeted-dropconnect", "sampled"): "targeted dropout of weights, sampled",
    ("gaussian-weights", "mean"): "Gaussian weights, mean weights",
    ("gaussian-weights", "sampled"): "Gaussian weights, sampled",
    ("gnj", "mean"): "GNJ, mean scales and weights",
    ("gnj", "sampled"): "GNJ, sampled",
    ("ghs", "mean"): "GHS, mean scales and weights",
    ("ghs", "sampled"): "GHS, sampled",
    ("concrete", "mean"): "concrete dropout, off at test",
    ("concrete", "sampled"): "concrete dropout, sampled",
    ("gaussian", "mean"): "Gaussian dropout, off at test",
    ("gaussian", "sampled"): "Gaussian dropout, sampled",
    ("dropconnect", "mean"): "dropconnect, off at test",
    ("dropconnect", "sampled"): "dropconnect, sampled",
    ("gaussian-dropconnect", "mean"): "Gaussian dropconnect, off at test",
    ("gaussian-dropconnect", "sampled"): "Gaussian dropconnect, sampled",
    ("spike-and-slab", "mean"): "spike and slab, off at test",
    ("spike-and-slab", "sampled"): "spike and slab, sampled",
}
"""Method and way of predicting to its row."""

IN_STUDY = {"ibp-20": "ibp", "ssl": "group-lasso", "gnj": "normal-jeffreys"}
"""What the study calls a method, where it has another name there."""

PAIRED = ["error", "nll", "ece", "auroc"]
SEVERITIES = ("1", "3", "5", "area")
SHIFTED = [f"shift {name} area" for name in ("accuracy", "nll", "ece")]


def shown(suite: str, data: str) -> list[tuple[str, str]]:
    """Return the methods and ways of a file that the study has not, and its two baselines."""
    result = read(f"methods-{suite}-{data}.json")
    studied = {key.split()[0] for key in tables_study.rows(suite, data)}
    return [
        (name, way)
        for name, way in TITLES
        if way in result["methods"].get(name, {"rows": {}})["rows"]
        and (name == "plain" or IN_STUDY.get(name, name) not in studied)
    ]


def _rows(suite: str, data: str) -> tuple[dict, dict[tuple[str, str], tuple[dict, list[dict]]]]:
    """Return the file, and method and way to its settings and its entries by seed."""
    result = read(f"methods-{suite}-{data}.json")
    methods = {key: result["methods"][key[0]] for key in shown(suite, data)}
    return result, {key: (of["settings"], of["rows"][key[1]]) for key, of in methods.items()}


def _about(key: tuple[str, str], settings: dict, entries: list[dict]) -> list[str]:
    epochs, factor = epochs_of(settings), kl_factor(settings)
    if key[1] == "ensemble":
        epochs, factor = f"{len(entries[0]['members'])} x {epochs}", NO_KL
    return [str(len(entries)), epochs, factor]


def _beside(
    key: tuple[str, str], entries: list[dict], rows: dict, measures: list[str]
) -> list[str]:
    """Return the signs beside the plain network and beside the ensemble."""
    cells = []
    for other in (("plain", "mean"), ("plain", "ensemble")):
        cells.append("" if key == other else signs(entries, rows[other][1], measures))
    return cells


def methods(suite: str, data: str) -> str:
    """Return the table of figures: median over seeds, range in brackets."""
    result, rows = _rows(suite, data)
    cells = []
    for key, (settings, entries) in rows.items():
        figures = [
            ("error", 2, 1),
            ("nll", 4, 1),
            ("ece", 4, 1),
            ("aurc", 2, 1000),
            ("auroc", 3, 1),
        ]
        shown = [
            spread([factor * entry[name] for entry in entries], digits)
            for name, digits, factor in figures
        ]
        minutes = statistics.median(entry["minutes"] for entry in entries)
        costs = [*_kept(entries, WIDTHS[suite]), _kilobytes(entries), f"{minutes:.1f}"]
        cells.append([TITLES[key], *_about(key, settings, entries), *shown, *costs])
    header = [f"{NETWORKS[suite]} on {DATA[data]}", "seeds", "epochs", "KL", "error %", "NLL"]
    header += ["ECE", "AURC x 1000", f"AUROC {DATA[result['ood']]}", "kept", "FLOPs", "kB"]
    return table([*header, "wall minutes"], cells)


def beside(suite: str, data: str) -> str:
    """Return what methods of several seeds are beside the plain network and the ensemble."""
    _, rows = _rows(suite, data)
    cells = []
    for key, (settings, entries) in rows.items():
        if len(entries) < 2:  # nothing can be said
            continue
        found = _beside(key, entries, rows, PAIRED) + _beside(key, entries, rows, SHIFTED)
        about = _about(key, settings, entries)
        cells.append([TITLES[key], about[0], about[2], found[0], found[1], found[2], found[3]])
    header = [f"{NETWORKS[suite]} on {DATA[data]}", "seeds", "KL", "beside plain", "ensemble"]
    return table([*header, "corrupted, beside plain", "ensemble"], cells)


def shift(suite: str, data: str) -> str:
    """Return accuracy, NLL and ECE of corrupted images, medians over seeds."""
    _, rows = _rows(suite, data)
    cells = []
    for key, (settings, entries) in rows.items():
        shown = []
        for name, digits in (("accuracy", 1), ("nll", 2), ("ece", 2)):
            values = [by_seed(entries, f"shift {name} {at}").values() for at in SEVERITIES]
            shown.append(", ".join(f"{statistics.median(v):.{digits}f}" for v in values))
        about = _about(key, settings, entries)
        cells.append([TITLES[key], about[0], about[2], *shown])
    header = [f"{NETWORKS[suite]} on {DATA[data]}, severity 1, 3, 5, area", "seeds", "KL"]
    return table([*header, "right %", "NLL", "ECE"], cells)


def _kilobytes(entries: list[dict]) -> str:
    return f"{statistics.median(entry['bytes'] for entry in entries) / 1000:.0f}"


def _kept(entries: list[dict], widths: str) -> tuple[str, str]:
    """Return the units, or the share of the weights, and the speed-up in FLOPs; medians."""
    if "members" in entries[0]:
        return f"{len(entries[0]['members'])} x {widths}", f"1/{len(entries[0]['members'])}x"
    speedups = [entry["flops_speedup"] for entry in entries]
    speedup = "" if None in speedups else f"{statistics.median(speedups):.1f}x"
    if entries[0].get("weights"):
        share = statistics.median(sum(e["weights"]) / sum(e["weights_total"]) for e in entries)
        if share < 1:
            return f"{100 * share:.1f} % of weights", speedup
    layers = list(zip(*(entry["units"] for entry in entries), strict=True))
    kept = [f"{statistics.median(units):.0f}" for units in layers]
    # Where only the last layers have masks, the others have all their units.
    return "-".join([*widths.split("-")[: -len(kept) or None], *kept]), speedup
