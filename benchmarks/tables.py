"""Write the tables of all pages from the committed results.

    python benchmarks/tables.py

Each table stands between ``<!-- NAME -->`` and ``<!-- /NAME -->`` in one of ``PAGES``; tests check
that these hold what this command writes, and no other table with figures.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "benchmarks" / "README.md",
)

METHODS = {
    "": [("plain", "plain network")],
    "-dropout": [("plain", "nn.Dropout(0.5)")],
    "-bb": [("mean_mask", "BB, mean mask"), ("monte_carlo", "BB, Monte Carlo")],
    "-bb-scaled": [("mean_mask", "BB, convolutions' KL scaled, mean mask")],
    "-dbb": [("mean_mask", "DBB, mean mask"), ("monte_carlo", "DBB, Monte Carlo")],
    "-ibp-5": [("mean_mask", "Indian buffet, concentration 5")],
    "-ibp-20": [("mean_mask", "Indian buffet, concentration 20")],
    "-ibp-50": [("mean_mask", "Indian buffet, concentration 50")],
    "-hibp": [("mean_mask", "hierarchical Indian buffet")],
    "-sbp": [
        ("mean_mask", "structured Bayesian pruning, mean"),
        ("monte_carlo", "structured Bayesian pruning, sampled"),
    ],
    "-l0": [("mean_mask", "L0 hard concrete, test gates")],
    "-sparse-vd": [
        ("mean_mask", "sparse variational dropout, mean"),
        ("monte_carlo", "sparse variational dropout, sampled"),
    ],
}
"""Suffix of a recipe to the methods that its table shows."""

WIDTHS = {
    "lenet-500-300": "784-500-300",
    "lenet-300-100": "784-300-100",
    "lenet5-caffe": "20-50-800-500",
}
DATA = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}
NETWORKS = {"lenet-500-300": "LeNet-500-300", "lenet5-caffe": "LeNet5-Caffe"}
_ALL_NETWORKS = {**NETWORKS, "lenet-300-100": "LeNet-300-100"}

SIDE_BY_SIDE = {
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
    ("sbp", "mean"): "structured Bayesian pruning, mean",
    ("sbp", "sampled"): "structured Bayesian pruning, sampled",
    ("l0", "mean"): "L0 hard concrete, test gates",
    ("l0", "sampled"): "L0 hard concrete, sampled",
    ("sparse-vd", "mean"): "sparse variational dropout, mean",
    ("sparse-vd", "sampled"): "sparse variational dropout, sampled",
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
    ("vnd", "mean"): "variational nested dropout, full width",
}
"""Method and way of predicting to its row in the tables of ``methods.py``."""

NESTED = {
    "separate": "a network for each width",
    "nested-uniform": "nested, uniform",
    "nested-geometric": "nested, geometric",
    "vnd": "VND",
    "vnd-frozen": "VND, frozen order",
    "vnd-bayesian": "VND, Gaussian weights",
    "nested-shared": "nested, one width for all layers",
    "vnd-shared": "VND, one width for all layers",
    "vnd-shared-full": "VND, one width, full more often",
    "vnd-shared-bayesian": "VND, one width for all layers, Gaussian weights",
}
"""Methods of ``nested.py`` to their rows."""

NESTED_VAE = {
    "plain": "plain, features by their KL",
    "plain-small": "plain, trained at each size",
    "nested-uniform": "nested, uniform",
    "nested-geometric": "nested, geometric",
    "vnd": "VND",
}
"""Methods of ``nested_vae.py`` to their rows."""


IBP_VAE = {
    "plain": "plain VAE",
    "s-ibp": "structured IBP",
    "mf-ibp": "mean-field IBP",
}
"""Methods of ``ibp_vae.py`` to their rows."""

UCI = {
    "mc-dropout": "MC dropout",
    "concrete": "concrete dropout",
    "beta-bernoulli": "BB",
}
"""Methods of ``uci.py`` to their columns."""


def read(name: str) -> dict:
    return json.loads((RESULTS / name).read_text())


def table(header: list[str], rows: list[list[str]]) -> str:
    rule = ["---"] + ["--:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def spread(values: list[float], digits: int) -> str:
    """Return the median and the range of a figure over seeds."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    middle = sorted(values)[len(values) // 2]
    return f"{middle:.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def mnist(suite: str) -> str:
    """Return a suite's table: median over seeds, range in brackets."""
    result = read(f"{suite}.json")
    rows = []
    order = [suite + suffix for suffix in METHODS]
    for recipe, entry in sorted(result["recipes"].items(), key=lambda item: order.index(item[0])):
        for method, title in METHODS[recipe.removeprefix(suite)]:
            rows.append(_row(title, method, entry, WIDTHS[suite]))
        published = entry["published"]
        if published is not None:
            kept = "-".join(map(str, published.get("units", ())))
            if "compression" in published:
                kept = _weights(1 / published["compression"])
            speedup = f"{published['flops_speedup']}x" if "flops_speedup" in published else ""
            rows.append(["*published*", f"{published['error']}", "", "", "", kept, speedup])
    header = [f"{_ALL_NETWORKS[suite]} on MNIST", "error %", "NLL", "ECE", "AUROC Fashion", "kept"]
    return table([*header, "FLOPs"], rows)


