"""Operations of torch that keep the units of a tensor apart, as modules, functions and methods."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.utils import rnn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)

RECTIFIERS = {nn.ReLU, nn.LeakyReLU, F.relu, F.leaky_relu, torch.relu, "relu"}
"""Functions of single numbers that a factor >= 0 passes through."""

ELEMENTWISE = {
    nn.ReLU6, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Sigmoid,
    nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, F.relu6, F.elu, F.selu, F.celu, F.gelu,
    F.silu, F.mish, F.softplus, F.sigmoid, F.tanh, F.hardtanh, F.hardswish, F.hardsigmoid,
    torch.sigmoid, torch.tanh, "sigmoid", "tanh",
}  # fmt: skip
"""Other functions of single numbers."""

POOLS: dict[Any, int] = {
    nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.MaxPool3d: 3, nn.AdaptiveAvgPool1d: 1,
    nn.AdaptiveAvgPool2d: 2, nn.AdaptiveAvgPool3d: 3, nn.AdaptiveMaxPool1d: 1,
    nn.AdaptiveMaxPool2d: 2, nn.AdaptiveMaxPool3d: 3, F.adaptive_max_pool1d: 1,
    F.adaptive_max_pool2d: 2, F.adaptive_max_pool3d: 3, F.max_pool1d: 1,
    F.max_pool2d: 2, F.max_pool3d: 3,
    F.adaptive_avg_pool1d: 1, F.adaptive_avg_pool2d: 2, F.adaptive_avg_pool3d: 3,
    torch.max_pool1d: 1, torch.max_pool2d: 2,
}  # fmt: skip
"""Pooling over the last dimensions, as many as the value says."""

PADDED_POOLS: dict[Any, int] = {
    nn.AvgPool1d: 1, nn.AvgPool2d: 2, nn.AvgPool3d: 3, F.avg_pool1d: 1, F.avg_pool2d: 2,
    F.avg_pool3d: 3,
}  # fmt: skip
"""The same, where zeros at the border may count."""

MOVES: set[Any] = {
    torch.permute, torch.transpose, torch.swapaxes, torch.swapdims, torch.movedim, torch.reshape,
    torch.flatten, torch.unflatten, torch.squeeze, torch.unsqueeze, torch.roll, torch.flip,
    torch.narrow, torch.select, torch.t, operator.getitem, "permute", "transpose", "swapaxes",
    "swapdims", "movedim", "reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze",
    "roll", "flip", "narrow", "select", "contiguous", "clone", "expand", "t",
}  # fmt: skip
"""Functions and methods of one tensor whose results are the tensor's own numbers."""

RESIZES: set[Any] = {nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, F.interpolate}
"""Interpolation over the dimensions behind the second."""
PACKED: set[Any] = {
    rnn.pack_padded_sequence, rnn.pad_packed_sequence, rnn.pack_sequence, rnn.unpack_sequence,
    rnn.unpad_sequence, rnn.pad_sequence,
}  # fmt: skip
"""Functions of packed sequences; they look at lengths, so that tracing must not look inside."""


def operation(node: fx.Node) -> Any:
    """Return the function, or the name of the method, that a node calls; None of other nodes.

    Layers, inputs and parameters may be called as methods are, such as ``self.view``.
    """
    return node.target if node.op in ("call_function", "call_method") else None
