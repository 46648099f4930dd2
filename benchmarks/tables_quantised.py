"""Tables of Bayesian compression, from ``quantised.py``."""

from __future__ import annotations

import statistics

from rows import RESULTS, epochs_of, kl_factor, read, spread, table

TITLES = {
    "digits-mlp": "digits",
    "lenet-500-300": "LeNet-500-300",
    "lenet5-caffe": "LeNet5-Caffe",
}
METHODS = {
    "gaussian-weights": "Gaussian weights",
    "normal-jeffreys": "GNJ",
    "group-horseshoe": "GHS",
}
PUBLISHED = {
    ("lenet5-caffe", "GNJ"): ("1.0", "8-13-88-13", "108", "361"),
    ("lenet5-caffe", "GHS"): ("1.0", "5-10-76-16", "156", "419"),
}
"""Louizos, Ullrich, Welling (2017): error, units, compression after pruning and after precision;
the architectures as Louizos, Welling, Kingma (2018) quote them."""


def quantised() -> str:
    """Return errors before and after pruning and rounding, and sizes, beside published ones."""
    header = [
        "network, prior",
        "seeds",
        "epochs",
        "KL",
        "all units, error %",
        "pruned",
        "rounded",
        "sampled",
    ]
    header += ["units", "bits", "weights / left", "with bits", "bytes / file", "kB"]
    rows = []
    for network, where in TITLES.items():
        if (RESULTS / f"quantised-{network}.json").exists():
            rows += _of_network(network, where)
    return table(header, rows)


def choice() -> str:
    """Return candidates of each network: objectives, and figures of held-out images."""
    header = ["network, prior, candidate", "seeds", "epochs", "KL", "objective", "of which KL"]
    header += ["all units, error %", "NLL", "pruned, error %", "units"]
    rows = []
    for network, where in TITLES.items():
        if not (RESULTS / f"quantised-{network}-choice.json").exists():
            continue
        runs = read(f"quantised-{network}-choice.json")["runs"]
        for key, title in METHODS.items():
            found = [run for run in runs if run["recipe"] == f"{network}-{key}"]
            for candidate in dict.fromkeys(run["candidate"] for run in found):
                own = [run for run in found if run["candidate"] == candidate]
                settings = own[0]["settings"]
                cells = [str(len(own)), epochs_of(settings), kl_factor(settings)]
                cells += [spread([run[name] for run in own], 3) for name in ("loss", "kl")]
                cells.append(spread([run["all_units"]["error"] for run in own], 2))
                cells.append(spread([run["all_units"]["nll"] for run in own], 3))
                cells.append(spread([run["pruned"]["error"] for run in own], 2))
                cells.append(_middles([run["units"] for run in own]))
                rows.append([f"{where}, {title}, {candidate}", *cells])
    return table(header, rows)


def _of_network(network: str, where: str) -> list[list[str]]:
    runs = read(f"quantised-{network}.json")["runs"]
    rows = []
    for key, title in METHODS.items():
        own = [run for run in runs if run["recipe"] == f"{network}-{key}"]
        if not own:
            continue
        settings, files = own[0]["settings"], [run["file"] for run in own]
        cells = [str(len(own)), epochs_of(settings), kl_factor(settings)]
        for stage in ("all_units", "pruned", "rounded", "sampled"):
            cells.append(spread([run[stage]["error"] for run in own], 2))
        cells += [_middles([run["architecture"] for run in own])]
        cells += [_middles([list(run["bits"].values()) for run in own], 1)]
        for name in ("pruned", "pruned_and_rounded", "compression"):
            cells.append(spread([file[name] for file in files], 1))
        cells += [spread([file["file_bytes"] / 1000 for file in files], 1)]
        rows.append([f"{where}, {title}", *cells])
        if (network, title) in PUBLISHED:
            error, units, pruned, bits = PUBLISHED[network, title]
            theirs = ["theirs"] * 3 + ["", "", error, "", units, "", pruned, bits, "", ""]
            rows.append(["*published*", *theirs])
    return rows


def _middles(values: list[list[float]], digits: int = 0) -> str:
    columns = zip(*values, strict=True)
    return "-".join(f"{statistics.median(column):.{digits}f}" for column in columns)
