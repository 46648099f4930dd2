"""Tables of ``ibp_vae.py``: auto-encoders with Indian buffet codes."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from rows import read, table

TITLES = {
    "plain": "plain VAE",
    "s-ibp": "structured IBP",
    "mf-ibp": "mean-field IBP",
    "s-ibp-authors": "structured IBP, the authors' objective",
    "s-ibp-dynamic": "structured IBP, pixels redrawn",
    "s-ibp-weighted": "the same, 5 importance samples",
    "s-ibp-deep": "the same, two hidden layers",
    "plain-deep": "plain VAE, redrawn, 5 samples, two layers",
}
"""Methods of ``ibp_vae.py`` to their rows."""

_FIGURES: dict[str, Callable[[dict], float | None]] = {
    "test": lambda run: run["test"]["exact"]["iwae"],
    "test, minus ELBO": lambda run: run["test"]["elbo"],
    "training images": lambda run: run["train_10000"]["exact"]["iwae"],
    "test, relaxed masks": lambda run: run["test"].get("relaxed", {}).get("published_metric"),
    "as the authors count": lambda run: run.get("authors", {}).get("figure"),
    "charged too little": lambda run: run.get("authors", {}).get("undercharged"),
}
_FEATURES: dict[str, Callable[[dict], float | None]] = {
    "features an image": lambda run: run["features_per_example"],
    "features in use": lambda run: run["features_in_use"],
}


def ibp_vae() -> str:
    """Return the table of ``ibp_vae.py``: medians over seeds, the published figures beside."""
    result = read("ibp-vae.json")
    tests = [run for run in result["runs"] if run["mode"] == "test"]
    rows = []
    for method, title in TITLES.items():
        for epochs in sorted({run["epochs"] for run in tests if run["method"] == method}):
            runs = [r for r in tests if r["method"] == method and r["epochs"] == epochs]
            factor = "1, as charged" if method == "s-ibp-authors" else "1"
            samples = sorted({run["importance_samples"] for run in runs})
            published = result["published"].get(method.removesuffix("-authors"), {}).get("test")
            rows.append(
                [
                    title,
                    str(len({run["seed"] for run in runs})),
                    str(epochs),
                    factor,
                    "/".join(map(str, samples)),
                    *(_median(runs, figure) for figure in _FIGURES.values()),
                    "" if published is None else f"{published:.1f}",
                    *(_median(runs, figure) for figure in _FEATURES.values()),
                ]
            )
    header = ["binarised MNIST, nats", "seeds", "epochs", "KL", "samples"]
    return table([*header, *_FIGURES, "published", *_FEATURES], rows)


def _median(runs: list[dict], figure: Callable[[dict], float | None]) -> str:
    values = [value for value in map(figure, runs) if value is not None]
    return f"{statistics.median(values):.1f}" if values else ""
