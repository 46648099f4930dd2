"""Dropout layers as priors and posteriors over masks, and the registry that names them."""

from __future__ import annotations

from typing import Any

from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.nn.mask import BayesianDropout
from bayesdrop.nn.masks.beta_bernoulli import BetaBernoulliDropout
from bayesdrop.nn.masks.concrete import ConcreteDropout
from bayesdrop.nn.masks.dependent_beta_bernoulli import (
    DependentBetaBernoulliDropout,
    to_dependent,
)
from bayesdrop.nn.masks.gaussian import GaussianDropout
from bayesdrop.nn.masks.hard_concrete import HardConcreteDropout
from bayesdrop.nn.masks.hierarchical_indian_buffet import HierarchicalIndianBuffetDropout
from bayesdrop.nn.masks.indian_buffet import IndianBuffetDropout
from bayesdrop.nn.masks.monte_carlo import MonteCarloDropout
from bayesdrop.nn.masks.nested import NestedDropout
from bayesdrop.nn.masks.ordered_units import OrderedUnits
from bayesdrop.nn.masks.stick_breaking import IndianBuffetSticks
from bayesdrop.nn.masks.structured_bayesian_pruning import StructuredBayesianPruningDropout
from bayesdrop.nn.masks.variational_nested import VariationalNestedDropout

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
    "BetaBernoulliDropout",
    "ConcreteDropout",
    "DependentBetaBernoulliDropout",
    "GaussianDropout",
    "HardConcreteDropout",
    "HierarchicalIndianBuffetDropout",
    "IndianBuffetDropout",
    "IndianBuffetSticks",
    "NestedDropout",
    "OrderedUnits",
    "MonteCarloDropout",
    "StructuredBayesianPruningDropout",
    "VariationalNestedDropout",
    "make_dropout",
    "register_dropout",
    "registered_dropouts",
    "to_dependent",
]
