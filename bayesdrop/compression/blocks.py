"""Weights and vectors of several networks beside each other."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from bayesdrop.ops.layout import memory_format_of


def bias_of(module: Any) -> Tensor:
    """Return a layer's bias, or zeros."""
    if module.bias is None:
        return module.weight.new_zeros(len(module.weight))
    bias: Tensor = module.bias.detach()
    return bias


def padded(value: Tensor, *sizes: int) -> Tensor:
    """Return a tensor with zeros behind it in its first dimensions, up to these sizes."""
    missing = [size - own for size, own in zip(sizes, value.shape, strict=False)]
    padding = [0, 0] * (value.ndim - len(sizes))
    for size in reversed(missing):
        padding += [0, size]
    return nn.functional.pad(value, padding)


def placed(weight: Tensor, columns: Tensor, size: int) -> Tensor:
    """Return a weight whose inputs stand among others, whose weights are 0."""
    new = weight.new_zeros((len(weight), size, *weight.shape[2:]))
    return new.index_copy_(1, columns.to(weight.device), weight)


def joined(vectors: list[Tensor], units: tuple[Tensor, ...]) -> Tensor | None:
    """Return the one vector that all are parts of; None if there is none."""
    size = 1 + max(int(u.max()) for u in units)
    whole = vectors[0].new_zeros(size)
    for vector, u in zip(vectors, units, strict=True):
        whole[u.to(whole.device)] = vector.flatten()
    same = all(
        torch.equal(whole[u.to(whole.device)], v.flatten())
        for v, u in zip(vectors, units, strict=True)
    )
    return whole if same else None


def like(module: Any, weight: Tensor, bias: Tensor, groups: int = 1) -> nn.Module:
    """Return a layer like another one with another weight and bias."""
    new = copy.copy(module)
    # Not views of one another, which some formats of files do not take.
    weight = weight.clone(memory_format=memory_format_of(module.weight))
    new._parameters = {"weight": nn.Parameter(weight), "bias": nn.Parameter(bias.clone())}
    if isinstance(module, nn.Linear):
        new.in_features, new.out_features = weight.shape[1], len(weight)
    else:
        new.groups, new.in_channels, new.out_channels = (
            groups,
            weight.shape[1] * groups,
            len(weight),
        )
    return new
