"""The units of layers, and the weights that belong to them."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import nn

from bayesdrop.conversion.selection import plain_of
from bayesdrop.nn import LAYER_KINDS, LayerKind


class Units(NamedTuple):
    """A layer, how many units it has, and where: in its tensor and in its weight."""

    module: nn.Module
    number: int
    unit_dim: int
    weight_dim: int | None = None


def inputs_of(layer: nn.Module) -> Units:
    """Return the input units of a Linear or a convolution."""
    plain, kind = _kind(layer)
    return Units(layer, kind.input_units(plain), kind.unit_dim, 1)


def outputs_of(layer: nn.Module) -> Units:
    """Return the output units of a Linear or a convolution."""
    plain, kind = _kind(layer)
    return Units(layer, kind.output_units(plain), kind.unit_dim, 0)


def _kind(layer: nn.Module) -> tuple[nn.Module, LayerKind]:
    plain = plain_of(layer)
    return plain, next(kind for cls, kind in LAYER_KINDS.items() if isinstance(plain, cls))


def weight_of(layer: nn.Module) -> torch.Tensor:
    """Return a layer's weight, also if it is computed from parameters; of a mask, any tensor."""
    weight = getattr(layer, "weight", None)
    if isinstance(weight, torch.Tensor):
        return weight.detach()
    tensors = itertools.chain(layer.parameters(), layer.buffers())
    return next(tensors, torch.empty(0)).detach()
