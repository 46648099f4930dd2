"""The units of layers, and the weights that belong to them."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import nn

from bayesdrop.conversion.kinds import TRANSPOSED
from bayesdrop.conversion.selection import plain_of
from bayesdrop.nn import LAYER_KINDS, LayerKind


class Units(NamedTuple):
    """A layer, how many units it has, and where: in its tensor and in its weight.

    ``inputs`` says that they are what the layer sees, not what it gives.
    """

    module: nn.Module
    number: int
    unit_dim: int
    weight_dim: int | None = None
    inputs: bool = False


def inputs_of(layer: nn.Module) -> Units:
    """Return the input units of a Linear or a convolution."""
    plain = plain_of(layer)
    if isinstance(plain, TRANSPOSED):
        return Units(layer, plain.in_channels, 1 - plain.weight.ndim, 0, True)
    kind = _kind(plain)
    return Units(layer, kind.input_units(plain), kind.unit_dim, 1, True)


def outputs_of(layer: nn.Module) -> Units:
    """Return the output units of a Linear or a convolution."""
    plain = plain_of(layer)
    if isinstance(plain, TRANSPOSED):
        dim = 1 if plain.groups == 1 else None
        return Units(layer, plain.out_channels, 1 - plain.weight.ndim, dim)
    kind = _kind(plain)
    return Units(layer, kind.output_units(plain), kind.unit_dim, 0)


def _kind(plain: nn.Module) -> LayerKind:
    return next(kind for cls, kind in LAYER_KINDS.items() if isinstance(plain, cls))


def weight_of(layer: nn.Module) -> torch.Tensor:
    """Return a layer's weight, also if it is computed from parameters; of a mask, any tensor."""
    weight = getattr(layer, "weight", None)
    if isinstance(weight, torch.Tensor):
        return weight.detach()
    tensors = itertools.chain(layer.parameters(), layer.buffers())
    return next(tensors, torch.empty(0)).detach()
