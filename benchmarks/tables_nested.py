"""Tables of ``nested.py`` and ``nested_vae.py``: one network at every width."""

from __future__ import annotations

import math
import statistics

from paired import LEVEL, SIGNS, difference
from rows import DATA, NETWORKS, NO_KL, RESULTS, committed, read, table

TITLES = {
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
    "nested-stratified": "nested, one width shared out, fixed noise on weights",
    "vnd-stratified": "VND, one width shared out, fixed noise on weights",
}
"""Methods of ``nested.py`` to their rows."""

VAE_TITLES = {
    "plain": "plain, features by their KL",
    "plain-small": "plain, trained at each size",
    "nested-uniform": "nested, uniform",
    "nested-geometric": "nested, geometric",
    "vnd": "VND",
}
"""Methods of ``nested_vae.py`` to their rows."""

_COUNTED = ("order_kl_scale", "weight_kl_scale", "full_prob", "drop_prob")
_WIDTHS_SWEPT = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


def results() -> dict[tuple[str, str], dict]:
    """Return the committed results of ``nested.py``: network and data to a file's content."""
    return {
        (network, data): read(f"nested-{network}-{data}.json")
        for network in NETWORKS
        for data in DATA
        if (RESULTS / f"nested-{network}-{data}.json").exists()
    }


def _factor(entry: dict) -> str:
    """Return the factors on the KL of the order and of the weights, as the file has them."""
    order, weights = entry.get("order_kl_scale"), entry.get("weight_kl_scale")
    found = [] if order is None else [f"{order:g} N"]
    return ", ".join(found if weights is None else [*found, f"weights {weights:g}"]) or NO_KL


def nested(network: str, data: str) -> str:
    """Return the table of ``nested.py``: means over seeds, of the area with standard errors."""
    result = read(f"nested-{network}-{data}.json")
    header = [f"{NETWORKS[network]} on {DATA[data]}", "seeds", "epochs", "KL"]
    header.append("area under accuracy")
    shown = [("error", "error %", 2), ("nll", "NLL", 3), ("ece", "ECE", 3), ("auroc", "AUROC", 3)]
    header += [f"{label} at 1/8, 1/2, 1" for _, label, _ in shown]
    rows = []
    for method, title in TITLES.items():
        if method not in result["methods"]:
            continue
        entry = result["methods"][method]
        at = {row["width"]: row for row in entry["mean"]}
        seeds = {run["seed"] for run in entry["runs"]}
        epochs = sorted({run["epochs"] for run in entry["runs"]})
        cells = [str(len(seeds)), "/".join(map(str, epochs)), _factor(entry)]
        cells.append(f"{entry['area'][0]:.2f} ± {entry['area'][1]:.2f}")
        for key, _, digits in shown:
            rows_at = [at[width] for width in (0.125, 0.5, 1.0)]
            values = [_ood(row) if key == "auroc" else row[key] for row in rows_at]
            cells.append(", ".join(f"{value:.{digits}f}" for value in values))
        narrow = [_drawn_narrow(run) for run in entry["runs"] if "open_prob" in run]
        cells.append(f"{statistics.fmean(narrow):.1g}" if narrow else "")
        rows.append([title, *cells])
    return table([*header, "drawn at <= 1/8"], rows)


def full_width() -> str:
    """Return how many points of error each method has more than a network of full width alone."""
    by_setting = results()
    rows = []
    for method in ("nested-uniform", "nested-geometric", "vnd", "vnd-shared", "vnd-shared-full"):
        cells = []
        for result in by_setting.values():
            entries = [result["methods"].get(name) for name in (method, "separate")]
            errors = [entry["mean"][-1]["error"] for entry in entries if entry is not None]
            cells.append(f"{errors[0] - errors[1]:.2f}" if len(errors) == 2 else "")
        rows.append([TITLES[method], _factor_everywhere(method), *cells])
    header = [f"{NETWORKS[network]}, {DATA[data]}" for network, data in by_setting]
    return table(["points of error at full width", "KL", *header], rows)


def areas() -> str:
    """Return paired differences in area from the uniform law, with what they bear."""
    by_setting = results()
    rows = []
    for method, title in TITLES.items():
        run = any(method in result["methods"] for result in by_setting.values())
        if not run or method in ("separate", "nested-uniform"):
            continue
        cells = []
        for result in by_setting.values():
            if method not in result["methods"]:
                cells.append("")
                continue
            own, other = (_areas(result["methods"][m]) for m in (method, "nested-uniform"))
            found = difference(own, other)
            sign = SIGNS[found.verdict(higher_is_better=True)]
            cells.append(f"{found.mean:+.2f} ± {found.error:.2f} ({sign})")
        rows.append([title, _factor_everywhere(method), *cells])
    header = [f"{NETWORKS[network]}, {DATA[data]}" for network, data in by_setting]
    return table(["area less the uniform law's", "KL", *header], rows)


