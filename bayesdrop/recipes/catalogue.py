"""The recipes that come with the package."""

from __future__ import annotations

import dataclasses

from bayesdrop.recipes.recipe import Recipe, Stage, register_recipe

_KEY = "beta-bernoulli"

# The published protocol (Adam, weight decay 1e-4, batches of 100, from pretrained weights) with
# ten times its learning rate for (a, b) and fewer epochs.
_PLAIN = Stage("plain", 20, milestones=(0.5, 0.8))
_SPARSE = Stage(_KEY, 60, dropout=True, variational_learning_rate=0.1, milestones=(0.8, 0.93))

# Chosen on 10,000 images of MNIST's training set (benchmarks/mnist.py choose): units go on closing
# while the learning rate is high, the top layer's last. On all 60,000 images the rate falls after
# as many steps as with 50,000, and the scales are 1.2 times those chosen there (1.3, 1.15, 1.4),
# so that the KL counts as much against an example.
_LENET_300_SPARSE = dataclasses.replace(_SPARSE, epochs=105, milestones=(0.68, 0.86))
_LENET_300_SCALES = {
    "fc1": {"kl_scale": 1.56},
    "fc2": {"kl_scale": 1.38},
    "fc3": {"kl_scale": 1.68},
}


def _family(
    prefix: str,
    title: str,
    *,
    data: str,
    network: str,
    stages: tuple[Stage, Stage],
    dropout_options: dict[str, object] | None = None,
) -> None:
    """Register a plain network, one with nn.Dropout and one with beta-Bernoulli dropout.

    All three train for the same number of epochs.
    """
    epochs = sum(stage.epochs for stage in stages)
    baseline = (dataclasses.replace(stages[0], epochs=epochs),)
    register_recipe(Recipe(prefix, f"{title}, no dropout", data, network, baseline))
    register_recipe(
        Recipe(
            f"{prefix}-dropout",
            f"{title}, nn.Dropout(0.5) before hidden Linear layers",
            data,
            network,
            baseline,
            network_options={"dropout": 0.5},
        )
    )
    register_recipe(
        Recipe(
            f"{prefix}-bb",
            f"{title}, beta-Bernoulli dropout from pretrained weights",
            data,
            network,
            stages,
            dropout=_KEY,
            dropout_options=dropout_options or {},
        )
    )


_family(
    "lenet-500-300",
    "LeNet-500-300",
    data="mnist",
    network="lenet-500-300",
    stages=(_PLAIN, _LENET_300_SPARSE),
    dropout_options={"overrides": _LENET_300_SCALES},
)
_family(
    "lenet5-caffe",
    "LeNet5-Caffe",
    data="mnist",
    network="lenet5-caffe",
    stages=(_PLAIN, _SPARSE),
)
# 720 to 900 examples cannot pay for the KL of 864 units: from the paper's initial keep
# probabilities every unit is switched off at once. Start with units on, let the KL rise, and count
# it at a tenth (a tempered posterior, chosen on the validation split; the full KL keeps 38-33-28
# units with a higher NLL).
_family(
    "digits-mlp",
    "LeNet-500-300's multilayer perceptron for 8 x 8 digits",
    data="digits",
    network="lenet-500-300",
    stages=(
        dataclasses.replace(_PLAIN, epochs=50),
        dataclasses.replace(_SPARSE, epochs=200, batch_size=50, kl_warm_up=0.5),
    ),
    dropout_options={"init_concentration1": 2.0, "kl_scale": 0.1},
)
