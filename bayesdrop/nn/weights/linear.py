"""What linear layers with random weights share."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from bayesdrop.errors import ConfigError
from bayesdrop.nn.weight import BayesianWeights


class LinearWeights(BayesianWeights):
    """Abstract layer that takes the place of ``nn.Linear``; its posterior is a subclass's."""

    replaces = nn.Linear
    in_features: int
    out_features: int

    @property
    @override
    def unit_dim(self) -> int:
        return -1

    @property
    @override
    def input_units(self) -> int:
        return self.in_features

    @override
    def operate(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    @override
    def plain(self) -> nn.Linear:
        return nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")

    @classmethod
    @override
    def like(cls, layer: nn.Module, **options: Any) -> Self:
        if not isinstance(layer, nn.Linear):
            raise unlike(cls, "an nn.Linear", layer)
        build: Any = cls
        return build(layer.in_features, layer.out_features, layer.bias is not None, **options)


def unlike(cls: type[BayesianWeights], expected: str, layer: nn.Module) -> ConfigError:
    """Return the error for a layer whose place a class of random weights cannot take."""
    return ConfigError(
        f"{cls.__name__}.from_plain",
        expected=expected,
        got=repr(layer),
        hint="Leave such a layer as it is: bd.convert(..., exclude=...).",
    )