def _areas(entry: dict) -> dict[int, float]:
    return {run["seed"]: run["area"] for run in entry["runs"]}


def _factor_everywhere(method: str) -> str:
    entries = [result["methods"].get(method) for result in results().values()]
    return "/".join(sorted({_factor(entry) for entry in entries if entry is not None}))


def _drawn_narrow(run: dict, width: float = 0.125) -> float:
    """Return the probability that a mask of training has no layer wider than ``width``."""
    result = 1.0
    laws = list(run["open_prob"].values())
    shares = "-shared" in run["method"] or "-stratified" in run["method"]
    for open_prob in laws[:1] if shares else laws:
        groups = len(open_prob) + 1  # the first is always kept
        wider = math.prod(open_prob[: math.floor(width * groups)])
        result *= 1.0 - wider
    return result


def claim() -> str:
    """Return the table of ``nested_claim.py``: differences from the fixed law at each width."""
    rows = []
    for network, data in ((n, d) for n in NETWORKS for d in DATA):
        name = f"nested-claim-{network}-{data}.json"
        if not committed(name):
            continue
        result = read(name)
        about = [str(len(result["seeds"])), str(result["epochs"])]
        for method, entry in result["methods"].items():
            for figure, found in (entry["less_baseline"] or {}).items():
                title = f"{NETWORKS[network]}, {DATA[data]}, {TITLES[method]}: {figure}"
                digits = 2 if figure == "error" else 3
                cells = [
                    f"{row['mean']:+.{digits}f} ({_claim_sign(figure, row)})" for row in found
                ]
                rows.append([title, *about, _factor(entry), *cells])
    header = ["less the fixed law's", "seeds", "epochs", "KL"]
    return table([*header, *(f"{8 * width:.0f}/8" for width in _WIDTHS_SWEPT)], rows)


def _claim_sign(figure: str, row: dict) -> str:
    if row["adjusted_p"] >= LEVEL:
        return SIGNS["level"]
    return SIGNS["better" if (row["mean"] > 0) == (figure == "auroc") else "worse"]


def choice() -> str:
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
        full = run.get("full_prob")
        noise = run.get("drop_prob")
        counted = [_factor(run), "" if full is None else f"{full:g}"]
        counted.append("" if noise is None else f"{noise:g}")
        # With fewer widths the area is another one.
        area = f"{run['area']:.2f}" if len(at) == len(_WIDTHS_SWEPT) else ""
        title = f"{NETWORKS[run['network']]}, {DATA[run['data']]}: {TITLES[run['method']]}"
        rows.append([title, str(run["epochs"]), *counted, area, *cells, auroc])
    header = ["validation images, 1 seed", "epochs", "KL", "P(full)", "noise", "area"]
    return table([*header, "error % at 1/8, 1/2, 1", "ECE", "AUROC"], rows)


def _ood(row: dict) -> float:
    return next(iter(row["auroc"].values()))


def auto_encoders() -> str:
    """Return the table of ``nested_vae.py``: means over seeds."""
    return _auto_encoders("nested-vae.json", "binarised MNIST, test images")


def auto_encoder_choice() -> str:
    """Return the table of its candidates on held-out images."""
    return _auto_encoders("nested-vae-choice.json", "binarised MNIST, validation images")


def _auto_encoders(name: str, title: str) -> str:
    result = read(name) if committed(name) else {"mean": {}, "runs": []}
    widths = ["2", "4", "8", "12", "16", "24", "40"]
    header = [title, "seeds", "epochs", "KL", *(f"{width} features" for width in widths)]
    rows = []
    for key, sign, words in (("elbo", -1, "minus ELBO"), ("squared_error", 1, "squared error")):
        for method, at in result["mean"].items():
            runs = [run for run in result["runs"] if run["method"] == method]
            cells = [f"{sign * at[w][key][0]:.1f}" if w in at else "" for w in widths]
            epochs = sorted({run["epochs"] for run in runs})
            about = [str(len({run["seed"] for run in runs})), "/".join(map(str, epochs))]
            factors = sorted({run["kl_scale"] for run in runs})
            about.append("/".join("1" if c == 1 else f"1, order {c:g}" for c in factors))
            rows.append([f"{words}: {vae_title(method)}", *about, *cells])
    return table(header, rows)


def vae_title(method: str) -> str:
    """Return the words for a method of ``nested_vae.py``."""
    if method in VAE_TITLES:
        return VAE_TITLES[method]
    *prior, scale = method.split("-")[1:]
    return f"VND, order counted {scale} times" + (", uniform prior" if prior else "")
