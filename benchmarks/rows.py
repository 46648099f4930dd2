"""What the tables share: reading results, and what each row must say about itself.

A row names its seeds, its epochs and the factor on its KL. The factor is read from the settings
that stand beside the figures in the result file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

WIDTHS = {
    "lenet-500-300": "784-500-300",
    "lenet-300-100": "784-300-100",
    "lenet5-caffe": "20-50-800-500",
}
DATA = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}
NETWORKS = {"lenet-500-300": "LeNet-500-300", "lenet5-caffe": "LeNet5-Caffe"}
ALL_NETWORKS = {**NETWORKS, "lenet-300-100": "LeNet-300-100"}
NUM_DATA = {"mnist": 60_000, "fashion-mnist": 60_000}

NO_KL = "none"
"""In the column of factors: nothing with a prior, or a fixed law that has nothing to learn."""

WITHOUT_PRIOR = {
    "mc-dropout",
    "gaussian",
    "dropconnect",
    "gaussian-dropconnect",
    "group-lasso",
    "nested",
    "standout",
    "targeted",
    "targeted-dropconnect",
}
"""Keys of layers whose noise, or law, is fixed; a test asks the layers."""

PER_EXAMPLE = 100.0
"""A factor above this is meant as a share of the number of training examples."""


def read(name: str) -> dict:
    return json.loads((RESULTS / name).read_text())


def committed(name: str) -> bool:
    """Return whether a result file is there."""
    return (RESULTS / name).exists()


def table(header: list[str], rows: list[list[str]]) -> str:
    rule = ["---"] + ["--:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def spread(values: list[float], digits: int) -> str:
    """Return the median and the range of a figure over seeds."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    middle = sorted(values)[len(values) // 2]
    return f"{middle:.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def mean_of(pair: list[float], decimals: int) -> str:
    return f"{pair[0]:.{decimals}f} ± {pair[1]:.{decimals}f}"


def weights_kept(share: float) -> str:
    """Return how many weights are kept, also as what magnitude pruning calls compression."""
    return f"{100 * share:.2g} % of weights (1/{1 / share:.0f})"


def epochs_of(settings: dict[str, Any]) -> str:
    """Return the epochs of a recipe's stages."""
    return " + ".join(str(stage["epochs"]) for stage in settings["stages"])


def kl_factor(settings: dict[str, Any]) -> str:
    """Return the factor on the KL that a recipe optimised; 1 is the ELBO.

    Args:
        settings: ``Recipe.to_dict()``, as result files have it.
    """
    key = settings["dropout"]
    if key is None or key in WITHOUT_PRIOR:
        return NO_KL
    examples = NUM_DATA.get(settings["data"], 0)
    found = _factors(settings["dropout_options"], examples)
    if settings["dropout_options"].get("mean_path") == "pruned":
        found += ", not the ELBO"
    if any(stage["dependent"] for stage in settings["stages"]):
        found += f", gates {_factors(settings['dependent_options'], examples)}"
    return found


def _factors(options: dict[str, Any], examples: int) -> str:
    default = options.get("kl_scale", 1.0)
    layers = options.get("overrides", {}).values()
    values = {layer["kl_scale"] for layer in layers if "kl_scale" in layer} or {default}
    return "-".join(_factor(value, examples) for value in sorted({min(values), max(values)}))


def _factor(value: float, examples: int) -> str:
    return f"{value:g}" if value < PER_EXAMPLE else f"{value / examples:g} N"