def _row(title: str, method: str, entry: dict, widths: str) -> list[str]:
    runs, median = entry["runs"], entry["median"]
    ood = [run["ood_by_method"][method]["fashion-mnist"]["entropy"]["auroc"] for run in runs]
    units, speedup = widths, "1.0x"
    if "speedup" in median:
        units = "-".join(f"{count:.0f}" for count in median["average_units"])
        paper, needed = (
            spread([run["per_input"][key] for run in runs], 1)
            for key in ("speedup", "speedup_needed")
        )
        speedup = f"{paper}x, needed {needed}x"
    elif "compression" in median:
        units, speedup = _weights(1 / median["compression"]), ""
    elif "units" in median:
        units = "-".join(f"{count:.0f}" for count in median["units"])
        speedup = spread([run["flops_speedup"] for run in runs], 1) + "x"
    seeds = "" if len(runs) > 1 else " (1 seed)"
    figures = [("error", 2), ("nll", 4), ("ece", 4)]
    cells = [spread([run[key][method] for run in runs], digits) for key, digits in figures]
    return [title + seeds, *cells, spread(ood, 3), units, speedup]


def _weights(share: float) -> str:
    """Return how many weights are kept, also as what magnitude pruning calls compression."""
    return f"{100 * share:.2g} % of weights (1/{1 / share:.0f})"


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
            shown = _weights(sum(run["weights"]) / sum(run["weights_total"]))
        saved = "" if speedup is None else f"{speedup:.1f}x"
        rows.append([run["candidate"], *error, shown, saved])
    return table(["validation images, 1 seed", "error %", "sampled", "kept", "FLOPs"], rows)


def methods(suite: str, data: str) -> str:
    """Return the table of ``methods.py``: median over seeds, range in brackets."""
    result = read(f"methods-{suite}-{data}.json")
    rows = []
    for (method, way), title in SIDE_BY_SIDE.items():
        entries = result["methods"].get(method, {"rows": {}})["rows"].get(way)
        if entries is None:
            continue
        figures = [
            ("error", 2, 1),
            ("nll", 4, 1),
            ("ece", 4, 1),
            ("aurc", 2, 1000),
            ("auroc", 3, 1),
        ]
        cells = [
            spread([factor * entry[key] for entry in entries], digits)
            for key, digits, factor in figures
        ]
        size = statistics.median(entry["bytes"] for entry in entries) / 1000
        minutes = statistics.median(entry["minutes"] for entry in entries)
        kept = _kept(entries, WIDTHS[suite])
        seeds = "" if len(entries) > 1 else " (1 seed)"
        rows.append([title + seeds, *cells, *kept, f"{size:.0f}", f"{minutes:.1f}"])
    header = [f"{NETWORKS[suite]} on {DATA[data]}", "error %", "NLL", "ECE", "AURC x 1000"]
    return table([*header, f"AUROC {DATA[result['ood']]}", "kept", "FLOPs", "kB", "minutes"], rows)


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


