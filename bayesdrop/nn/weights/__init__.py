"""Layers whose weights are random, and the registry that names them.

A family is what ``bayesdrop.convert`` puts in for ``nn.Linear`` and ``nn.Conv2d`` under one key,
beside the keys of ``registered_dropouts()``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.nn.masks import registered_dropouts
from bayesdrop.nn.weight import BayesianWeights
from bayesdrop.nn.weights.conv import ConvWeights
from bayesdrop.nn.weights.dropconnect import (
    Dropconnect,
    DropconnectConv2d,
    DropconnectLinear,
    GaussianDropconnectConv2d,
    GaussianDropconnectLinear,
)
from bayesdrop.nn.weights.linear import LinearWeights
from bayesdrop.nn.weights.sparse_variational import (
    SparseVariational,
    SparseVariationalConv2d,
    SparseVariationalLinear,
)

_REGISTRY: dict[str, dict[type[nn.Module], type[BayesianWeights]]] = {}


def register_weight_layer(
    replaces: type[nn.Module], cls: type[BayesianWeights]
) -> type[BayesianWeights]:
    """Add a layer to the family of its ``key``: what takes the place of a ``torch.nn`` class.

    Args:
        replaces: ``nn.Linear`` or ``nn.Conv2d``.
        cls: The layer; ``cls.from_plain(layer, **options)`` builds it.

    Raises:
        ConfigError: If the key is a dropout's, or the family has another layer there.
    """
    family = _REGISTRY.setdefault(cls.key, {})
    if cls.key in registered_dropouts() or family.get(replaces, cls) is not cls:
        raise ConfigError(
            "register_weight_layer",
            expected="a new key, or a new class to replace",
            got=f"{cls.__name__} with key {cls.key!r} for {replaces.__name__}",
            hint="Choose another key.",
        )
    family[replaces] = cls
    return cls


def registered_weight_layers() -> dict[str, dict[type[nn.Module], type[BayesianWeights]]]:
    """Return a copy of the registry: key to the layer that replaces each ``torch.nn`` class.

    Example:
        >>> registered_weight_layers()["sparse-variational"][nn.Linear].__name__
        'SparseVariationalLinear'
    """
    return {key: dict(family) for key, family in _REGISTRY.items()}


def make_weight_layer(name: str, layer: nn.Module, **options: Any) -> BayesianWeights:
    """Build the layer of a family that takes the place of a ``torch.nn`` one, with its weights.

    Args:
        name: A key of ``registered_weight_layers()``.
        layer: The layer to replace; it is not changed.
        **options: Keyword arguments of the new layer.

    Raises:
        ConfigError: If the name or an option is unknown, or the family has no such layer.

    Example:
        >>> make_weight_layer("sparse-variational", nn.Linear(3, 2))
        SparseVariationalLinear(in_features=3, out_features=2, bias=True)
    """
    if name not in _REGISTRY:
        raise unknown_name("weight layer", name, _REGISTRY)
    family: Mapping[type[nn.Module], type[BayesianWeights]] = _REGISTRY[name]
    if type(layer) not in family:
        raise ConfigError(
            f"weight layer {name!r}",
            expected=f"one of {sorted(cls.__name__ for cls in family)}",
            got=repr(layer),
            hint="Leave such a layer as it is: bd.convert(..., exclude=...).",
        )
    try:
        return family[type(layer)].from_plain(layer, **options)
    except TypeError as error:
        raise ConfigError(
            f"weight layer {name!r}: {error}. Its options: {sorted(options)}."
        ) from error


register_weight_layer(nn.Linear, SparseVariationalLinear)
register_weight_layer(nn.Conv2d, SparseVariationalConv2d)
register_weight_layer(nn.Linear, DropconnectLinear)
register_weight_layer(nn.Conv2d, DropconnectConv2d)
register_weight_layer(nn.Linear, GaussianDropconnectLinear)
register_weight_layer(nn.Conv2d, GaussianDropconnectConv2d)

__all__ = [
    "ConvWeights",
    "Dropconnect",
    "DropconnectConv2d",
    "DropconnectLinear",
    "GaussianDropconnectConv2d",
    "GaussianDropconnectLinear",
    "LinearWeights",
    "SparseVariational",
    "SparseVariationalConv2d",
    "SparseVariationalLinear",
    "make_weight_layer",
    "register_weight_layer",
    "registered_weight_layers",
]
