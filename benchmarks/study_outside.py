"""Baselines of other people's: Masksembles, last-layer Laplace, and ``nn.Dropout`` on pixels.

The first two by their kept libraries, ``pip install 'bayesdrop[study]'``: masksembles has the
layers and laplace-torch the approximation. They are trained, or start from, what the other rows
have.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bayesdrop import networks, recipes

MASKS = 4
"""Of Masksembles; its authors' choice for classification. They are drawn with the weights."""

Predict = Callable[[Tensor], Tensor]


class AnyBatch(nn.Module):
    """A layer that needs a multiple of its masks as a batch, for any batch: it fills them up."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        missing = -len(x) % MASKS
        filled = nn.functional.pad(x, (0, 0, 0, missing)) if missing else x
        return self.layer(filled)[: len(x)]


def with_masksembles(network: nn.Sequential, scale: float) -> nn.Sequential:
    """Return a network with Masksembles before the Linear layers that ``nn.Dropout`` goes before.

    Args:
        network: With a rectifier, or flattened maps, in front of each such layer.
        scale: How many times more units the masks have together than each; 1 is no mask.
    """
    from masksembles.torch import Masksembles1D

    found: OrderedDict[str, nn.Module] = OrderedDict()
    for name, module in network.named_children():
        if isinstance(module, nn.Linear) and any(isinstance(m, nn.ReLU) for m in found.values()):
            layer = Masksembles1D(module.in_features, MASKS, scale)
            masks = layer.masks
            del layer.masks  # which is not saved with the weights
            layer.register_buffer("masks", masks)
            found[f"{name}_masks"] = AnyBatch(layer)
        found[name] = module
    return nn.Sequential(found)


def with_input_dropout(network: nn.Sequential, rate: float) -> nn.Sequential:
    """Return a network with ``nn.Dropout`` on its inputs, in front of all it has."""
    layers = OrderedDict[str, nn.Module](input_dropout=nn.Dropout(rate))
    layers.update(network.named_children())
    return nn.Sequential(layers)


def _register(name: str, like: str, build: Callable[..., nn.Module], summary: str) -> None:
    networks.registry.register(name, build)
    recipe = recipes.get(like)
    recipes.register(dataclasses.replace(recipe, name=name, summary=summary, network=name))


def _register_all(network: str) -> None:
    def masked(*, scale: float, **options: Any) -> nn.Sequential:
        return with_masksembles(networks.build(network, **options), scale)

    def dropped(*, input_dropout: float, **options: Any) -> nn.Sequential:
        return with_input_dropout(networks.build(network, **options), input_dropout)

    _register(f"{network}-masksembles", network, masked, "Masksembles")
    _register(f"{network}-input-dropout", f"{network}-dropout", dropped, "dropout on inputs too")


for _network in ("lenet-500-300", "lenet5-caffe"):
    _register_all(_network)


def masksembles(network: nn.Module) -> Predict:
    """Return the mean of a network's probabilities over its masks."""

    def predict(x: Tensor) -> Tensor:
        # The first part of a batch has the first mask, and so on.
        outputs = network(torch.cat([x] * MASKS)).softmax(1)
        return outputs.reshape(MASKS, len(x), -1).mean(0)

    return predict


def laplace(network: nn.Module, data: tuple[Tensor, Tensor]) -> Predict:
    """Return predictions of a Laplace approximation of the last layer.

    A Kronecker-factored Hessian, the prior's precision by the marginal likelihood of the training
    set, and the probit approximation: the settings that the library recommends.
    """
    from laplace import Laplace

    found = Laplace(
        network, "classification", subset_of_weights="last_layer", hessian_structure="kron"
    )
    found.fit(DataLoader(TensorDataset(*data), batch_size=500))
    found.optimize_prior_precision(method="marglik")

    def predict(x: Tensor) -> Tensor:
        parts = [found(part, link_approx="probit").detach() for part in x.split(1000)]
        return torch.cat(parts)

    return predict