def nested_results() -> dict[tuple[str, str], dict]:
    """Return the committed results of ``nested.py``: network and data to a file's content."""
    return {
        (network, data): read(f"nested-{network}-{data}.json")
        for network in NETWORKS
        for data in DATA
        if (RESULTS / f"nested-{network}-{data}.json").exists()
    }


def nested(network: str, data: str) -> str:
    """Return the table of ``nested.py``: means over seeds, of the area with standard errors."""
    result = read(f"nested-{network}-{data}.json")
    header = [f"{NETWORKS[network]} on {DATA[data]}", "area under accuracy"]
    shown = [("error", "error %", 2), ("nll", "NLL", 3), ("ece", "ECE", 3), ("auroc", "AUROC", 3)]
    header += [f"{label} at 1/8, 1/2, 1" for _, label, _ in shown]
    rows = []
    for method, title in NESTED.items():
        if method not in result["methods"]:
            continue
        entry = result["methods"][method]
        at = {row["width"]: row for row in entry["mean"]}
        cells = [f"{entry['area'][0]:.2f} ± {entry['area'][1]:.2f}"]
        for key, _, digits in shown:
            rows_at = [at[width] for width in (0.125, 0.5, 1.0)]
            values = [_ood(row) if key == "auroc" else row[key] for row in rows_at]
            cells.append(", ".join(f"{value:.{digits}f}" for value in values))
        narrow = [_drawn_narrow(run) for run in entry["runs"] if "open_prob" in run]
        cells.append(f"{statistics.fmean(narrow):.1g}" if narrow else "")
        rows.append([title, *cells])
    return table([*header, "drawn at <= 1/8"], rows)


def nested_full_width() -> str:
    """Return how many points of error each method has more than a network of full width alone."""
    results = nested_results()
    rows = []
    for method in ("nested-uniform", "nested-geometric", "vnd", "vnd-shared", "vnd-shared-full"):
        cells = []
        for result in results.values():
            entries = [result["methods"].get(name) for name in (method, "separate")]
            errors = [entry["mean"][-1]["error"] for entry in entries if entry is not None]
            cells.append(f"{errors[0] - errors[1]:.2f}" if len(errors) == 2 else "")
        rows.append([NESTED[method], *cells])
    header = [f"{NETWORKS[network]}, {DATA[data]}" for network, data in results]
    return table(["points of error at full width", *header], rows)


def _drawn_narrow(run: dict, width: float = 0.125) -> float:
    """Return the probability that a mask of training has no layer wider than ``width``."""
    result = 1.0
    laws = list(run["open_prob"].values())
    for open_prob in laws[:1] if "-shared" in run["method"] else laws:
        groups = len(open_prob) + 1  # the first is always open
        wider = math.prod(open_prob[: math.floor(width * groups)])
        result *= 1.0 - wider
    return result


def nested_choice() -> str:
    """Return the table of nested candidates on validation images."""
    rows = []
    merged: dict[tuple, dict] = {}
    for run in read("nested-choice.json")["runs"]:
        settings = tuple(run.get(name) for name in ("method", "seed", "epochs", *_COUNTED))
        key = (run["network"], run["data"], *settings)
        if key in merged:  # networks trained at one width each
            merged[key]["rows"] = merged[key]["rows"] + run["rows"]
        else:
            merged[key] = dict(run)
    for run in merged.values():
        at = {row["width"]: row for row in run["rows"]}
        shown = [at.get(width) for width in (0.125, 0.5, 1.0)]
        cells = [
            ", ".join("" if row is None else f"{row[key]:.{digits}f}" for row in shown)
            for key, digits in (("error", 2), ("ece", 3))
        ]
        auroc = ", ".join("" if row is None else f"{_ood(row):.3f}" for row in shown)
        values = [run.get(name) for name in _COUNTED]
        counted = ["" if value is None else f"{value:g}" for value in values]
        # With fewer widths the area is another one.
        area = f"{run['area']:.2f}" if len(at) == len(_WIDTHS_SWEPT) else ""
        title = f"{NETWORKS[run['network']]}, {DATA[run['data']]}: {NESTED[run['method']]}"
        rows.append([title, str(run["epochs"]), *counted, area, *cells, auroc])
    header = ["validation images, 1 seed", "epochs", "order's KL", "weights' KL", "P(full)"]
    header += ["area", "error % at 1/8, 1/2, 1", "ECE", "AUROC"]
    return table(header, rows)


