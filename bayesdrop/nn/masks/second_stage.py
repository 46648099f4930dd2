"""The second stage of dependent beta-Bernoulli dropout: gates that look at the input."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from torch import nn

from bayesdrop.errors import ConversionError, unknown_name
from bayesdrop.nn.mask import named_dropout_layers
from bayesdrop.nn.masks.beta_bernoulli import BetaBernoulliDropout
from bayesdrop.nn.masks.dependent_beta_bernoulli import DependentBetaBernoulliDropout

Network = TypeVar("Network", bound=nn.Module)


def to_dependent(
    network: Network,
    *,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> Network:
    """Return a copy of ``network`` whose beta-Bernoulli layers also look at their inputs.

    The second stage of training: the posterior of the keep probabilities is held fixed, the gates
    and the weights are trained on with ``fit``.

    Args:
        network: A trained network (or ``BayesianNetwork``) with ``BetaBernoulliDropout`` layers.
        overrides: Name or pattern of dropout layers to options that only these get, such as
            ``{"conv*": {"init_slope": 1.0}}``.
        **options: Options of ``DependentBetaBernoulliDropout.from_beta_bernoulli``.

    Raises:
        ConversionError: If there is no such layer.
        ConfigError: If a pattern matches no such layer.

    Example:
        >>> network = nn.Sequential(BetaBernoulliDropout(4), nn.Linear(4, 3))
        >>> to_dependent(network)[0]
        DependentBetaBernoulliDropout(4)
    """
    work = copy.deepcopy(network)
    found = [
        (name, layer)
        for name, layer in named_dropout_layers(work)
        if isinstance(layer, BetaBernoulliDropout)
    ]
    if not found or not found[0][0]:
        raise ConversionError(
            "to_dependent",
            expected="a network with BetaBernoulliDropout layers inside",
            got=type(network).__name__,
            hint="Train it with bd.convert(network, 'beta-bernoulli') first.",
        )
    overrides = overrides or {}
    for pattern in overrides:
        if not any(fnmatchcase(name, pattern) for name, _ in found):
            raise unknown_name("dropout layer", pattern, [name for name, _ in found])
    for name, layer in found:
        own = dict(options)
        for pattern, more in overrides.items():
            if fnmatchcase(name, pattern):
                own |= more
        new = DependentBetaBernoulliDropout.from_beta_bernoulli(layer, **own)
        work.set_submodule(name, new)
    return work
