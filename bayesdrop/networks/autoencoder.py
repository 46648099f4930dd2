"""The multilayer perceptron auto-encoder of the binarised-MNIST literature."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import nn

from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.likelihoods import Bernoulli, Likelihood
from bayesdrop.nn import BayesianDropout, make, registered
from bayesdrop.nn.arguments import is_whole
from bayesdrop.program.autoencoder import VariationalAutoencoder, make_code
from bayesdrop.program.latent_code import MaskPosterior


def vae(
    num_data: int,
    *,
    input_shape: int | Sequence[int] = (1, 28, 28),
    latent_size: int = 100,
    hidden: Sequence[int] = (500,),
    latent_dropout: str | BayesianDropout | None = None,
    latent_options: Mapping[str, Any] | None = None,
    prior_temperature: float | None = 0.25,
    mask_posterior: MaskPosterior = "structured",
    likelihood: Likelihood | None = None,
) -> VariationalAutoencoder:
    """Variational auto-encoder of dense layers, 784-500-100-500-784 for MNIST.

    Args:
        num_data: Number of training examples.
        input_shape: Shape of an example, the batch left out.
        latent_size: Number of features; with ``latent_dropout`` the truncation.
        hidden: Widths of the encoder's hidden layers; the decoder has them in reverse.
        latent_dropout: What switches features on and off: ``"indian-buffet"`` for the structured
            IBP-VAE, ``"variational-nested"`` for a code whose features are ordered, ``"nested"``
            for the same with a fixed law of how many are used, another key
            of a mask in ``bd.nn.layers``, or a layer. None is a plain variational auto-encoder.
        latent_options: Options of the layer that ``latent_dropout`` names, such as
            ``{"concentration": 10.0}``. The temperature is 0.3 unless given, and the posterior of
            Indian buffet sticks starts at their prior.
        prior_temperature: Temperature of the relaxed prior; None is the layer's.
        mask_posterior: ``"structured"`` or ``"mean-field"``, see ``VariationalAutoencoder``.
        likelihood: Of the pixels; the default is ``Bernoulli()``.

    Shape:  input and output ``(N, *input_shape)``.

    References:
        Singh, Ling, Doshi-Velez (2017), "Structured Variational Autoencoders for the Beta-
        Bernoulli Process": one hidden layer of 500, truncation 100, concentration 10, temperatures
        0.3 and 0.25.

    Example:
        >>> import torch
        >>> model = vae(100, input_shape=16, latent_size=5, latent_dropout="indian-buffet")
        >>> model.loss(torch.ones(2, 16)).loss.shape, model.keep_prob().shape
        (torch.Size([]), torch.Size([5]))
    """
    sizes = (input_shape,) if is_whole(input_shape) else tuple(cast(Any, input_shape))
    numbers = (*sizes, *hidden, latent_size)
    if not all(map(is_whole, numbers)) or min(numbers) < 1:
        raise ConfigError(
            "vae",
            expected="sizes of at least 1, whole numbers",
            got=f"input_shape={sizes}, hidden={tuple(hidden)}, latent_size={latent_size}",
            hint="The defaults are those for MNIST.",
        )
    shape = tuple(int(size) for size in sizes)
    if isinstance(latent_dropout, str):
        if latent_dropout not in (masks := registered(BayesianDropout)):
            raise unknown_name("latent_dropout", latent_dropout, masks)
        options = masks[latent_dropout].options_for_code(latent_size, latent_options or {})
        latent_dropout = make(latent_dropout, latent_size, **options)
    elif latent_options is not None:
        raise ConfigError(
            "vae",
            expected="latent_options beside the name of a dropout",
            got=f"latent_dropout={latent_dropout!r}",
            hint="Give the options to the layer itself.",
        )
    size = latent_size if latent_dropout is None else latent_dropout.num_units
    parts = make_code(size, latent_dropout).parts
    features = math.prod(shape)
    encoder = nn.Sequential(nn.Flatten(), *_dense((features, *hidden, parts * size)))
    decoder = nn.Sequential(*_dense((size, *reversed(hidden), features)), nn.Unflatten(1, shape))
    return VariationalAutoencoder(
        encoder,
        decoder,
        Bernoulli() if likelihood is None else likelihood,
        num_data,
        latent_dropout=latent_dropout,
        latent_size=size,
        prior_temperature=None if latent_dropout is None else prior_temperature,
        mask_posterior=mask_posterior,
    )


def _dense(widths: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return layers[:-1]
