"""Tables of ``mnist.py``: recipes beside the published rows, and candidates."""

from __future__ import annotations

from mnist import CANDIDATES, changed
from paired import SIGNS, difference, noise_of_error
from rows import (
    ALL_NETWORKS,
    WIDTHS,
    epochs_of,
    kl_factor,
    read,
    spread,
    table,
    weights_kept,
)

from bayesdrop.recipes import get as get_recipe

METHODS = {
    "": [("plain", "plain network")],
    "-dropout": [("plain", "nn.Dropout(0.5)")],
    "-beta-bernoulli": [("mean_mask", "BB, mean mask"), ("monte_carlo", "BB, sampled")],
    "-beta-bernoulli-scaled": [("mean_mask", "BB, convolutions' KL scaled, mean mask")],
    "-dependent-beta-bernoulli": [
        ("mean_mask", "DBB, mean mask"),
        ("monte_carlo", "DBB, sampled"),
    ],
    "-dependent-beta-bernoulli-flat": [
        ("mean_mask", "DBB, flat gates, mean mask"),
        ("monte_carlo", "DBB, flat gates, sampled"),
    ],
    "-indian-buffet-5": [("mean_mask", "Indian buffet, concentration 5, mean mask")],
    "-indian-buffet-20": [("mean_mask", "Indian buffet, concentration 20, mean mask")],
    "-indian-buffet-50": [("mean_mask", "Indian buffet, concentration 50, mean mask")],
    "-structured-bayesian-pruning": [
        ("mean_mask", "SBP, mean mask"),
        ("monte_carlo", "SBP, sampled"),
    ],
    "-structured-bayesian-pruning-published": [
        ("mean_mask", "SBP, published schedule, mean mask"),
        ("monte_carlo", "SBP, published schedule, sampled"),
    ],
    "-group-lasso": [("mean_mask", "group lasso")],
    "-generalized": [
        ("mean_mask", "generalized, architecture, mean mask"),
        ("monte_carlo", "generalized, architecture, sampled"),
    ],
    "-generalized-uniform": [
        ("mean_mask", "Dropout++, mean mask"),
        ("monte_carlo", "Dropout++, sampled"),
    ],
    "-standout": [("mean_mask", "StandOut, mean mask"), ("monte_carlo", "StandOut, sampled")],
    "-contextual": [
        ("mean_mask", "contextual, mean mask"),
        ("monte_carlo", "contextual, sampled"),
    ],
    "-hard-concrete": [("mean_mask", "L0, test gates"), ("monte_carlo", "L0, sampled")],
    "-hard-concrete-published": [
        ("mean_mask", "L0 from scratch, test gates"),
        ("monte_carlo", "L0 from scratch, sampled"),
    ],
    "-sparse-variational": [
        ("mean_mask", "sparse VD, mean weights"),
        ("monte_carlo", "sparse VD, sampled"),
    ],
    "-sparse-variational-published": [
        ("mean_mask", "sparse VD, published rule, mean weights"),
        ("monte_carlo", "sparse VD, published rule, sampled"),
    ],
}
"""Suffix of a recipe to the methods that its table shows."""

THEIRS = "theirs"
"""In the columns of seeds, epochs and factors of a published row."""


def mnist(suite: str) -> str:
    """Return a suite's table: median over seeds, range in brackets."""
    found = read(f"{suite}.json")["recipes"]
    recipes = {get_recipe(name).name: entry for name, entry in found.items()}  # of today
    plain = recipes.get(suite)
    rows = []
    order = [suite + suffix for suffix in METHODS]
    in_order = sorted(recipes.items(), key=lambda item: order.index(item[0]))
    for place, (recipe, entry) in enumerate(in_order):
        for method, title in METHODS[recipe.removeprefix(suite)]:
            rows.append(_row(title, method, entry, WIDTHS[suite], plain))
        published = entry["published"]
        # Below the last of those that stand beside it.
        if published is not None and all(
            e["published"] != published for _, e in in_order[place + 1 :]
        ):
            kept = "-".join(map(str, published.get("units", ())))
            if "compression" in published:
                kept = weights_kept(1 / published["compression"])
            speedup = f"{published['flops_speedup']}x" if "flops_speedup" in published else ""
            error = f"{published['error']}"
            rows.append(["*published*", THEIRS, THEIRS, THEIRS, error, "", "", "", kept, speedup])
            if plain is not None:
                rows[-1].append("")
    header = [f"{ALL_NETWORKS[suite]} on MNIST", "seeds", "epochs", "KL", "error %", "NLL", "ECE"]
    header += ["AUROC Fashion", "kept", "FLOPs"]
    return table(header + ["beside plain"] * (plain is not None), rows)


