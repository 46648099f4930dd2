"""Recipes of residual networks, for folders of small photographs."""

from __future__ import annotations

from dataclasses import replace

from bayesdrop.recipes.recipe import Recipe, Stage, register

# The published protocol of beta-Bernoulli dropout, as in the catalogue, with a higher rate of the
# weights, as residual networks with batch norm take.
_PLAIN = Stage("plain", 15, batch_size=64, learning_rate=3e-3, decay_since=0.3)
_MASKED = Stage("beta-bernoulli", 15, dropout=True, batch_size=64, milestones=(0.6, 0.85))

for _name, _title, _network, _options, _epochs, _batch_size in (
    ("resnet8", "ResNet-8", "resnet", {"depth": 8}, 15, 64),
    ("resnet20", "ResNet-20", "resnet", {"depth": 20}, 100, 128),
    ("resnet18", "torchvision's ResNet-18", "resnet18", {}, 100, 128),
):
    _first = replace(_PLAIN, epochs=_epochs, batch_size=_batch_size)
    _second = replace(_MASKED, epochs=_epochs, batch_size=_batch_size)
    register(
        Recipe(
            _name,
            f"{_title} for small images, no dropout",
            "cifar10-jpeg75",
            _network,
            (replace(_first, epochs=2 * _epochs),),
            network_options=_options,
            augment=True,
        )
    )
    register(
        Recipe(
            f"{_name}-beta-bernoulli",
            f"{_title} for small images, beta-Bernoulli dropout from pretrained weights",
            "cifar10-jpeg75",
            _network,
            (_first, _second),
            network_options=_options,
            dropout="beta-bernoulli",
            # No mask of the input: a colour is not one of many units.
            dropout_options={
                "input_dropout": False,
                "init_concentration1": 2.0,
                "parametrization": "location",
            },
            augment=True,
        )
    )
