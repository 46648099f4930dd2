"""Tables of ``uci.py``: regressions on the UCI sets."""

from __future__ import annotations

from collections import Counter

from paired import SIGNS, Difference
from rows import NO_KL, mean_of, read, table

METHODS = {
    "mc-dropout": "MC dropout",
    "concrete": "concrete dropout",
    "beta-bernoulli": "BB",
    "beta-bernoulli-whole": "BB, KL x 1",
}
"""Methods of ``uci.py`` to their columns."""


def _row(result: dict, row: dict) -> list[str]:
    """Return a set's name, splits, epochs, and the factors that validation rows chose for BB."""
    splits = {entry["splits"] for entry in row["methods"].values()}
    found = Counter(
        run["options"]["kl_scale"]
        for run in result["runs"]
        if run["method"] == "beta-bernoulli"
        and (run["set"], run["epochs"]) == (row["set"], row["epochs"])
    )
    factors = ", ".join(f"{value:g} ({count})" for value, count in sorted(found.items()))
    return [row["set"], "/".join(map(str, sorted(splits))), f"{row['epochs']:,}", factors or NO_KL]


_HEADER = ["splits", "epochs", "KL of BB (splits)"]


def uci(measure: str) -> str:
    """Return the table of one measure: means over the splits, standard errors."""
    result = read("uci.json")
    rows = []
    for row in result["summary"]:
        by_method = row["methods"]
        cells = [mean_of(result["published"][measure][row["set"]], 2)]
        means = [by_method[method][measure] for method in METHODS if method in by_method]
        # The published figures have two decimals, which leave nothing of an RMSE of 0.003.
        decimals = 4 if max(abs(mean) for mean, _ in means) < 0.2 else 2
        cells += [
            mean_of(by_method[method][measure], decimals) if method in by_method else ""
            for method in METHODS
        ]
        rows.append([*_row(result, row), *cells])
    words = {"rmse": "RMSE", "log_likelihood": "log-likelihood"}[measure]
    header = [f"test {words}", *_HEADER, "published, 4,000 epochs"]
    return table([*header, *METHODS.values()], rows)


def differences() -> str:
    """Return paired differences from MC dropout over the splits, with what they bear."""
    result = read("uci.json")
    others = {method: title for method, title in METHODS.items() if method != "mc-dropout"}
    rows = []
    for row in result["summary"]:
        if not row["differences"]:
            continue
        cells = _row(result, row)
        for measure, decimals in (("rmse", 4), ("log_likelihood", 3)):
            for method in others:
                if method not in row["differences"]:
                    cells.append("")
                    continue
                mean, error = row["differences"][method][measure]
                splits = row["methods"][method]["splits"]
                verdict = Difference(mean, error, splits).verdict(measure == "log_likelihood")
                cells.append(f"{mean_of([mean, error], decimals)} ({SIGNS[verdict]})")
        rows.append(cells)
    header = ["less MC dropout's on the same splits", *_HEADER]
    for words in ("RMSE", "log-likelihood"):
        first, *rest = others.values()
        header += [f"{words}: {first.removesuffix(' dropout')}", *rest]
    return table(header, rows)
