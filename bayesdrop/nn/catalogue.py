"""The one registry of Bayesian layers: masks and random weights, by key."""

from __future__ import annotations

import inspect
from typing import Any, TypeAlias, TypeVar, overload

from torch import nn

from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.nn.mask import BayesianDropout
from bayesdrop.nn.weight import BayesianWeights
from bayesdrop.registry import Registry

BayesianLayer: TypeAlias = BayesianDropout | BayesianWeights
"""What has a key: a mask, or random weights, which its abstract base says."""
Kind = TypeVar("Kind", bound=BayesianLayer)
Class = TypeVar("Class", bound=type[BayesianDropout] | type[BayesianWeights])

layers: Registry[type[BayesianLayer]] = Registry("layer")
"""Every class of masks or random weights by its key, such as ``"beta-bernoulli"``."""


def register(cls: Class) -> Class:
    """Add a class to ``layers`` under its ``key``; usable as a decorator.

    ``convert``, ``make``, recipes, the command line and the contract tests then know it.

    Raises:
        ConfigError: If another class has the key already, it has none, or it is no class of masks
            or of random weights.
    """
    if not (isinstance(cls, type) and issubclass(cls, BayesianDropout | BayesianWeights)):
        raise ConfigError(
            "register layer",
            expected="a class below bd.BayesianDropout or bd.nn.BayesianWeights",
            got=repr(cls),
            hint="Pass the class itself, once it has a key.",
        )
    layers.register(getattr(cls, "key", ""), cls)
    return cls


def registered(base: type[Kind]) -> dict[str, type[Kind]]:
    """Return the registered classes of one kind: key to class, in order of registration.

    Args:
        base: ``BayesianDropout`` for masks, ``BayesianWeights`` for random weights.

    Example:
        >>> list(registered(BayesianWeights))[:2]
        ['dropconnect', 'gaussian-dropconnect']
    """
    return {key: cls for key, cls in layers.items() if issubclass(cls, base)}


@overload
def make(key: str, units_or_layer: int, **options: Any) -> BayesianDropout: ...


@overload
def make(key: str, units_or_layer: nn.Module, **options: Any) -> BayesianWeights: ...


def make(key: str, units_or_layer: int | nn.Module, **options: Any) -> BayesianLayer:
    """Build the layer that is registered under ``key``.

    Args:
        key: One of ``layers``.
        units_or_layer: For a mask the number of its units; for random weights the ``torch.nn``
            layer whose place they take, which is not changed.
        **options: Keyword arguments of the class.

    Raises:
        ConfigError: If the key or an option is unknown, or a number is given for a layer.

    Example:
        >>> make("beta-bernoulli", 3)
        BetaBernoulliDropout(3)
        >>> make("dropconnect", nn.Linear(3, 2))
        Dropconnect(Linear(in_features=3, out_features=2, bias=True), drop_prob=0.5)
    """
    cls = layers[key]
    _check_options(cls, options)
    if issubclass(cls, BayesianDropout):
        return cls(_units(cls, units_or_layer), **options)
    return cls(_layer(cls, units_or_layer), **options)


def _check_options(cls: type[BayesianLayer], options: dict[str, Any]) -> None:
    known: list[str] = []
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        known += [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break  # it passes nothing on to the class above
    for name in options:
        if name not in known:
            raise unknown_name(f"option of {cls.__name__}", name, known)


def _units(cls: type[BayesianLayer], given: int | nn.Module) -> int:
    if isinstance(given, nn.Module):
        raise ConfigError(
            cls.__name__,
            expected="a number of units, for it is a mask",
            got=repr(given),
            hint="bd.convert puts masks beside the layers of a network.",
        )
    return given


def _layer(cls: type[BayesianLayer], given: int | nn.Module) -> nn.Module:
    if not isinstance(given, nn.Module):
        raise ConfigError(
            cls.__name__,
            expected="a torch.nn layer, for it has random weights",
            got=repr(given),
            hint="Pass the layer whose place it takes, such as nn.Linear(3, 2).",
        )
    return given
