"""Ordinary ``nn.Module`` networks, and the registry that names them.

The classifiers know nothing of Bayesian dropout: ``bayesdrop.convert`` puts it in. ``vae`` builds
a variational auto-encoder, whose latent mask is part of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from bayesdrop.networks.autoencoder import vae
from bayesdrop.networks.center import Center
from bayesdrop.networks.encoders import text_encoder
from bayesdrop.networks.lenet import lenet5_caffe, lenet_300_100, lenet_500_300
from bayesdrop.networks.resnets import resnet, resnet18
from bayesdrop.networks.texts import text_lstm, text_mean
from bayesdrop.networks.vgg_networks import vgg, vgg11
from bayesdrop.registry import Registry

registry: Registry[Callable[..., nn.Module]] = Registry("network")
"""Name to constructor; every constructor takes ``num_classes`` and ``dropout``."""
_CONSTRUCTORS: dict[str, Callable[..., nn.Module]] = {
    "lenet-500-300": lenet_500_300,
    "lenet-300-100": lenet_300_100,
    "lenet5-caffe": lenet5_caffe,
    "resnet": resnet,
    "resnet18": resnet18,
    "text-encoder": text_encoder,
    "text-lstm": text_lstm,
    "text-mean": text_mean,
    "vgg": vgg,
    "vgg11": vgg11,
}
for _name, _constructor in _CONSTRUCTORS.items():
    registry.register(_name, _constructor)


def build(name: str, **options: Any) -> nn.Module:
    """Build the network registered under ``name``.

    Args:
        name: A key of ``registry``.
        **options: Keyword arguments of that constructor.

    Raises:
        ConfigError: If the name is unknown.

    Example:
        >>> len(list(build("lenet-500-300").children()))
        6
    """
    return registry[name](**options)


__all__ = [
    "Center",
    "build",
    "lenet5_caffe",
    "lenet_300_100",
    "lenet_500_300",
    "registry",
    "resnet",
    "resnet18",
    "text_encoder",
    "text_lstm",
    "text_mean",
    "vae",
    "vgg",
    "vgg11",
]
