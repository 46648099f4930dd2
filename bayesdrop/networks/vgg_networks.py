"""VGG-like networks for 32 x 32 images."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_WIDTHS_11 = ((96,), (192,), (384, 384), (768, 768), (768, 768))
_HIDDEN_11 = 256


def vgg(
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    width: float = 1.0,
    dropout: float = 0.0,
) -> nn.Sequential:
    """VGG-like network for CIFAR: 13 convolutions 3x3 + BatchNorm + ReLU, then two dense layers.

    Five groups of convolutions, 64-64, 128-128, 256x3, 512x3, 512x3, each followed by a 2x2 max
    pool, leave 512 features; the dense layers are 512-512 and 512-``num_classes``.

    Args:
        num_classes: Number of outputs.
        in_channels: Number of image channels.
        width: Factor on all widths, > 0.
        dropout: Drop probability of an ``nn.Dropout`` before ``fc1`` and ``fc2``; none if 0.

    Shape:  input ``(N, in_channels, 32, 32)``, output ``(N, num_classes)``.

    References:
        Simonyan, Zisserman (2015), https://arxiv.org/abs/1409.1556, in the CIFAR form used by
        Lee et al. (2018), https://arxiv.org/abs/1805.10896.

    Example:
        >>> import torch
        >>> vgg(width=0.125)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    return _vgg(_WIDTHS, num_classes, in_channels, width=width, dropout=dropout)


def vgg11(
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    width: float = 1.0,
    dropout: float = 0.0,
) -> nn.Sequential:
    """VGG-11, half as wide again: 8 convolutions 3x3 + BatchNorm + ReLU, then two dense layers.

    Five groups of convolutions, 96, 192, 384x2, 768x2, 768x2, each followed by a 2x2 max pool,
    leave 768 features; the dense layers are 768-256 with BatchNorm and 256-``num_classes``.

    Args:
        num_classes: Number of outputs.
        in_channels: Number of image channels.
        width: Factor on all widths, > 0.
        dropout: Drop probability of an ``nn.Dropout`` before ``fc1`` and ``fc2``; none if 0.

    Shape:  input ``(N, in_channels, 32, 32)``, output ``(N, num_classes)``.

    References:
        Simonyan, Zisserman (2015), https://arxiv.org/abs/1409.1556, with the widths of Cui et al.
        (2021), "Bayesian Nested Neural Networks for Uncertainty Calibration and Adaptive
        Compression".

    Example:
        >>> import torch
        >>> vgg11(width=0.125)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    return _vgg(
        _WIDTHS_11, num_classes, in_channels, hidden=_HIDDEN_11, width=width, dropout=dropout
    )


def _vgg(
    groups: tuple[tuple[int, ...], ...],
    num_classes: int,
    in_channels: int,
    *,
    hidden: int | None = None,
    width: float,
    dropout: float,
) -> nn.Sequential:
    """Build a VGG; ``hidden`` is its dense layer's width, with BatchNorm, or the channels'."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels, index = in_channels, 0
    for group, widths in enumerate(groups, start=1):
        for full_width in widths:
            index += 1
            out_channels = max(1, round(full_width * width))
            # BatchNorm has the bias.
            layers[f"conv{index}"] = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
            layers[f"bn{index}"] = nn.BatchNorm2d(out_channels)
            layers[f"relu{index}"] = nn.ReLU(inplace=True)
            channels = out_channels
        layers[f"pool{group}"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    if dropout > 0.0:
        layers["dropout1"] = nn.Dropout(dropout)
    units = channels if hidden is None else max(1, round(hidden * width))
    layers["fc1"] = nn.Linear(channels, units, bias=hidden is None)
    if hidden is not None:
        layers[f"bn{index + 1}"] = nn.BatchNorm1d(units)
    layers[f"relu{index + 1}"] = nn.ReLU(inplace=True)
    if dropout > 0.0:
        layers["dropout2"] = nn.Dropout(dropout)
    layers["fc2"] = nn.Linear(units, num_classes)
    return nn.Sequential(layers)
