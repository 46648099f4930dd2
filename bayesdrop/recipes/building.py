"""The networks of a recipe: the plain one, and that of each stage."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from bayesdrop import networks
from bayesdrop.conversion import convert, mask_lora_ranks
from bayesdrop.errors import BayesdropError, CheckpointError, ConfigError, DataError
from bayesdrop.files import first_line
from bayesdrop.inference import checkpoint
from bayesdrop.nn import to_dependent
from bayesdrop.recipes.encoders import ADAPTERS, CONFIG, ENCODER
from bayesdrop.recipes.recipe import Recipe


def network_of(recipe: Recipe, index: int, before: nn.Module) -> nn.Module:
    """Return the network of a stage, which starts from the weights of the one before.

    Args:
        recipe: Whose stage it is.
        index: Number of the stage.
        before: The trained network of the stage before; of the first, the plain network.
    """
    stage = recipe.stages[index]
    former = recipe.stages[index - 1] if index > 0 else None
    if stage.dropout and not (former and former.dropout):
        # A recipe says itself how its masks start.
        network: nn.Module
        if recipe.network_options.get(ADAPTERS):
            network = mask_lora_ranks(before, str(recipe.dropout), **recipe.dropout_options)
        else:
            options = {"trained": False, **recipe.dropout_options}
            network = convert(before, str(recipe.dropout), **options)
    else:
        network = copy.deepcopy(before) if former else before
    if stage.dependent and not (former and former.dependent):
        network = to_dependent(network, **recipe.dependent_options)
    return network


def build_network(
    recipe: Recipe, num_classes: int, image_shape: Sequence[int], num_words: int | None = None
) -> nn.Module:
    """Build the plain network of a recipe with fresh weights, for inputs of a shape.

    Args:
        recipe: The recipe.
        num_classes: Number of outputs.
        image_shape: Shape of one image, or of one text.
        num_words: Size of the vocabulary of texts; None for images.

    Raises:
        ConfigError: If the network's name or an option is unknown.
        DataError: If the network cannot take such inputs.
    """
    kinds = ("texts", "images")
    if (num_words is None) == _takes_words(recipe):
        raise DataError(
            f"recipe {recipe.name!r}",
            expected=f"{kinds[num_words is not None]}, which the network {recipe.network!r} takes",
            got=kinds[num_words is None],
            hint=f"Its default data set is {recipe.data!r}.",
        )
    network = assemble(recipe, num_classes, image_shape, num_words, pretrained=True)
    training = network.training
    dtype = torch.get_default_dtype() if num_words is None else torch.long
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(2, *image_shape, dtype=dtype))
    # Encoders from elsewhere raise ValueError and TypeError, too.
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        what = kinds[num_words is None]
        raise DataError(
            f"recipe {recipe.name!r}",
            expected=f"{what} that the network {recipe.network!r} can take",
            got=f"{what} of shape {tuple(image_shape)} ({str(error).splitlines()[0]})",
            hint=f"Its default data set is {recipe.data!r}.",
        ) from error
    return network.train(training)


def _takes_words(recipe: Recipe) -> bool:
    return "num_words" in inspect.signature(networks.registry[recipe.network]).parameters


def assemble(
    recipe: Recipe,
    num_classes: int,
    image_shape: Sequence[int],
    num_words: int | None,
    *,
    pretrained: bool = False,
) -> nn.Module:
    """Return the plain network of a recipe.

    Args:
        recipe: As for ``build_network``.
        num_classes: As there.
        image_shape: As there.
        num_words: As there.
        pretrained: Whether a pretrained encoder's weights are read, too.

    Raises:
        ConfigError: If the network's name or an option is unknown.
    """
    options = {"num_classes": num_classes, **recipe.network_options}
    accepted = inspect.signature(networks.registry[recipe.network]).parameters
    sizes = {
        "in_features": math.prod(image_shape),
        "in_channels": image_shape[0],
        "num_words": num_words,
    }
    options |= {name: size for name, size in sizes.items() if size and name in accepted}
    if not pretrained and CONFIG in options:
        options.pop(ENCODER, None)
    try:
        return networks.build(recipe.network, **options)
    except BayesdropError:
        raise
    except (TypeError, RuntimeError) as error:
        raise ConfigError(
            f"recipe {recipe.name!r}",
            expected=f"options of the network {recipe.network!r}",
            got=first_line(error),
            hint="Check network_options.",
        ) from error


def check_size(
    recipe: Recipe,
    num_classes: int,
    image_shape: Sequence[int],
    model: Path,
    num_words: int | None,
) -> None:
    """Raise unless the network that ``recipe.json`` describes may be that of ``model.pt``."""
    with torch.device("meta"):  # where nothing is allocated
        network = assemble(recipe, num_classes, image_shape, num_words)
    size = sum(parameter.numel() for parameter in network.parameters())
    largest = model.stat().st_size
    if max(size, math.prod(image_shape)) > largest:
        checkpoint.read(model, "model")  # says so if it is damaged
        raise CheckpointError(
            f"run {model.parent}",
            expected=f"a network that model.pt, of {largest:,} bytes, can hold",
            got=f"one of {size:,} parameters, for images of shape {tuple(image_shape)}",
            hint="Was recipe.json edited?",
        )
