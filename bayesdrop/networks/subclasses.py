"""Subclasses of Linear and convolutions: what they compute, found by running them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

_BASES = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)  # fmt: skip


def base_of(module: nn.Module) -> type[nn.Module] | None:
    """Return the layer of torch's own whose subclass, by somebody else, a module is.

    Args:
        module: Any module.
    """
    kind = type(module)
    own = kind.__module__.startswith(("torch.nn", "torch.ao"))
    if own or parametrize.is_parametrized(module):
        return None
    return next((base for base in _BASES if kind is not base and issubclass(kind, base)), None)


def computes_as(module: nn.Module, base: type[nn.Module]) -> bool:
    """Return whether a module's outputs are its base's, in both modes, on random inputs.

    Args:
        module: A subclass of the base.
        base: What ``base_of`` returned.
    """
    more = module._modules or module._buffers or set(module._parameters) != {"weight", "bias"}
    if more or not isinstance(module.weight, nn.Parameter):
        return False
    if module.weight.is_meta:
        return type(module).forward is base.forward
    pairs = _outputs(module, base)
    return bool(pairs) and all(torch.equal(got, expected) for got, expected in pairs)


def has_units_of(module: nn.Module, base: type[nn.Module]) -> bool:
    """Return whether a module maps as many units to as many as its base: only its numbers differ.

    So do layers that standardise their weights, or choose their padding by the input.

    Args:
        module: A subclass of the base.
        base: What ``base_of`` returned.
    """
    weight = getattr(module, "weight", None)
    inner = any(child._parameters for part in module.children() for child in part.modules())
    if inner or not isinstance(weight, Tensor) or weight.is_meta:
        return False
    pairs = _outputs(module, base)
    return bool(pairs) and all(a.ndim == b.ndim and a.shape[1] == b.shape[1] for a, b in pairs)


@torch.no_grad()
def _outputs(module: nn.Module, base: type[nn.Module]) -> list[tuple[Tensor, Tensor]]:
    """Return a module's outputs and its base's in both modes; nothing if it wants other inputs."""
    layer: Any = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(0)
    if not isinstance(layer, _ConvNd):
        shape: tuple[int, ...] = (2, layer.in_features)
    else:
        reach = [d * (k - 1) + 8 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        shape = (2, layer.in_channels, *reach)
    x = torch.randn(shape, generator=generator).to(layer.weight)
    found: list[tuple[Tensor, Tensor]] = []
    with torch.random.fork_rng(devices=[]):
        for training in (True, False):
            expected = base.forward(layer.train(training), x)
            try:
                got = layer(x)
            except Exception:  # a forward of its own may want anything
                return []
            if not isinstance(got, Tensor):
                return []
            found.append((got, expected))
    return found
