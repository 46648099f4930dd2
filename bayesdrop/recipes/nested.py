"""Recipes for one network of every width: nested dropout, fixed and variational."""

from __future__ import annotations

from typing import Any

from bayesdrop.recipes.recipe import Recipe, Stage, register_recipe

# The publication trains a wide VGG on CIFAR-10 from scratch for 600 epochs with natural gradients
# and a KL of 1e-5 of its own kind. Here: Adam, from scratch, the epochs that both stages of the
# other recipes have or fewer. Hidden units in 32 groups (20 for conv1), the first always open.
#
# Under the plain ELBO a mask for all examples costs a few nats and full width wins at once. With
# kl_scale = c N every example pays c times the divergence: the best q(t) is then proportional to
# p(t) exp(-NLL(t) / c), the uniform prior less the widths that are no good. With c = 1 that is all
# but the uniform law, since widths differ by less than 0.1 nats. On 10,000 images of MNIST's
# training set (benchmarks/nested.py --validation 10000, LeNet-500-300, 20 epochs, one seed) c = 1,
# 0.1, 0.03 and 0.01 give 97.84, 97.80, 97.91 and 97.78 % area under accuracy-width and 1.96, 1.99,
# 1.74 and 1.75 % error at full width, where a plain network has 1.65. Masks are drawn per example
# for all methods.
#
# With one width for all layers, as in the networks that are cut out, a narrow one is drawn as
# often as the law says, not as that to the power of the layers: ECE at 1/8 falls from 0.027 to
# 0.004 there, from 0.154 to 0.027 for LeNet5-Caffe on Fashion-MNIST (12 epochs). How good full
# width is depends on how often it is drawn: with prior probabilities 0.3 and 0.7 that LeNet5-Caffe
# has 9.09 and 8.30 % error, plain 7.93, and at 1/8 16.4 and 20.7 (benchmarks/README.md).
_MNIST, _DIGITS = 0.03 * 60_000, 900.0
_FULL = 0.3
_FIXED = "nested dropout, the number of open groups"
_LAWS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "-nested-uniform": (f"{_FIXED} uniform", "nested", {"law": "uniform"}),
    "-nested-geometric": (
        f"{_FIXED} geometric",
        "nested",
        {"law": "geometric", "continue_prob": 0.9},
    ),
    "-vnd": (
        "variational nested dropout",
        "variational-nested",
        {"prior_continue_prob": None, "init_continue_prob": None, "shared_by": "example"},
    ),
    "-vnd-frozen": (
        "variational nested dropout, order probabilities frozen at their initial 0.9526",
        "variational-nested",
        {"learn_order": False, "shared_by": "example"},
    ),
    "-nested-shared": (
        "nested dropout, all layers at one width: full in three of ten masks, else uniform",
        "nested",
        {"law": "uniform", "full_prob": _FULL, "share_widths": True},
    ),
    "-vnd-shared": (
        "variational nested dropout, all layers at one width",
        "variational-nested",
        {
            "prior_continue_prob": None,
            "prior_full_prob": _FULL,
            "init_continue_prob": None,
            "share_widths": True,
            "shared_by": "example",
        },
    ),
}
_SHARED = 10.0
"""How much more the KL counts where it is paid once for all layers."""


def _register(
    prefix: str,
    title: str,
    data: str,
    network: str,
    stage: dict[str, Any],
    kl_scale: float,
    options: dict[str, Any],
    num_groups: int,
    augment: bool = False,
) -> None:
    for suffix, (words, dropout, law) in _LAWS.items():
        scale = {"-vnd": kl_scale, "-vnd-shared": _SHARED * kl_scale}.get(suffix)
        more = {} if scale is None else {"kl_scale": scale}
        if "shared" in suffix:
            more |= {"num_groups": num_groups}
        recipe = Recipe(
            prefix + suffix,
            f"{title}, {words}",
            data,
            network,
            (Stage(dropout, dropout=True, variational_learning_rate=1e-2, **stage),),
            dropout=dropout,
            dropout_options={"input_dropout": False, **options, **law, **more},
            augment=augment,
        )
        register_recipe(recipe)


_register(
    "lenet-500-300",
    "LeNet-500-300",
    "mnist",
    "lenet-500-300",
    {"epochs": 50, "milestones": (0.6, 0.85)},
    _MNIST,
    {},
    num_groups=32,
)
# The inputs of fc1 are conv2's maps, which have their mask already.
_register(
    "lenet5-caffe",
    "LeNet5-Caffe",
    "mnist",
    "lenet5-caffe",
    {"epochs": 30, "milestones": (0.6, 0.85)},
    _MNIST,
    {"exclude": "fc1"},
    num_groups=20,
)
# For a GPU, with the publication's batches and a third of its epochs; not run yet. The first
# convolution is unmasked, as published, and fc1's inputs are conv8's maps.
_register(
    "vgg11",
    "VGG-11, half as wide again",
    "cifar10",
    "vgg11",
    {"epochs": 200, "batch_size": 512, "milestones": (0.5, 0.75)},
    0.03 * 50_000,
    {"exclude": ["conv1", "fc1"]},
    num_groups=32,
    augment=True,
)
_register(
    "digits-mlp",
    "LeNet-500-300's multilayer perceptron for 8 x 8 digits",
    "digits",
    "lenet-500-300",
    {"epochs": 100, "batch_size": 50, "milestones": (0.6, 0.85)},
    _DIGITS,
    {},
    num_groups=32,
)
