"""Write the tables of all pages from the committed results.

    python benchmarks/tables.py

Each table stands between ``<!-- NAME -->`` and ``<!-- /NAME -->`` in one of ``PAGES``; tests check
that these hold what this command writes, that each row of a trained network has the factor on its
KL, and that no other table there has figures.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import tables_continual
import tables_encoder
import tables_estimators
import tables_growth
import tables_magnitude
import tables_methods
import tables_mnist
import tables_nested
import tables_networks
import tables_photographs
import tables_plasticity
import tables_posterior
import tables_private
import tables_quantised
import tables_reliability
import tables_small
import tables_study
import tables_text
import tables_trained
import tables_transformers
import tables_uci
import tables_vae
from rows import DATA, NETWORKS, RESULTS

ROOT = Path(__file__).parent.parent
PAGES = (
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
)

TABLES: dict[str, Callable[[], str]] = {
    "example": tables_small.example_front,
    "example-redrawn": partial(tables_small.example, 0.2),
    "example-clean": partial(tables_small.example, 0.0),
    "example-choice": tables_small.example_choice,
    "demo": tables_small.demo,
    "headline": tables_study.headline,
    "lenet-500-300": partial(tables_mnist.mnist, "lenet-500-300"),
    "lenet-300-100": partial(tables_mnist.mnist, "lenet-300-100"),
    "lenet5-caffe": partial(tables_mnist.mnist, "lenet5-caffe"),
    "lenet-500-300-choice": partial(tables_mnist.choice, "lenet-500-300"),
    "lenet-300-100-choice": partial(tables_mnist.choice, "lenet-300-100"),
    "lenet5-caffe-choice": partial(tables_mnist.choice, "lenet5-caffe"),
    "digits-mlp-choice": tables_small.digits_choice,
    "nested-choice": tables_nested.choice,
    "nested-full-width": tables_nested.full_width,
    "nested-areas": tables_nested.areas,
    "nested-claim": tables_nested.claim,
    "nested-vae": tables_nested.auto_encoders,
    "nested-vae-choice": tables_nested.auto_encoder_choice,
    "ibp-vae": tables_vae.ibp_vae,
    "uci-rmse": partial(tables_uci.uci, "rmse"),
    "uci-log-likelihood": partial(tables_uci.uci, "log_likelihood"),
    "uci-differences": tables_uci.differences,
    "concrete": tables_small.concrete,
    "estimators-regressions": tables_estimators.regressions,
    "estimators-classifications": tables_estimators.classifications,
    "estimators-choice": tables_estimators.choice,
    "encoder-gates": tables_encoder.gates,
    "encoder-lora": tables_encoder.lora,
    "encoder-lengths-found": partial(tables_encoder.lengths, "found"),
    "encoder-lengths-told": partial(tables_encoder.lengths, "told"),
    "posterior-one-unit": tables_posterior.one_unit,
    "leave-one-out": tables_posterior.leave_one_out,
    "guaranteed-risk": tables_posterior.guarantees,
    "posterior-simulation": tables_posterior.simulation,
    "steps": tables_small.steps,
    "steps-layers": tables_small.steps_of_layers,
    "peers": tables_small.peers,
    "steps-cpu": tables_small.steps_by_cpu,
    "steps-compiled": tables_small.steps_compiled,
    "whole-recipe": tables_small.whole_recipe,
    "growth": tables_growth.growth,
    "startup": tables_growth.startup,
    "predict": tables_small.predictions,
    "private": tables_private.private,
    "private-choice": tables_private.choice,
    "photographs": tables_photographs.photographs,
    "mask-gradients": tables_plasticity.mask_gradients,
    "plasticity": tables_plasticity.growing,
    "mean-masks": tables_small.mean_masks,
    "latency": tables_small.latencies,
    "bad-inputs": tables_reliability.inputs,
    "kills": tables_reliability.kills,
    "bit-flips": tables_reliability.flips,
    "memory": tables_reliability.memory,
    "determinism": tables_reliability.determinism,
    "networks": tables_networks.networks,
    "networks-failures": tables_networks.failures,
    "networks-left": tables_networks.left,
    "transformers": tables_transformers.transformers,
    "quantised": tables_quantised.quantised,
    "quantised-choice": tables_quantised.choice,
    "trained-start": tables_trained.start,
    "trained-after": tables_trained.after,
}
TABLES |= {
    f"continual-{name}": partial(tables_continual.continual, name) for name in ("digits", "mnist")
}
TABLES |= {
    f"nested-{network}-{data}": partial(tables_nested.nested, network, data)
    for network, data in tables_nested.results()
}
TABLES |= {
    f"several-masks-{data}": partial(tables_posterior.several_masks, data)
    for data in tables_posterior.committed()
}
TABLES |= {
    f"recurrent-{task}": partial(tables_text.text, task) for task in tables_text.committed()
}
for _suite, _data in tables_study.settings():
    TABLES[f"study-{_suite}-{_data}"] = partial(tables_study.figures, _suite, _data)
    for _baseline in tables_study.baselines(_suite, _data):
        TABLES[f"study-{_suite}-{_data}-{_baseline}"] = partial(
            tables_study.beside, _suite, _data, _baseline
        )
for _suite in tables_magnitude.SUITES:
    if (RESULTS / f"magnitude-{_suite}-choice.json").exists():
        TABLES[f"magnitude-{_suite}-choice"] = partial(tables_magnitude.choice, _suite)
    for _by in ("unit", "weight"):
        TABLES[f"magnitude-{_suite}-{_by}s"] = partial(tables_magnitude.magnitude, _suite, _by)
for _suite in NETWORKS:
    for _data in DATA:
        if (RESULTS / f"methods-{_suite}-{_data}.json").exists():
            TABLES[f"methods-{_suite}-{_data}"] = partial(tables_methods.methods, _suite, _data)
            TABLES[f"beside-{_suite}-{_data}"] = partial(tables_methods.beside, _suite, _data)
            TABLES[f"shift-{_suite}-{_data}"] = partial(tables_methods.shift, _suite, _data)

TRIALS = ("bad-inputs", "kills", "bit-flips", "memory", "determinism", "trained-start")
ZOO = ("networks", "networks-failures", "networks-left")
SPEED = (
    "steps",
    "steps-layers",
    "peers",
    "steps-cpu",
    "steps-compiled",
    "whole-recipe",
    "growth",
    "startup",
    "predict",
    "mean-masks",
    "latency",
)
TIMINGS = (*SPEED, "mask-gradients", "leave-one-out", "guaranteed-risk", *TRIALS, *ZOO)
"""Tables of times, of trials and of known posteriors, in which nothing was optimised."""


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


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(rewrite(page.read_text()))
