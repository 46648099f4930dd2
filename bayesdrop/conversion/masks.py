"""A new mask with the options that a call of ``convert`` asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from bayesdrop.conversion.request import Request
from bayesdrop.nn import BayesianDropout, layers, make


def new_mask(
    request: Request,
    layer: str,
    number: int,
    own: Mapping[str, Any],
    keep_prob: float | None,
    like: nn.Module | None = None,
    forced: Mapping[str, Any] | None = None,
) -> BayesianDropout:
    """Return a mask with the options that a call asks for.

    Args:
        request: The call.
        layer: The layer that the mask is for, of which ``overrides`` may say something.
        number: Number of units.
        own: Options that come from where the mask is, such as ``unit_dim``.
        keep_prob: Where masks of a trained network start; None leaves it to their class.
        like: The ``nn.Dropout`` that it replaces.
        forced: Options that nobody else decides.
    """
    cls = layers[request.dropout]
    options = dict(own)
    if issubclass(cls, BayesianDropout):
        if keep_prob is not None:
            options |= cls.options_for_trained(number, keep_prob)
        if like is not None:
            options |= cls.options_from_dropout(like)
    options = request.options_of(layer, options | dict(request.options))
    new = make(request.dropout, number, **(options | dict(forced or {})))
    if not isinstance(new, BayesianDropout):
        raise TypeError(f"expected a mask, got {new}")
    return new