_COUNTED = ("order_kl_scale", "weight_kl_scale", "full_prob")
_WIDTHS_SWEPT = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


def _ood(row: dict) -> float:
    return next(iter(row["auroc"].values()))


def nested_vae() -> str:
    """Return the table of ``nested_vae.py``: means over seeds."""
    result = read("nested-vae.json")
    widths = ["2", "8", "16", "40"]
    header = ["binarised MNIST, test images", *(f"{width} features" for width in widths)]
    rows = []
    for key, sign, words, digits in (
        ("elbo", -1, "minus ELBO", 1),
        ("squared_error", 1, "squared error", 1),
    ):
        for method, title in NESTED_VAE.items():
            at = result["mean"][method]
            cells = [f"{sign * at[w][key][0]:.{digits}f}" if w in at else "" for w in widths]
            rows.append([f"{words}: {title}", *cells])
    return table(header, rows)


def ibp_vae() -> str:
    """Return the table of ``ibp_vae.py``: medians over seeds, the published figures beside."""
    result = read("ibp-vae.json")
    rows = []
    for method, title in IBP_VAE.items():
        runs = [run for run in result["runs"] if run["method"] == method]
        figures = {
            "test": [run["test"]["exact"]["iwae"] for run in runs],
            "train": [run["train_10000"]["exact"]["iwae"] for run in runs],
            "relaxed": [
                run["test"]["relaxed"]["published_metric"]
                for run in runs
                if "relaxed" in run["test"]
            ],
            "published": [result["published"].get(method, {}).get("test")],
            "used": [run["features_per_example"] for run in runs],
            "open": [run["features_in_use"] for run in runs],
        }
        cells = [
            "" if v in ([], [None]) else f"{statistics.median(v):.1f}" for v in figures.values()
        ]
        epochs = "/".join(sorted({str(run["epochs"]) for run in runs}))
        rows.append([title, str(len(runs)), epochs, *cells])
    header = ["binarised MNIST, nats", "seeds", "epochs", "test", "training images"]
    header += ["test, relaxed masks", "published", "features an image", "features in use"]
    return table(header, rows)


def concrete() -> str:
    """Return the table of ``concrete_regression.py``, the published numbers in brackets."""
    result = read("concrete-regression.json")
    published = result["published"]
    rows = []
    for size, row in result["mean"].items():
        figures = [
            f"{row[key]:.2f} ({published[key][size]:.2f})"
            for key in ("rmse", "aleatoric", "epistemic", "hidden_drop_prob")
        ]
        rows.append([size, *figures])
    header = ["training points", "RMSE", "aleatoric", "epistemic", "hidden drop rate"]
    return table(header, rows)


def uci(measure: str) -> str:
    """Return the table of one measure of ``uci.py``: means over the splits, standard errors."""
    result = read("uci.json")
    rows = []
    for row in result["summary"]:
        by_method = row["methods"]
        cells = [_mean_of(result["published"][measure][row["set"]], 2)]
        means = [by_method[method][measure] for method in UCI if method in by_method]
        # The published figures have two decimals, which leave nothing of an RMSE of 0.003.
        decimals = 4 if max(abs(mean) for mean, _ in means) < 0.2 else 2
        cells += [
            _mean_of(by_method[method][measure], decimals) if method in by_method else ""
            for method in UCI
        ]
        splits = {entry["splits"] for entry in by_method.values()}
        rows.append([row["set"], "/".join(map(str, sorted(splits))), f"{row['epochs']}", *cells])
    words = {"rmse": "RMSE", "log_likelihood": "log-likelihood"}[measure]
    header = [f"test {words}", "splits", "epochs", "published, 4,000 epochs"]
    return table([*header, *UCI.values()], rows)


