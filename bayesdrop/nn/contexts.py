"""Contexts that say which masks to run with: given ones, or those of a posterior sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.errors import unknown_name
from bayesdrop.nn.context import MaskContext
from bayesdrop.nn.latents import LatentOwner
from bayesdrop.nn.mask import BayesianDropout, named_dropout_layers
from bayesdrop.typing import Latents


class ImposedMasks(MaskContext):
    """Gives each named layer the mask that was asked for; the others behave as outside."""

    def __init__(self, masks: Mapping[BayesianDropout, Tensor]) -> None:
        super().__init__()
        self.masks = masks

    @override
    def mask(self, layer: BayesianDropout, x: Tensor) -> Tensor | None:
        return self.masks.get(layer)


class PosteriorSample(MaskContext):
    """One draw of the global latents, and masks drawn from it.

    Args:
        latents: The global latents of every layer, as its ``draw_latents`` gives them. Those of
            layers with random weights are the weights of this sample, for all inputs.
        shared: Whether one mask, drawn now, serves all inputs. The alternative draws a mask per
            example at every forward pass. The marginal prediction of each input is the same; only
            the correlation between inputs differs. Masks that depend on the input are always
            drawn per example.
    """

    def __init__(self, latents: Mapping[Any, Latents], *, shared: bool) -> None:
        super().__init__()
        self.latents: Mapping[LatentOwner, Latents] = latents
        self.masks: dict[BayesianDropout, Tensor] = {}
        if shared:
            layers = [m for m in latents if isinstance(m, BayesianDropout)]
            layers.sort(
                key=lambda layer: layer.width_source is not None
            )  # those that lead come first
            self.masks = {
                layer: layer.draw_mask(latents[layer])
                for layer in layers
                if not layer.input_dependent
            }

    @override
    def values(self, owner: LatentOwner) -> Latents | None:
        return self.latents.get(owner)

    @override
    def mask(self, layer: BayesianDropout, x: Tensor) -> Tensor | None:
        if layer in self.masks:
            return self.masks[layer]
        if layer in self.latents:
            return layer.draw_mask(self.latents[layer], x)
        return None


def impose_masks(network: nn.Module, masks: Mapping[str, Tensor]) -> ImposedMasks:
    """Return a context in which the named layers use the given masks.

    Args:
        network: The network (or ``BayesianNetwork``) whose layers are meant.
        masks: Layer name, as in ``network.named_modules()``, to a mask of shape ``(K,)`` or
            ``(N, K)``.

    Raises:
        ConfigError: If a name is not that of a dropout layer of ``network``.

    Example:
        >>> import bayesdrop as bd
        >>> net = nn.Sequential(bd.BetaBernoulliDropout(3), nn.Linear(3, 2, bias=False))
        >>> with impose_masks(net, {"0": torch.zeros(3)}):
        ...     bool((net(torch.ones(1, 3)) == 0).all())
        True
    """
    layers = dict(named_dropout_layers(network))
    for name in masks:
        if name not in layers:
            raise unknown_name("dropout layer", name, layers)
    return ImposedMasks({layers[name]: torch.as_tensor(mask) for name, mask in masks.items()})
