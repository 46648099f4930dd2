"""Write the README's tables from the committed results.

    python benchmarks/tables.py

Each table stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``; a test checks that the README
holds what this command writes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"

METHODS = [
    ("lenet-500-300", "plain", "plain network"),
    ("lenet-500-300-dropout", "plain", "nn.Dropout(0.5)"),
    ("lenet-500-300-bb", "mean_mask", "beta-Bernoulli, mean mask"),
    ("lenet-500-300-bb", "monte_carlo", "beta-Bernoulli, Monte Carlo"),
]
NETWORKS = {"lenet-500-300": "LeNet-500-300", "lenet5-caffe": "LeNet5-Caffe"}


def read(name: str) -> dict:
    return json.loads((RESULTS / name).read_text())


def table(header: list[str], rows: list[list[str]]) -> str:
    rule = ["---"] + ["--:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def spread(values: list[float], digits: int) -> str:
    """Return the median and the range of a figure over seeds."""
    middle = sorted(values)[len(values) // 2]
    return f"{middle:.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def mnist() -> str:
    """Return the MNIST table: median over seeds, range in brackets."""
    result = read("lenet-500-300-bb.json")
    rows = []
    for recipe, method, title in METHODS:
        runs = result["recipes"][recipe]["runs"]
        ood = [run["ood_by_method"][method]["fashion-mnist"]["entropy"]["auroc"] for run in runs]
        median = result["recipes"][recipe]["median"]
        pruned = "units" in median
        units = "-".join(f"{count:.0f}" for count in median["units"]) if pruned else "784-500-300"
        speedup = spread([run["flops_speedup"] for run in runs], 1) + "x" if pruned else "1.0x"
        rows.append(
            [
                title,
                spread([run["error"][method] for run in runs], 2),
                spread([run["nll"][method] for run in runs], 4),
                spread([run["ece"][method] for run in runs], 4),
                spread(ood, 3),
                units,
                speedup,
            ]
        )
    published = result["published"]
    units = "-".join(str(count) for count in published["units"])
    rows.append(
        ["published (Lee et al.)", f"{published['error']}", "", "", "", units]
        + [f"{published['flops_speedup']}x"]
    )
    header = ["LeNet-500-300 on MNIST", "error %", "NLL", "ECE", "AUROC Fashion", "units", "FLOPs"]
    minutes = result["recipes"]["lenet-500-300-bb"]["median"]["minutes"]
    seeds = ", ".join(str(seed) for seed in result["seeds"])
    note = (
        f"Median and range over seeds {seeds}; training the beta-Bernoulli row took "
        f"{minutes:.0f} minutes, one thread, with another run beside it on the same 2 cores."
    )
    return f"{table(header, rows)}\n\n{note}"


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
        "predict_per_example": 'bd.predict, masks="per-example"',
        "stock_predictive": "stock Predictive",
    }
    ratios = result["ratio_to_plain_passes"]["seconds"]
    rows = [[title, f"{ratios[key]:.2f}"] for key, title in titles.items()]
    return table([f"prediction, {result['threads']} thread(s)", "time"], rows)


def rewrite(text: str) -> str:
    """Return the README with its tables replaced by those of the committed results."""
    for name, make in TABLES.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"README.md: expected a block <!-- {name} -->, got none.")
        content = make() + "\n"
        text = pattern.sub(lambda match, body=content: match[1] + body + match[2], text)
    return text


TABLES = {"mnist": mnist, "steps": steps, "predict": predictions}


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(rewrite(readme.read_text()))
