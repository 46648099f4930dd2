"""What the study compares: settings, methods, what a trial may draw, and in which order.

Every method is one of the package's recipes with the same number of steps, and the same number of
random trials. Nothing here looks at a test image: trials are judged on ``VALIDATION`` images that
are held out of the training set, by the NLL of the way of predicting that the row is about.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from study_outside import MASKS

from bayesdrop.recipes import get
from bayesdrop.recipes.recipe import Recipe

EPOCHS = {"lenet-500-300": 30, "lenet5-caffe": 12}
"""Network to epochs of all stages together, 600 steps each."""

CONVOLUTIONAL = ("lenet5-caffe",)
"""Networks whose latency ``study_latency.py`` measures."""

TRIAL_EPOCHS = {"lenet-500-300": 10, "lenet5-caffe": 5}
TRIALS = 6
"""Settings that each method tries; the first is the middle of its ranges."""

VALIDATION = 10_000
TRIAL_SEED = 100
"""Of all trials; none of the seeds below."""

SHARES = {1: (1.0,), 2: (0.27, 0.73), 3: (0.27, 0.53, 0.2)}
"""Number of stages to the share of the epochs that each has."""

SEEDS = (0, 1, 2, 3, 4)
MEMBERS = tuple(range(10))
"""Seeds of plain networks, from which ensembles are made."""

ENSEMBLE = 5

SETTINGS = (
    ("lenet-500-300", "mnist"),
    ("lenet-500-300", "fashion-mnist"),
    ("lenet5-caffe", "fashion-mnist"),
    ("lenet5-caffe", "mnist"),
)
"""Networks and data in the order in which they are trained."""

HELD_OUT = ("lenet-500-300",)
"""Networks that are also trained on classes 0 to 7, and then see 8 and 9; last of all, with the
values that the whole data set's trials chose."""

KNOWN_CLASSES = "0-7"

OTHER = {"mnist": "fashion-mnist", "fashion-mnist": "mnist"}
"""Images of other data, for what a network has not seen."""

Way = Literal["mean", "sampled"]
Draw = Callable[[float], Any]
"""From a number in [0, 1] to a value; 0.5 is the middle of the range."""


def log_range(low: float, high: float) -> Draw:
    """Return draws that are uniform in the logarithm."""
    return lambda u: float(f"{math.exp(math.log(low) + u * math.log(high / low)):.3g}")


def linear_range(low: float, high: float) -> Draw:
    """Return uniform draws."""
    return lambda u: float(f"{low + u * (high - low):.3g}")


@dataclass(frozen=True)
class Method:
    """A row, or the rows of both ways of predicting.

    Args:
        title: As tables call it.
        suffix: Of its recipe's name behind the network's; empty for the plain network.
        ways: How it predicts: with the mean mask (or nothing random), or with masks sampled.
        space: What a trial draws: ``learning_rate``, ``variational_learning_rate`` and
            ``weight_decay`` are of the stage with masks, if there is one: pretraining is the
            recipe's, and common to all methods that have it. ``rate`` is of ``nn.Dropout``,
            ``input_rate`` of that on the pixels and ``scale`` of Masksembles, all else goes to
            ``convert``.
        options: Of ``convert``, in place of the recipe's.
        num_masks: Masks inside the logarithm.
        members_of: Method whose runs it is made of, instead of being trained.
        num_members: How many of them, with this seed and those after it; they are taken in a
            circle, so that neighbours share members.
        priority: Those with 0 come first on every setting of a network.
    """

    title: str
    suffix: str
    ways: tuple[Way, ...]
    space: Mapping[str, Draw]
    options: Mapping[str, Any] = field(default_factory=dict)
    num_masks: int = 1
    members_of: str | None = None
    num_members: int = 1
    priority: int = 0

    def members(self, seed: int) -> list[int]:
        """Return the seeds of the runs that it is made of."""
        return [(seed + step) % len(MEMBERS) for step in range(self.num_members)]


_RATE = {"learning_rate": log_range(5e-4, 3e-3)}
_DECAY = {"weight_decay": log_range(1e-6, 1e-3)}
_POSTERIOR = {"variational_learning_rate": log_range(1e-2, 3e-1)}
_SLOW = {"variational_learning_rate": log_range(1e-3, 3e-2)}
_WHOLE = {"kl_scale": 1.0, "overrides": {}}
_BOTH: tuple[Way, ...] = ("mean", "sampled")

