"""Masks over the ranks of the LoRA adapters that a network has from ``peft``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bayesdrop.conversion.accepted import copied
from bayesdrop.errors import ConversionError, ConversionWarning
from bayesdrop.nn.lora import MaskedRanks, mask_of_ranks

_CLOSED = 0.05
"""Of the ranks of a trained adapter, the share that is closed by the masks of all its layers."""


def mask_lora_ranks(
    model: nn.Module,
    dropout: str = "beta-bernoulli",
    *,
    adapter: str = "default",
    **options: Any,
) -> nn.Module:
    r"""Return a copy of a model whose ``peft`` LoRA adapters have a mask over their ranks.

    .. math:: y = W x + s\,B\,(z \odot A x), \qquad z \sim q(z \mid \pi)

    A layer's ``lora_B`` becomes a ``bd.nn.MaskedRanks``; its weight keeps its values, and
    all masks are trained with the adapter. Train with ``bd.kl_divergence(model)`` in the loss
    (``BayesianNetwork`` counts it), then ``bd.compression.cut_lora_ranks`` gives a plain ``peft``
    model of the ranks that the posterior keeps. What ``peft`` merges is the mean mask's update.

    In an adapter that is trained already (its ``lora_B`` is not zero) masks start nearly open,
    and priors with an order give their first stick to the rank whose factors are largest.

    Args:
        model: A model of ``peft``, or any module with its LoRA layers in it.
        dropout: Key of a mask in ``bd.nn.layers``, such as ``"indian-buffet"``.
        adapter: Name of the adapter.
        **options: Keyword arguments of the mask.

    Raises:
        ConfigError: If the key is not that of a mask, or an option is unknown.
        ConversionError: If no layer of the adapter can have one, or the model cannot be copied.
        ImportError: If ``peft`` is absent.

    Warns:
        ConversionWarning: Of layers of the adapter that get none: DoRA and other variants,
            embeddings, grouped convolutions, and ``nn.MultiheadAttention``, which ``peft`` merges
            in every pass.
    """
    who = "mask_lora_ranks"
    work = copied(model)
    found = list(lora_layers(work, adapter, who))
    reasons = {name: _why_not(work, name, layer, adapter) for name, layer in found}
    chosen = [(name, layer) for name, layer in found if not reasons[name]]
    left = "; ".join(f"{name!r}: {why}" for name, why in reasons.items() if why)
    if not chosen:
        raise ConversionError(
            who,
            expected=f"LoRA layers of the adapter {adapter!r} without masks",
            got=left or "none",
            hint="Make them with peft.get_peft_model(model, peft.LoraConfig(...)).",
        )
    for _, layer in chosen:
        second = layer.lora_B[adapter]
        importance = _importance(layer.lora_A[adapter], second)
        keep_prob = 1 - _CLOSED / len(chosen) if importance.any() else None
        mask = mask_of_ranks(dropout, second, options, keep_prob)
        mask.rank_units(importance)
        layer.lora_B[adapter] = MaskedRanks(second, mask).train(second.training)
    masks = [layer.lora_B[adapter].mask for _, layer in chosen]
    type(masks[0]).share(masks)
    if left:
        warnings.warn(
            f"{who}: parts of the adapter stay as they are: {left}.",
            ConversionWarning,
            stacklevel=2,
        )
    return work


def lora_layers(model: nn.Module, adapter: str, who: str) -> Iterator[tuple[str, Any]]:
    """Yield the name and layer of every LoRA layer that has the adapter.

    Args:
        model: Any module.
        adapter: Name of the adapter.
        who: The function that asks.

    Raises:
        ImportError: If ``peft`` is absent.
    """
    try:
        from peft.tuners.lora import LoraLayer
    except ImportError as error:
        raise ImportError(f"{who} needs peft: pip install 'bayesdrop[peft]'.") from error
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and adapter in {**module.r}:
            yield name, module


def _why_not(model: nn.Module, name: str, layer: Any, adapter: str) -> str:
    """Return why a layer cannot have a mask, or nothing."""
    parents = [name[:at] for at, letter in enumerate(name) if letter == "."]
    inside = [type(model.get_submodule(parent)).__name__ for parent in parents]
    second = layer.lora_B[adapter] if adapter in layer.lora_B else None
    if "MultiheadAttention" in (*inside, type(layer).__name__):
        return "nn.MultiheadAttention is merged in every pass"
    if second is None:
        return "an embedding, whose ranks no layer sees"
    if isinstance(second, MaskedRanks):
        return "it has a mask already"
    if layer.merged:
        return "it is merged (model.unmerge_adapter() first)"
    if adapter in getattr(layer, "lora_variant", {}):
        return f"the variant {type(layer.lora_variant[adapter]).__name__}"
    if getattr(second, "groups", 1) != 1:
        return "a convolution with groups"
    return ""


@torch.no_grad()
def _importance(first: nn.Module, second: nn.Module) -> Tensor:
    a, b = first.get_parameter("weight"), second.get_parameter("weight")
    return a.flatten(1).norm(dim=1) * b.transpose(0, 1).flatten(1).norm(dim=1)