def uci_differences() -> str:
    """Return the table of paired differences from MC dropout, over the splits of ``uci.py``."""
    rows = [
        [
            row["set"],
            *(
                _mean_of(row["differences"][method][measure], 4 if measure == "rmse" else 3)
                for measure in ("rmse", "log_likelihood")
                for method in ("concrete", "beta-bernoulli")
            ),
        ]
        for row in read("uci.json")["summary"]
    ]
    header = ["less MC dropout's on the same splits", "RMSE: concrete", "BB"]
    return table([*header, "log-likelihood: concrete", "BB"], rows)


def _mean_of(pair: list[float], decimals: int) -> str:
    return f"{pair[0]:.{decimals}f} ± {pair[1]:.{decimals}f}"


def steps() -> str:
    """Return the table of training-step times."""
    result = read("step_time.json")
    rows = [
        [name, *(f"{result[network][name]['ratio']:.2f}" for network in NETWORKS)]
        for name in result["lenet-500-300"]
    ]
    return table([f"training step, {result['threads']} thread(s)", *NETWORKS.values()], rows)


def predictions() -> str:
    """Return the table of prediction times."""
    result = read("predict_time.json")
    titles = {
        "plain_passes": "64 plain passes",
        "predict_shared": "bd.predict, one mask per posterior sample",
        "predict_per_example": 'bd.predict, shared_by="example"',
        "stock_predictive": "stock Predictive",
    }
    ratios = result["ratio_to_plain_passes"]["seconds"]
    rows = [[title, f"{ratios[key]:.2f}"] for key, title in titles.items()]
    return table([f"prediction, {result['threads']} thread(s)", "time"], rows)


def rewrite(text: str) -> str:
    """Return a page with its tables replaced by those of the committed results."""
    for name in names(text):
        if name not in TABLES:
            raise ValueError(f"expected a table of {sorted(TABLES)}, got <!-- {name} -->.")
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        content = TABLES[name]() + "\n"
        text = pattern.sub(lambda match, body=content: match[1] + body + match[2], text)
    return text


def names(text: str) -> list[str]:
    """Return the names of a page's tables."""
    return re.findall(r"<!-- ([\w-]+) -->", text)


TABLES = {
    "lenet-500-300": partial(mnist, "lenet-500-300"),
    "lenet5-caffe": partial(mnist, "lenet5-caffe"),
    "lenet-500-300-choice": partial(choice, "lenet-500-300"),
    "lenet-300-100-choice": partial(choice, "lenet-300-100"),
    "lenet5-caffe-choice": partial(choice, "lenet5-caffe"),
    "nested-choice": nested_choice,
    "ibp-vae": ibp_vae,
    "concrete": concrete,
    "steps": steps,
    "predict": predictions,
}
if (RESULTS / "nested-vae.json").exists():
    TABLES["nested-vae"] = nested_vae
if (RESULTS / "uci.json").exists():
    TABLES["uci-rmse"] = partial(uci, "rmse")
    TABLES["uci-log-likelihood"] = partial(uci, "log_likelihood")
    TABLES["uci-differences"] = uci_differences
if (RESULTS / "lenet-300-100.json").exists():
    TABLES["lenet-300-100"] = partial(mnist, "lenet-300-100")
TABLES["nested-full-width"] = nested_full_width
TABLES |= {f"nested-{key[0]}-{key[1]}": partial(nested, *key) for key in nested_results()}
TABLES |= {
    f"methods-{suite}-{data}": partial(methods, suite, data)
    for suite in NETWORKS
    for data in DATA
    if (RESULTS / f"methods-{suite}-{data}.json").exists()
}


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(rewrite(page.read_text()))
