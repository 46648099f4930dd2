"""What goes silently wrong in a loop, and is said instead."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from bayesdrop.errors import BayesdropWarning, ConfigError
from bayesdrop.inference.optimizers import posterior_parameters
from bayesdrop.nn import LatentOwner

WHO = "KLTerm"


def learns(owner: LatentOwner) -> bool:
    """Return whether anything trains a law of latents that an owner has."""
    return any(p.requires_grad for p in owner.variational_parameters())


def check_precision(owners: Iterable[LatentOwner]) -> None:
    """Raise ``ConfigError`` if an optimiser's steps would round away."""
    for owner in owners:
        for parameter in owner.variational_parameters():
            if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
                raise ConfigError(
                    WHO,
                    expected="parameters of the posterior in float32",
                    got=f"{str(parameter.dtype).removeprefix('torch.')} in {owner.name}, in which "
                    "most steps of training round to nothing",
                    hint="Load the network in float32 (of Hugging Face with dtype=torch.float32) "
                    "and let autocast lower the precision: bf16=True, precision='bf16-mixed'.",
                )


def check_mode(owners: Iterable[LatentOwner]) -> None:
    """Raise ``ConfigError`` if the pass that is about to run samples no masks to learn from."""
    still = [owner for owner in owners if not owner.training and learns(owner)]
    if still:
        raise ConfigError(
            WHO,
            expected="layers in training mode, which sample their masks",
            got=f"{still[0].name} in evaluation mode ({len(still)} are)",
            hint="Call net.train() before training and after each validation (from_pretrained "
            "returns networks in evaluation mode, and Lightning leaves them so), or freeze the "
            "layer with requires_grad_(False).",
        )


def check_whole(owners: Iterable[LatentOwner], shapes: Sequence[torch.Size]) -> None:
    """Raise ``ConfigError`` if a process holds parts of the posterior only.

    Args:
        owners: The owners.
        shapes: Of all their parameters, when all were there.
    """
    now = [parameter for owner in owners for parameter in owner.parameters()]
    for parameter, shape in zip(now, shapes, strict=True):
        if isinstance(parameter, DTensor) or parameter.shape != shape:
            raise ConfigError(
                WHO,
                expected="a process that holds all parameters of Bayesian layers",
                got="some that are shared out, whose KL divergence it does not know",
                hint="Use DDP, or leave the Bayesian layers out of FSDP (ignored_params) and take "
                "at most stage 2 of DeepSpeed's ZeRO. Of layers that have grown make a new term.",
            )


def check_differentiable(divergences: Iterable[tuple[Any, Tensor]]) -> None:
    """Raise ``ConfigError`` if divergences counted in a pass have lost their gradient.

    Args:
        divergences: Of each layer.
    """
    for layer, divergence in divergences:
        if torch.is_grad_enabled() and learns(layer) and not divergence.requires_grad:
            raise ConfigError(
                WHO,
                expected="a pass with gradients",
                got=f"{layer.name}, whose own divergence has none",
                hint="Gradient checkpointing needs use_reentrant=False (of Hugging Face in "
                "gradient_checkpointing_kwargs); no_grad belongs to evaluation.",
            )


def check_optimizers(
    network: nn.Module, owners: Iterable[LatentOwner], optimizers: Any, scaler: object
) -> None:
    """Raise ``ConfigError`` unless optimisers train a network's posterior, or warn of a decay."""
    learned = {p for p in set.union(*posterior_parameters(network)) if p.requires_grad}
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    held = [[p for p in group["params"] if p in learned] for group in groups]
    if learned and not any(held):
        raise ConfigError(
            WHO,
            expected="an optimizer of this network's posterior",
            got="one of other parameters",
            hint="Make it after convert, deepcopy and .to(), from net.parameters().",
        )
    if any(g.get("weight_decay") and own for g, own in zip(groups, held, strict=True)):
        warnings.warn(
            "KLTerm: the optimizer decays parameters of the posterior, whose prior is in the "
            "KL already. Pass it bd.inference.optimizers.parameter_groups(net), which also "
            "has a learning rate of their own.",
            BayesdropWarning,
            stacklevel=3,
        )
    stepping = [o for o in owners if type(o).after_step is not LatentOwner.after_step]
    if scaler is not None and stepping:
        raise ConfigError(
            WHO,
            expected="a loss that is not scaled, since a layer makes a step of its own",
            got=f"a gradient scaler and {stepping[0].name}",
            hint="Train in bfloat16, which needs no scaling, or in float32.",
        )
