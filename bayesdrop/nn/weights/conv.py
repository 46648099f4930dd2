"""What convolutions with random weights share."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from bayesdrop.nn.weight import BayesianWeights
from bayesdrop.nn.weights.linear import unlike


class ConvWeights(BayesianWeights):
    """Abstract layer that takes the place of ``nn.Conv2d``; its posterior is a subclass's."""

    replaces = nn.Conv2d
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] | str
    dilation: tuple[int, int]
    groups: int

    def set_sizes(self, plain: nn.Conv2d) -> None:
        """Take the sizes of a ``torch.nn`` layer, which has checked them."""
        self.in_channels, self.out_channels = plain.in_channels, plain.out_channels
        self.kernel_size, self.stride = _pair(plain.kernel_size), _pair(plain.stride)
        self.padding, self.dilation = _padding(plain), _pair(plain.dilation)
        self.groups = plain.groups

    @property
    @override
    def unit_dim(self) -> int:
        return -3

    @property
    @override
    def input_units(self) -> int:
        return self.in_channels

    @override
    def operate(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    @override
    def plain(self) -> nn.Conv2d:
        return nn.Conv2d(
            self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding,
            self.dilation, self.groups, self.bias is not None, device="meta",
        )  # fmt: skip

    @classmethod
    @override
    def like(cls, layer: nn.Module, **options: Any) -> Self:
        if not isinstance(layer, nn.Conv2d) or layer.padding_mode != "zeros":
            raise unlike(cls, "an nn.Conv2d with padding_mode='zeros'", layer)
        build: Any = cls
        return build(
            layer.in_channels,
            layer.out_channels,
            _pair(layer.kernel_size),
            _pair(layer.stride),
            _padding(layer),
            _pair(layer.dilation),
            layer.groups,
            layer.bias is not None,
            **options,
        )


def _padding(layer: nn.Conv2d) -> tuple[int, int] | str:
    return layer.padding if isinstance(layer.padding, str) else _pair(layer.padding)


def _pair(sizes: tuple[int, ...]) -> tuple[int, int]:
    height, width = sizes
    return height, width
