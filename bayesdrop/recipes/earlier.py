"""What recipes and their options were called in earlier commands and ``recipe.json`` files."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

ABBREVIATIONS = {
    "bb": "beta-bernoulli",
    "dbb": "dependent-beta-bernoulli",
    "ghs": "group-horseshoe",
    "gnj": "normal-jeffreys",
    "hibp": "hierarchical-indian-buffet",
    "ibp": "indian-buffet",
    "l0": "hard-concrete",
    "mc": "mc-dropout",
    "npn": "neural-plasticity",
    "sbp": "structured-bayesian-pruning",
    "sparse-vd": "sparse-variational",
    "ssl": "group-lasso",
    "vnd": "variational-nested",
}
"""What the literature calls a method, to its key: both may stand in a recipe's name."""

_BY = {"shared": "batch", "per-example": "example", True: "example", False: "batch"}

RENAMED: dict[str, tuple[str, Mapping[Any, Any]]] = {
    "always_open": ("always_kept", {}),
    "draws": ("shared_by", _BY),
    "kl": ("prior", {}),
    "init_open_prob": ("init_continue_prob", {}),
    "open_prob": ("continue_prob", {}),
    "per_example": ("shared_by", _BY),
    "prior_open_prob": ("prior_continue_prob", {}),
    "widths": ("share_widths", {"shared": True, "independent": False}),
}
"""Earlier name of an option to today's, and its earlier values to today's where they changed."""

SPLIT: dict[tuple[str, Any], Mapping[str, Any]] = {
    ("noise", "shared"): {"noise": "local", "shared_by": "batch"},
}
"""Earlier option and value to what says the same in several options today."""

_SOFTPLUS = {"parametrization": ("softplus", "location")}
_LOG = {"parametrization": ("log", "location")}
ADDED: dict[str | None, dict[str, tuple[Any, Any]]] = {
    "beta-bernoulli": _SOFTPLUS,
    "dependent-beta-bernoulli": {**_SOFTPLUS, "gate_mean": ("naive", "exact")},
    "hierarchical-indian-buffet": _LOG,
    "indian-buffet": _LOG,
    "variational-nested": {"gradient": ("straight-through", "interpolated")},
}
"""Key of a dropout to options that it did not always have: what it then did, and the default."""


def with_todays_names(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``"recipe"`` of a ``recipe.json`` with today's options.

    Args:
        recipe: The fields of ``Recipe.to_dict()``, of this version or an earlier one.

    Example:
        >>> with_todays_names({"dropout_options": {"draws": "per-example"}})
        {'dropout_options': {'shared_by': 'example'}}
    """
    todays, options = dict(recipe), _todays(recipe.get("dropout_options") or {})
    # Where nothing is said it was the only one.
    for name, (before, _) in ADDED.get(recipe.get("dropout"), {}).items():
        options.setdefault(name, before)
    if any(stage.get("dependent") for stage in recipe.get("stages", ())):
        todays["dependent_options"] = {"gate_mean": "naive", **recipe.get("dependent_options", {})}
    return {**todays, "dropout_options": options} if options else todays


def _todays(earlier: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in dict(earlier).items():
        if isinstance(value, Mapping):  # those of some layers, or of random weights
            options[name] = _todays(value)
        elif isinstance(value, str) and (name, value) in SPLIT:
            options |= SPLIT[name, value]
        else:
            today, values = RENAMED.get(name, (name, {}))
            options[today] = values.get(value, value) if values else value
    return options


def todays_recipe(name: str, known: Container[str]) -> str:
    """Return the name of a recipe in which abbreviations of the literature may stand.

    Args:
        name: Such as ``"lenet-500-300-ibp-5"``.
        known: Names of recipes; one of them stays as it is.

    Example:
        >>> todays_recipe("lenet-500-300-ibp-5", ())
        'lenet-500-300-indian-buffet-5'
    """
    if name in known:
        return name
    for short, key in ABBREVIATIONS.items():
        name = re.sub(rf"-{short}(?=-|$)", f"-{key}", name)
    return name
