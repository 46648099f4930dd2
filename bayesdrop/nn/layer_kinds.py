"""What the class of a ``torch.nn`` layer decides, whatever the law of its weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from bayesdrop.errors import ConfigError


@dataclass(frozen=True)
class LayerKind:
    """A class of layers that are linear in input and weight, ``weight[output, input, ...]``.

    Args:
        unit_dim: The dimension of the units in input and output, counted from the end.
        inputs: Name of the layer's attribute that counts the input units.
        outputs: Name of the one that counts the output units.
        operate: The output for a weight and a bias, by the layer's other settings.
    """

    unit_dim: int
    inputs: str
    outputs: str
    operate: Callable[[Any, Tensor, Tensor, Tensor | None], Tensor]

    def input_units(self, layer: nn.Module) -> int:
        """Return the number of input units of a layer of this kind."""
        return int(getattr(layer, self.inputs))

    def output_units(self, layer: nn.Module) -> int:
        """Return the number of output units of a layer of this kind."""
        return int(getattr(layer, self.outputs))


def _linear(layer: nn.Linear, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight, bias)


def _convolve(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # torch's own, which knows of padding modes as well; F.conv2d does not.
    output: Tensor = layer._conv_forward(x, weight, bias)
    return output


def _convolution(dimensions: int) -> LayerKind:
    return LayerKind(-1 - dimensions, "in_channels", "out_channels", _convolve)


LAYER_KINDS: dict[type[nn.Module], LayerKind] = {
    nn.Linear: LayerKind(-1, "in_features", "out_features", _linear),
    nn.Conv1d: _convolution(1),
    nn.Conv2d: _convolution(2),
    nn.Conv3d: _convolution(3),
}
"""The classes whose weights can be random; a subclass of one may do anything, and is none."""


def has_kind(layer: nn.Module) -> bool:
    """Return whether the weights of a layer can be random: it is one of torch's own, untouched.

    A layer whose weight is computed from others (weight normalisation, pruning) is not, nor is one
    with a mask on its inputs.
    """
    own = {"weight", "bias"} == set(layer._parameters) and not layer._modules
    return type(layer) in LAYER_KINDS and own


def kind_of(layer: nn.Module, who: str) -> LayerKind:
    """Return the kind of a layer.

    Raises:
        ConfigError: In the name of ``who``, if its weights cannot be random.
    """
    if not has_kind(layer):
        raise ConfigError(
            who,
            expected=f"an {', '.join(f'nn.{cls.__name__}' for cls in LAYER_KINDS)} of torch's own",
            got=repr(layer),
            hint="Leave such a layer as it is: bd.convert(..., exclude=...).",
        )
    return LAYER_KINDS[type(layer)]
