"""Tables of what ``posterior.py``, ``several_masks.py`` and ``guarantees.py`` found."""

from __future__ import annotations

import statistics

from paired import SIGNS, difference, noise_of_error
from rows import NO_KL, RESULTS, read, table

DIGITS = {"error": 2, "nll": 4, "ece": 4, "auroc": 3}
LEVELS = ("0.5", "0.8", "0.9", "0.95")
TITLES = {"error": "error %", "nll": "NLL", "ece": "ECE", "auroc": "AUROC"}


def one_unit() -> str:
    """Return the exact posterior of one unit beside the fitted ones."""
    result = read("posterior.json")
    rates = sorted({row["rate"] for row in result["one-unit"]})
    found = {}
    for row in result["one-unit"]:
        key = (row["how"], row.get("masks"))
        found.setdefault(key, {})[row["rate"]] = f"{row['mean']:.3f} ± {row['deviation']:.3f}"
    nuts = result["nuts"]
    found["NUTS, masks summed out", None] = {
        0.5: f"{nuts['mean']:.3f} ± {nuts['deviation']:.3f}",
    }
    rows = []
    for (how, masks), values in found.items():
        words = {None: how, 1: f"{how}, one mask", "exact": f"{how}, all masks"}
        factor = "1" if masks is not None else NO_KL
        name = words.get(masks, f"{how}, {masks} masks")
        rows.append([name, factor, *(values.get(rate, "-") for rate in rates)])
    return table(["posterior", "KL", *(f"true rate {rate}" for rate in rates)], rows)


def simulation() -> str:
    """Return the coverage of central intervals for each prior and number of masks."""
    rows = []
    for row in read("posterior.json")["sbc"]:
        masks = "all" if row["masks"] == "exact" else str(row["masks"])
        cells = [f"{100 * row['coverage'][level]:.0f} %" for level in LEVELS]
        p_value = row["p_value"]
        shown = f"{p_value:.2f}" if p_value >= 0.01 else f"{p_value:.0e}"
        rows.append([row["prior"], "1", masks, *cells, shown])
    return table(["prior", "KL", "masks", "50 %", "80 %", "90 %", "95 %", "p"], rows)


def leave_one_out() -> str:
    """Return estimates of the leave-one-out log density beside the exact one."""
    columns = ("exact", "bd_loo", "az_loo", "az_loo_of_one_mask")
    rows = []
    for row in read("guarantees.json")["leave_one_out"]:
        shift = row["guide_shift_in_deviations"]
        guide = f"{shift:g} deviations off, " if shift else ""
        name = f"{row['num_examples']}, {guide}{row['guide_width']:g} times as wide"
        rows.append([name, *(f"{row[column]:.2f}" for column in columns)])
    titles = ("exact", "`bd.loo`", "`az.loo`", "`az.loo`, `num_masks=1`")
    return table(["examples, guide beside the posterior", *titles], rows)


def guarantees() -> str:
    """Return how often a threshold of guaranteed risk is refused, and how often it fails."""
    found: dict[tuple, dict[str, dict]] = {}
    for row in read("guarantees.json")["thresholds"]:
        key = (row["failure_probability"], row["target_risk"], row["num_examples"])
        found.setdefault(key, {})[row["choice"]] = row
    rows = []
    for (failure, target, number), by in found.items():
        new, old = by["in_order"], by["all_at_once"]
        rows.append(
            [
                f"{failure:g}, {100 * target:.0f} %, {number}",
                *(f"{100 * row['refused']:.0f} %" for row in (new, old)),
                *(f"{row['mean_coverage']:.2f}" for row in (new, old)),
                f"{new['largest_coverage_of_the_target']:.2f}",
                f"{100 * new['violated']:.1f} %",
                f"{100 * new['violated_in_the_worst_case']:.0f} %",
            ]
        )
    titles = ("refused: in order", "at once", "coverage: in order", "at once", "best possible")
    ends = ("violated: in order", "in the worst case")
    return table(["failure probability, target, examples", *titles, *ends], rows)


def several_masks(dataset: str) -> str:
    """Return what several masks cost and buy, on test images."""
    groups: dict[str, list[dict]] = {}
    for run in read(f"several-masks-{dataset}.json")["runs"]:
        groups.setdefault(run["row"], []).append(run)
    figures = [name for name in DIGITS if name in groups["plain"][0]["test"]["mean"]]
    images, rows = 600 if dataset == "digits" else 10_000, []
    for name, runs in groups.items():
        for way in ("mean", "sampled"):
            if way not in runs[0]["test"]:
                continue
            units = zip(*(run["units"] for run in runs), strict=True)
            rows.append(
                [
                    name if name == "plain" else f"{name}, {way}",
                    str(len(runs)),
                    NO_KL if name == "plain" else "1",
                    *(_mean([run["test"][way][f] for run in runs], DIGITS[f]) for f in figures),
                    _verdicts(runs, way, groups["plain"], "mean", images),
                    _verdicts(runs, way, groups["M=1"], way, images),
                    "-".join(f"{statistics.median(layer):.0f}" for layer in units) or "all",
                    f"{statistics.fmean(run['seconds'] for run in runs):.0f}",
                ]
            )
    header = ["test images", "seeds", "KL", *(TITLES[figure] for figure in figures)]
    return table([*header, "plain", "M=1", "kept", "CPU s"], rows)


def _mean(values: list[float], digits: int) -> str:
    text = f"{statistics.fmean(values):.{digits}f}"
    if len(values) < 2:
        return text
    return f"{text} ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}"


def _verdicts(runs: list[dict], way: str, others: list[dict], other_way: str, images: int) -> str:
    """Return the signs of error, NLL and ECE against other runs of the same seeds."""
    if runs is others and way == other_way:
        return ""
    signs = []
    for figure in ("error", "nll", "ece"):
        ours = {run["seed"]: run["test"][way][figure] for run in runs}
        theirs = {run["seed"]: run["test"][other_way][figure] for run in others}
        mean = statistics.fmean(theirs.values())
        noise = noise_of_error(mean, images) if figure == "error" else 0.0
        signs.append(SIGNS[difference(ours, theirs).verdict(at_least=noise)])
    return "".join(signs)


def committed() -> list[str]:
    """Return the data sets of which there are results."""
    return [
        name
        for name in ("digits", "mnist", "fashion-mnist")
        if (RESULTS / f"several-masks-{name}.json").exists()
    ]
