"""Kinds of operations that ``convert`` tells apart."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm)
NORMALISATIONS = (
    *NORMS, nn.LayerNorm, nn.RMSNorm, nn.SyncBatchNorm, nn.LocalResponseNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip
RECURRENT = (nn.LSTM, nn.GRU)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
DROPOUT_FUNCTIONS: dict[Any, type[nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
    torch.dropout: nn.Dropout,
    torch.ops.aten.dropout: nn.Dropout,
    torch.alpha_dropout: nn.AlphaDropout,
    torch.feature_dropout: nn.Dropout1d,
    torch.feature_alpha_dropout: nn.FeatureAlphaDropout,
}
ACTIVATIONS = (
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU,
    nn.Mish, nn.Softplus, nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid,
)  # fmt: skip
ACTIVATION_FUNCTIONS = {
    F.relu, F.relu_, F.leaky_relu, F.relu6, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish,
    F.softplus, F.sigmoid, F.tanh, F.hardtanh, F.hardswish, F.hardsigmoid, torch.relu,
    torch.relu_, torch.sigmoid, torch.tanh, "relu", "relu_", "sigmoid", "tanh",
}  # fmt: skip
POOLS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
POOL_FUNCTIONS = {
    F.max_pool1d, F.max_pool2d, F.max_pool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d,
    F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, torch.max_pool2d,
}  # fmt: skip
SUMS = {operator.add, operator.iadd, torch.add, "add", "add_"}
