"""Dropout layers as priors and posteriors over masks, and the registry that names them."""

from __future__ import annotations

from typing import Any

from bayesdrop.dropout.base import (
    BayesianDropout,
    GlobalLatents,
    kl_divergence,
    named_dropout_layers,
    named_global_latents,
    named_parents,
)
from bayesdrop.dropout.beta_bernoulli import BetaBernoulliDropout
from bayesdrop.dropout.concrete import ConcreteDropout
from bayesdrop.dropout.context import MaskContext, active_context
from bayesdrop.dropout.dependent_beta_bernoulli import (
    DependentBetaBernoulliDropout,
    to_dependent,
)
from bayesdrop.dropout.gaussian import GaussianDropout
from bayesdrop.dropout.hard_concrete import HardConcreteDropout
from bayesdrop.dropout.hierarchical_indian_buffet import HierarchicalIndianBuffetDropout
from bayesdrop.dropout.indian_buffet import IndianBuffetDropout
from bayesdrop.dropout.masks import ImposedMasks, PosteriorSample, impose_masks
from bayesdrop.dropout.monte_carlo import MonteCarloDropout
from bayesdrop.dropout.nested import NestedDropout
from bayesdrop.dropout.ordered_units import OrderedUnits
from bayesdrop.dropout.stick_breaking import IndianBuffetSticks
from bayesdrop.dropout.structured_bayesian_pruning import StructuredBayesianPruningDropout
from bayesdrop.dropout.variational_nested import VariationalNestedDropout
from bayesdrop.errors import ConfigError, unknown_name

_REGISTRY: dict[str, type[BayesianDropout]] = {}


def register_dropout(cls: type[BayesianDropout]) -> type[BayesianDropout]:
    """Add a dropout class to the registry under its ``key``; usable as a decorator.

    Raises:
        ConfigError: If another class has the key already.
    """
    if _REGISTRY.get(cls.key, cls) is not cls:
        raise ConfigError(
            f"register_dropout: expected a new key, got {cls.key!r}, which is "
            f"{_REGISTRY[cls.key].__name__}'s. Choose another key."
        )
    _REGISTRY[cls.key] = cls
    return cls


def registered_dropouts() -> dict[str, type[BayesianDropout]]:
    """Return a copy of the registry: key to class, in order of registration."""
    return dict(_REGISTRY)


def make_dropout(name: str, num_units: int, **options: Any) -> BayesianDropout:
    """Build the dropout layer registered under ``name``.

    Args:
        name: A key of ``registered_dropouts()``.
        num_units: Number of units to mask.
        **options: Keyword arguments of that class.

    Raises:
        ConfigError: If the name or an option is unknown.

    Example:
        >>> make_dropout("beta-bernoulli", 3)
        BetaBernoulliDropout(3)
    """
    if name not in _REGISTRY:
        raise unknown_name("dropout", name, _REGISTRY)
    try:
        return _REGISTRY[name](num_units, **options)
    except TypeError as error:
        raise ConfigError(f"dropout {name!r}: {error}. Its options: {sorted(options)}.") from error


register_dropout(BetaBernoulliDropout)
register_dropout(DependentBetaBernoulliDropout)
register_dropout(IndianBuffetDropout)
register_dropout(HierarchicalIndianBuffetDropout)
register_dropout(NestedDropout)
register_dropout(VariationalNestedDropout)
register_dropout(MonteCarloDropout)
register_dropout(GaussianDropout)
register_dropout(ConcreteDropout)
register_dropout(StructuredBayesianPruningDropout)
register_dropout(HardConcreteDropout)

__all__ = [
    "BayesianDropout",
    "BetaBernoulliDropout",
    "ConcreteDropout",
    "DependentBetaBernoulliDropout",
    "GaussianDropout",
    "GlobalLatents",
    "HardConcreteDropout",
    "HierarchicalIndianBuffetDropout",
    "ImposedMasks",
    "IndianBuffetDropout",
    "IndianBuffetSticks",
    "MaskContext",
    "NestedDropout",
    "OrderedUnits",
    "MonteCarloDropout",
    "PosteriorSample",
    "StructuredBayesianPruningDropout",
    "VariationalNestedDropout",
    "active_context",
    "impose_masks",
    "kl_divergence",
    "make_dropout",
    "named_dropout_layers",
    "named_global_latents",
    "named_parents",
    "register_dropout",
    "registered_dropouts",
    "to_dependent",
]
