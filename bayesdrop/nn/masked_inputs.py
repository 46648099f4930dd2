"""A mask on the inputs of a layer that stays in its place: for networks without a graph."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from bayesdrop.errors import ConfigError
from bayesdrop.nn.mask import BayesianDropout

_NAME = "mask"


def mask_inputs(layer: nn.Module, mask: BayesianDropout) -> None:
    """Let a layer multiply its inputs by a mask before it does what it does.

    The mask becomes the layer's child ``mask``; class and parameters of the layer are the same. A
    mask with ``unit_dim=-2`` is one of groups of features that lie side by side, such as the heads
    of attention: inputs ``(..., F)`` are seen as ``(..., num_units, F / num_units)``.

    Args:
        layer: A layer with inputs ``(..., F)``, such as an ``nn.Linear``; it is changed.
        mask: What multiplies them.

    Raises:
        ConfigError: If it is no mask.

    Example:
        >>> import torch, bayesdrop as bd
        >>> output = nn.Linear(6, 4)
        >>> mask_inputs(output, bd.BetaBernoulliDropout(3, unit_dim=-2))
        >>> output(torch.ones(5, 7, 6)).shape
        torch.Size([5, 7, 4])
    """
    if not isinstance(mask, BayesianDropout):
        raise ConfigError(
            "mask_inputs",
            expected="a mask",
            got=repr(mask),
            hint="bd.nn.make(key, units) makes one; unmask_inputs takes it off.",
        )
    unmask_inputs(layer)
    layer.add_module(_NAME, mask)
    layer.register_forward_pre_hook(_multiply, with_kwargs=True)


def input_mask(layer: nn.Module) -> BayesianDropout | None:
    """Return the mask that a layer multiplies its inputs by; None if there is none."""
    mask = layer._modules.get(_NAME)
    hooked = _multiply in layer._forward_pre_hooks.values()
    return mask if hooked and isinstance(mask, BayesianDropout) else None


def unmask_inputs(layer: nn.Module) -> None:
    """Take the mask off a layer, if there is one."""
    for key, hook in list(layer._forward_pre_hooks.items()):
        if hook is _multiply:
            del layer._forward_pre_hooks[key], layer._forward_pre_hooks_with_kwargs[key]
            del layer._modules[_NAME]


def named_masked_inputs(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the name and module of every layer with a mask on its inputs."""
    for name, module in network.named_modules():
        if input_mask(module) is not None:
            yield name, module


def _multiply(
    layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not inputs:  # layer(input=x)
        first = next(iter(inspect.signature(layer.forward).parameters))
        return (), named | {first: _masked(layer, named[first])}
    return (_masked(layer, inputs[0]), *inputs[1:]), named


def _masked(layer: nn.Module, x: Tensor) -> Tensor:
    mask: Any = layer._modules[_NAME]
    if mask.unit_dim == -2:
        x = mask(x.unflatten(-1, (mask.num_units, -1)))
        return x.flatten(-2)
    masked: Tensor = mask(x)
    return masked