METHODS = {
    "plain": Method("plain network", "", ("mean",), {**_RATE, **_DECAY}),
    "dropout": Method(
        "nn.Dropout", "dropout", _BOTH, {**_RATE, **_DECAY, "rate": linear_range(0.1, 0.6)}
    ),
    "input-dropout": Method(
        "nn.Dropout, inputs too",
        "input-dropout",
        _BOTH,
        {
            **_RATE,
            **_DECAY,
            "rate": linear_range(0.1, 0.6),
            "input_rate": linear_range(0.05, 0.4),
        },
    ),
    "ensemble": Method(
        f"deep ensemble of {ENSEMBLE}", "", ("mean",), {}, members_of="plain", num_members=ENSEMBLE
    ),
    "laplace": Method("last-layer Laplace (laplace-torch)", "", ("mean",), {}, members_of="plain"),
    "masksembles": Method(
        f"Masksembles, {MASKS} masks",
        "masksembles",
        ("mean",),
        {**_RATE, **_DECAY, "scale": linear_range(1.2, 4.0)},
    ),
    "bb": Method(
        "BB, whole KL",
        "beta-bernoulli",
        _BOTH,
        {**_RATE, **_POSTERIOR},
        options=_WHOLE,
    ),
    "bb-tuned": Method(
        "BB, KL tuned",
        "beta-bernoulli",
        _BOTH,
        {**_RATE, **_POSTERIOR, "kl_scale": log_range(0.2, 5.0)},
        options={"overrides": {}},
    ),
    "bb-masks": Method(
        "BB, whole KL, 4 masks",
        "beta-bernoulli",
        _BOTH,
        {**_RATE, **_POSTERIOR},
        options=_WHOLE,
        num_masks=4,
    ),
    "sbp": Method(
        "SBP",
        "structured-bayesian-pruning",
        _BOTH,
        {**_RATE, **_SLOW},
    ),
    "l0": Method(
        "L0",
        "hard-concrete",
        _BOTH,
        {**_RATE, **_SLOW, "cost_per_parameter": log_range(0.01, 1.0)},
    ),
    "gaussian-dropconnect": Method(
        "Gaussian dropconnect",
        "gaussian-dropconnect",
        _BOTH,
        {**_RATE, **_DECAY, "drop_prob": linear_range(0.1, 0.6)},
    ),
    "concrete": Method(
        "concrete dropout",
        "concrete",
        _BOTH,
        {**_RATE, **_SLOW, "length_scale": log_range(0.3, 20.0)},
    ),
    "sparse-vd": Method("sparse VD", "sparse-variational", _BOTH, {**_RATE, **_SLOW}, priority=1),
    "ibp": Method(
        "IBP",
        "indian-buffet-20",
        _BOTH,
        {**_RATE, **_POSTERIOR, "concentration": log_range(2.0, 200.0)},
        priority=1,
    ),
    "dbb": Method(
        "DBB",
        "dependent-beta-bernoulli",
        _BOTH,
        {**_RATE, **_POSTERIOR},
        options=_WHOLE,
        priority=1,
    ),
    "group-lasso": Method(
        "group lasso",
        "group-lasso",
        ("mean",),
        {**_RATE, "cost_per_norm": log_range(2.0, 50.0)},
        priority=1,
    ),
    "normal-jeffreys": Method(
        "Bayesian compression", "normal-jeffreys", _BOTH, {**_RATE, **_SLOW}, priority=1
    ),
    "gaussian-weights": Method(
        "Gaussian weights", "gaussian-weights", _BOTH, {**_RATE, **_SLOW}, priority=1
    ),
    "vnd": Method(
        "VND, full width",
        "variational-nested",
        _BOTH,
        {**_RATE, **_SLOW, "kl_scale": log_range(100.0, 10_000.0)},
        priority=1,
    ),
}
"""Key to method."""


_OF_NETWORK = {"rate": "dropout", "input_rate": "input_dropout", "scale": "scale"}


def choice_of(method: str, trial: int) -> dict[str, Any]:
    """Return what a trial draws: the middle of each range for trial 0, the same for all runs.

    Example:
        >>> choice_of("plain", 0)["learning_rate"]
        0.00122
    """
    generator = random.Random(f"{method} {trial}")
    return {
        name: draw(0.5 if trial == 0 else generator.random())
        for name, draw in METHODS[method].space.items()
    }


def recipe_of(method: str, network: str, choice: Mapping[str, Any], epochs: int) -> Recipe:
    """Return the recipe of a method with the values of a trial, for so many epochs in all."""
    what = METHODS[method]
    recipe = get(f"{network}-{what.suffix}" if what.suffix else network)
    values = dict(choice)
    changes = {
        name: values.pop(name)
        for name in ("learning_rate", "variational_learning_rate", "weight_decay")
        if name in values
    }
    options = {_OF_NETWORK[name]: values.pop(name) for name in _OF_NETWORK if name in values}
    if options:
        recipe = dataclasses.replace(recipe, network_options=options)
    if recipe.dropout is not None:
        options = {**recipe.dropout_options, **what.options, **values}
        recipe = dataclasses.replace(recipe, dropout_options=options)
    stages = []
    counts = _shared(epochs, SHARES[len(recipe.stages)])
    for stage, count in zip(recipe.stages, counts, strict=True):
        masks = {"num_masks": what.num_masks} if stage.dropout else {}
        # Rates of a dependent stage are much smaller, and its own.
        drawn = not stage.dependent and stage.dropout == (recipe.dropout is not None)
        own = changes if drawn else {}
        stages.append(dataclasses.replace(stage, epochs=count, **own, **masks))
    return dataclasses.replace(recipe, stages=tuple(stages))


def _shared(epochs: int, shares: tuple[float, ...]) -> list[int]:
    counts = [max(1, round(epochs * share)) for share in shares[:-1]]
    return [*counts, epochs - sum(counts)]
