"""What options of dropout layers were called when an earlier version wrote ``recipe.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_BY = {"shared": "batch", "per-example": "example", True: "example", False: "batch"}

RENAMED: dict[str, tuple[str, Mapping[Any, Any]]] = {
    "always_open": ("always_kept", {}),
    "draws": ("shared_by", _BY),
    "init_open_prob": ("init_continue_prob", {}),
    "open_prob": ("continue_prob", {}),
    "per_example": ("shared_by", _BY),
    "prior_open_prob": ("prior_continue_prob", {}),
    "widths": ("share_widths", {"shared": True, "independent": False}),
}
"""Earlier name of an option to today's, and its earlier values to today's where they changed."""


def with_todays_names(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``"recipe"`` of a ``recipe.json`` with today's names of options.

    Args:
        recipe: The fields of ``Recipe.to_dict()``, of this version or an earlier one.

    Example:
        >>> with_todays_names({"dropout_options": {"draws": "per-example"}})
        {'dropout_options': {'shared_by': 'example'}}
    """
    options: dict[str, Any] = {}
    for name, value in dict(recipe.get("dropout_options", {})).items():
        today, values = RENAMED.get(name, (name, {}))
        options[today] = values.get(value, value) if values else value
    return {**recipe, "dropout_options": options} if options else dict(recipe)
