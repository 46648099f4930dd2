"""The two LeNets of the sparsification literature."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from bayesdrop.networks.center import Center


def _without_idle_dropout(layers: OrderedDict[str, nn.Module]) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            (name, layer)
            for name, layer in layers.items()
            if not (isinstance(layer, nn.Dropout) and layer.p == 0.0)
        )
    )


def _centering(center: bool, *shape: int) -> dict[str, nn.Module]:
    return {"center": Center(*shape)} if center else {}


def lenet_500_300(
    num_classes: int = 10,
    in_features: int = 784,
    *,
    dropout: float = 0.0,
    center: bool = False,
    init_scale: float | None = None,
) -> nn.Sequential:
    """LeNet-500-300: a multilayer perceptron, 784-500-300-10 for MNIST.

    Args:
        num_classes: Number of outputs.
        in_features: Number of input features; the input is flattened first.
        dropout: Drop probability of an ``nn.Dropout`` before ``fc2`` and ``fc3``; none if 0.
        center: Whether the mean training image is subtracted, which a recipe's run fills in.
        init_scale: Standard deviation of the initial weights, biases being 0; None is torch's own
            initialisation.

    Shape:  input ``(N, ...)`` with ``in_features`` values per example, output
        ``(N, num_classes)``.

    References:
        LeCun, Bottou, Bengio, Haffner (1998), "Gradient-based learning applied to document
        recognition".

    Example:
        >>> import torch
        >>> lenet_500_300()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    return _perceptron(in_features, 500, 300, num_classes, dropout, center, init_scale)


def lenet_300_100(
    num_classes: int = 10,
    in_features: int = 784,
    *,
    dropout: float = 0.0,
    center: bool = False,
    init_scale: float | None = None,
) -> nn.Sequential:
    """LeNet-300-100: a multilayer perceptron, 784-300-100-10 for MNIST.

    Args:
        num_classes: Number of outputs.
        in_features: Number of input features; the input is flattened first.
        dropout: Drop probability of an ``nn.Dropout`` before ``fc2`` and ``fc3``; none if 0.
        center: Whether the mean training image is subtracted, which a recipe's run fills in.
        init_scale: Standard deviation of the initial weights, biases being 0; None is torch's own
            initialisation.

    Shape:  input ``(N, ...)`` with ``in_features`` values per example, output
        ``(N, num_classes)``.

    References:
        LeCun, Bottou, Bengio, Haffner (1998), "Gradient-based learning applied to document
        recognition".

    Example:
        >>> import torch
        >>> lenet_300_100()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    return _perceptron(in_features, 300, 100, num_classes, dropout, center, init_scale)


def _perceptron(
    in_features: int,
    first: int,
    second: int,
    num_classes: int,
    dropout: float,
    center: bool,
    init_scale: float | None,
) -> nn.Sequential:
    network = _without_idle_dropout(
        OrderedDict[str, nn.Module](
            flatten=nn.Flatten(),
            **_centering(center, in_features),
            fc1=nn.Linear(in_features, first),
            relu1=nn.ReLU(),
            dropout2=nn.Dropout(dropout),
            fc2=nn.Linear(first, second),
            relu2=nn.ReLU(),
            dropout3=nn.Dropout(dropout),
            fc3=nn.Linear(second, num_classes),
        )
    )
    if init_scale is not None:
        for layer in network:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, 0.0, init_scale)
                nn.init.zeros_(layer.bias)
    return network


def lenet5_caffe(
    num_classes: int = 10, in_channels: int = 1, *, dropout: float = 0.0, center: bool = False
) -> nn.Sequential:
    """LeNet5 as in Caffe: two convolutions 20-50, then dense 800-500-10.

    Args:
        num_classes: Number of outputs.
        in_channels: Number of image channels.
        dropout: Drop probability of an ``nn.Dropout`` before ``fc1`` and ``fc2``; none if 0.
        center: Whether the mean training image is subtracted, which a recipe's run fills in.

    Shape:  input ``(N, in_channels, 28, 28)``, output ``(N, num_classes)``.

    References:
        Jia et al. (2014), "Caffe: Convolutional Architecture for Fast Feature Embedding",
        https://arxiv.org/abs/1408.5093. Deviation: ReLU also after the convolutions, as in the
        sparsification literature (Caffe's own example has it after ``fc1`` only).

    Example:
        >>> import torch
        >>> lenet5_caffe()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    return _without_idle_dropout(
        OrderedDict[str, nn.Module](
            **_centering(center, in_channels, 28, 28),
            conv1=nn.Conv2d(in_channels, 20, 5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            dropout1=nn.Dropout(dropout),
            fc1=nn.Linear(800, 500),
            relu3=nn.ReLU(),
            dropout2=nn.Dropout(dropout),
            fc2=nn.Linear(500, num_classes),
        )
    )
