"""Layers whose weights are computed from other tensors, by parametrizations or by hooks.

``torch.nn.utils.weight_norm`` and ``spectral_norm`` compute a weight in a hook before each call,
as ``torch.nn.utils.prune`` does, and keep it as an ordinary attribute, which cannot be copied. Of
the two norms ``torch.nn.utils.parametrizations`` has another form with the same outputs.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import (
    parametrizations,
    parametrize,
    prune,
    remove_spectral_norm,
    remove_weight_norm,
)

Network = TypeVar("Network", bound=nn.Module)


def copy_of(network: Network) -> Network:
    """Return a deep copy of a network, also where hooks have computed weights.

    Args:
        network: Any module.

    Raises:
        RuntimeError: If a module holds another tensor that was computed.
    """
    memo: dict[int, Any] = {}
    for module in network.modules():
        for name in _hooked(module):
            weight = vars(module).get(name)
            if isinstance(weight, Tensor) and not weight.is_leaf:
                memo[id(weight)] = weight.detach().clone()
    return copy.deepcopy(network, memo)


def _hooked(module: nn.Module) -> dict[str, Any]:
    """Return the tensors that hooks of torch's own compute, with the hooks."""
    found = {}
    for hook in module._forward_pre_hooks.values():
        own = type(hook).__module__ in (
            "torch.nn.utils.weight_norm",
            "torch.nn.utils.spectral_norm",
        )
        if own:
            found[str(cast(Any, hook).name)] = hook
        elif isinstance(hook, prune.BasePruningMethod):
            found[str(hook._tensor_name)] = hook
    return found


@torch.no_grad()
def renew(network: nn.Module) -> None:
    """Replace the old weight and spectral norms by those of parametrizations, in place.

    Outputs stay the same. (In training mode the power iteration of the new spectral norm turns its
    two vectors in the other order.)

    Args:
        network: Any module.
    """
    for module in list(network.modules()):
        for name, hook in _hooked(module).items():
            if type(hook).__module__.endswith(".weight_norm"):
                magnitude, direction = (getattr(module, name + part) for part in ("_g", "_v"))
                remove_weight_norm(module, name)
                parametrizations.weight_norm(module, name, hook.dim)
                originals = cast(Any, module.parametrizations)[name]
                originals.original0 = magnitude
                originals.original1 = direction
            elif type(hook).__module__.endswith(".spectral_norm"):
                weight = getattr(module, name + "_orig")
                vectors = [getattr(module, name + part).clone() for part in ("_u", "_v")]
                remove_spectral_norm(module, name)
                with torch.random.fork_rng(devices=[]):
                    parametrizations.spectral_norm(
                        module, name, hook.n_power_iterations, hook.eps, hook.dim
                    )
                originals = cast(Any, module.parametrizations)[name]
                originals.original = weight
                for own, value in zip(("_u", "_v"), vectors, strict=True):
                    getattr(originals[0], own).copy_(value)


@torch.no_grad()
def bake(network: nn.Module) -> None:
    """Let weights that are computed from other tensors be parameters, in place.

    Args:
        network: A module in evaluation mode, whose outputs stay the same.
    """
    for module in list(network.modules()):
        for name, hook in _hooked(module).items():
            if isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, name)
            elif type(hook).__module__.endswith(".weight_norm"):
                remove_weight_norm(module, name)
            else:
                remove_spectral_norm(module, name)
        if not parametrize.is_parametrized(module):
            continue
        # Not by remove_parametrizations, which changes the class, that copies of a module share.
        parts = cast(nn.ModuleDict, module.parametrizations)
        values = {name: getattr(module, name) for name in parts}
        grads = {name: any(p.requires_grad for p in parts[name].parameters()) for name in parts}
        module.__class__ = type(module).__bases__[0]
        del module.parametrizations
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value.clone(), grads[name]))


def as_linear(module: nn.Module) -> nn.Linear | None:
    """Return the ``nn.Linear`` that a layer is in another form, such as the Conv1D of GPT-2.

    Hugging Face's ``Conv1D`` multiplies by a weight of shape ``(inputs, outputs)``.

    Args:
        module: Any module.
    """
    kind = type(module)
    if kind.__name__ != "Conv1D" or not kind.__module__.startswith("transformers."):
        return None
    weight, bias = cast(Any, module).weight, cast(Any, module).bias
    with torch.device("meta"):
        linear = nn.Linear(*weight.shape)
    linear.weight = nn.Parameter(weight.detach().t().contiguous(), weight.requires_grad)
    linear.bias = bias
    return linear.train(module.training)
