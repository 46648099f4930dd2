"""Ordinary ``nn.Module`` networks, and the registry that names them.

The classifiers know nothing of Bayesian dropout: ``bayesdrop.convert`` puts it in. ``vae`` builds
a variational auto-encoder, whose latent mask is part of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from bayesdrop.errors import unknown_name
from bayesdrop.networks.autoencoder import vae
from bayesdrop.networks.lenet import lenet5_caffe, lenet_300_100, lenet_500_300
from bayesdrop.networks.vgg_networks import vgg, vgg11

networks: dict[str, Callable[..., nn.Module]] = {
    "lenet-500-300": lenet_500_300,
    "lenet-300-100": lenet_300_100,
    "lenet5-caffe": lenet5_caffe,
    "vgg": vgg,
    "vgg11": vgg11,
}
"""Name to constructor; every constructor takes ``num_classes`` and ``dropout``."""


def make_network(name: str, **options: Any) -> nn.Module:
    """Build the network registered under ``name``.

    Args:
        name: A key of ``networks``.
        **options: Keyword arguments of that constructor.

    Raises:
        ConfigError: If the name is unknown.

    Example:
        >>> len(list(make_network("lenet-500-300").children()))
        6
    """
    if name not in networks:
        raise unknown_name("network", name, networks)
    return networks[name](**options)


__all__ = [
    "lenet5_caffe",
    "lenet_300_100",
    "lenet_500_300",
    "make_network",
    "networks",
    "vae",
    "vgg",
    "vgg11",
]