def _ood(run: dict, method: str) -> float:
    return run["ood_by_method"][method]["fashion-mnist"]["entropy"]["auroc"]


def _row(title: str, method: str, entry: dict, widths: str, plain: dict | None) -> list[str]:
    runs, median, settings = entry["runs"], entry["median"], entry["settings"]
    units, speedup = widths, "1.0x"
    if "speedup" in median:
        units = "-".join(f"{count:.0f}" for count in median["average_units"])
        paper, needed = (
            spread([run["per_input"][key] for run in runs], 1)
            for key in ("speedup", "speedup_needed")
        )
        speedup = f"{paper}x, needed {needed}x"
    elif "compression" in median:
        units, speedup = weights_kept(1 / median["compression"]), ""
    elif "units" in median:
        units = "-".join(f"{count:.0f}" for count in median["units"])
        speedup = spread([run["flops_speedup"] for run in runs], 1) + "x"
    figures = [("error", 2), ("nll", 4), ("ece", 4)]
    cells = [spread([run[key][method] for run in runs], digits) for key, digits in figures]
    cells.append(spread([_ood(run, method) for run in runs], 3))
    about = [str(len(runs)), epochs_of(settings), kl_factor(settings)]
    beside = [] if plain is None else [_beside(runs, method, plain["runs"])]
    return [title, *about, *cells, units, speedup, *beside]


def _beside(runs: list[dict], method: str, plain: list[dict]) -> str:
    if runs is plain:
        return ""
    found = []
    for key in ("error", "nll", "ece"):
        own = {run["seed"]: run[key][method] for run in runs}
        other = {run["seed"]: run[key]["plain"] for run in plain}
        noise = noise_of_error(sum(other.values()) / len(other)) if key == "error" else 0.0
        found.append(SIGNS[difference(own, other).verdict(at_least=noise)])
    own = {run["seed"]: _ood(run, method) for run in runs}
    other = {run["seed"]: _ood(run, "plain") for run in plain}
    found.append(SIGNS[difference(own, other).verdict(higher_is_better=True)])
    return " ".join(found)


def choice(suite: str) -> str:
    """Return the table of a suite's candidates on validation images."""
    rows = []
    for run in read(f"{suite}-choice.json")["runs"]:
        cost = run.get("per_input")
        units = run["units"] if cost is None else cost["units"].values()
        speedup = run["flops_speedup"] if cost is None else cost["speedup"]
        error = [f"{run['error'][method]:.2f}" for method in ("mean_mask", "monte_carlo")]
        shown = "-".join(f"{count:.0f}" for count in units)
        if run.get("weights"):
            shown = weights_kept(sum(run["weights"]) / sum(run["weights_total"]))
        saved = "" if speedup is None else f"{speedup:.1f}x"
        settings = _settings(run, suite)
        about = [epochs_of(settings), kl_factor(settings)]
        rows.append([run["candidate"], *about, *error, shown, saved])
    header = ["validation images, 1 seed", "epochs", "KL", "error %", "sampled", "kept", "FLOPs"]
    return table(header, rows)


def _settings(run: dict, suite: str) -> dict:
    """Return the recipe of a candidate with what the candidate changes."""
    known = CANDIDATES[suite].get(run["candidate"])
    changes = run["changes"] if known is None else known[1]
    return changed(get_recipe(run["recipe"]), changes).to_dict()
