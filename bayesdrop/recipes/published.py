"""Recipes with the published schedules, where those of the catalogue are shorter.

What still differs from the papers, and why, stands in ``benchmarks/choices.md``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bayesdrop.recipes.recipe import Recipe, Stage, get, register

_SVD, _SBP, _L0 = "sparse-variational", "structured-bayesian-pruning", "hard-concrete"
_TITLES = {
    "lenet-300-100": "LeNet-300-100",
    "lenet-500-300": "LeNet-500-300",
    "lenet5-caffe": "LeNet5-Caffe",
}
_PLAIN = Stage("plain", 20, milestones=(0.5, 0.8))
_UNDECAYED = replace(_PLAIN, weight_decay=0.0)
# All rates alike, and no weight decay.
_LONG = Stage(
    "sparse",
    200,
    dropout=True,
    learning_rate=1e-3,
    variational_learning_rate=1e-3,
    weight_decay=0.0,
    decay_since=0.5,
)


def _register(network: str, dropout: str, words: str, *stages: Stage, **fields: Any) -> None:
    summary = f"{_TITLES[network]}, {words}, 200 epochs as published"
    name = f"{network}-{dropout}-published"
    register(Recipe(name, summary, "mnist", network, stages, dropout=dropout, **fields))


_words = "sparse variational dropout by the published rule, which is not the ELBO"
_options = {"mean_path": "pruned"}
_pruned = replace(_LONG, kl_warm_up=0.1)
_register(
    "lenet-300-100",
    _SVD,
    _words,
    _pruned,
    network_options={"center": True, "init_scale": 0.01},
    dropout_options=_options,
)
_register(
    "lenet5-caffe",
    _SVD,
    _words,
    _UNDECAYED,
    replace(_pruned, decay_since=0.0),
    network_options={"center": True},
    dropout_options=_options,
)
for _network in ("lenet-500-300", "lenet5-caffe"):
    _register(
        _network,
        _SBP,
        "structured Bayesian pruning with noise for each example, without weight decay",
        _PLAIN,
        _LONG,
        dropout_options={"shared_by": "example"},
    )
# The paper's gates of the pixels start at P(z > 0) of about 0.94, all others at 0.83, E[z] = 1/2.
_pixels = {"overrides": {"fc1": {"init_logits": 1.386}}}
for _network, _more in (("lenet-300-100", _pixels), ("lenet5-caffe", {})):
    _register(
        _network,
        _L0,
        "hard-concrete gates with an L0 penalty, from scratch",
        _LONG,
        dropout_options={"init_logits": 0.0, **_more},
    )

_dependent = get("lenet5-caffe-dbb")
register(
    replace(
        _dependent,
        name=f"{_dependent.name}-flat",
        summary=f"{_dependent.summary} through flatter gates, 40 epochs",
        stages=(
            *_dependent.stages[:-1],
            replace(_dependent.stages[-1], epochs=40, learning_rate=1e-3),
        ),
        dependent_options={
            **_dependent.dependent_options,
            "overrides": {"conv*": {"init_slope": 1.0}, "fc2*": {"init_slope": 5.0}},
        },
    )
)
