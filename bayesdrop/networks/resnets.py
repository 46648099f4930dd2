"""Residual networks of torchvision's blocks for small images, and torchvision's ResNet-18."""

from __future__ import annotations

from types import ModuleType

from torch import nn

from bayesdrop.errors import ConfigError


def resnet(
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    depth: int = 20,
    width: int = 16,
    dropout: float = 0.0,
) -> nn.Module:
    """Residual network for CIFAR: three groups of blocks, the second and third at half the size.

    A convolution 3x3, then ``(depth - 2) / 6`` blocks of two convolutions in each group, with
    ``width``, twice and four times as many channels, average pooling and a dense layer. The blocks
    and the initialisation are torchvision's, whose shortcut of a changed size is a convolution
    1x1, not zero padding as published.

    Args:
        num_classes: Number of outputs.
        in_channels: Number of image channels.
        depth: Layers with weights, 6 n + 2.
        width: Channels of the first group.
        dropout: Drop probability of an ``nn.Dropout`` before ``fc``; none if 0.

    Shape:  input ``(N, in_channels, H, W)``, output ``(N, num_classes)``.

    Raises:
        ConfigError: If there is no network of this depth or width.
        ImportError: If torchvision is missing.

    References:
        He, Zhang, Ren, Sun (2016), https://arxiv.org/abs/1512.03385, section 4.2.

    Example:
        >>> import torch
        >>> resnet(depth=8)(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 10])
    """
    if depth < 8 or depth % 6 != 2 or width < 1:
        raise ConfigError(
            "resnet",
            expected="a depth of 6 n + 2, such as 8, 14 or 20, and a width >= 1",
            got=f"depth={depth}, width={width}",
            hint="The published ones are 20, 32, 44, 56 and 110 deep and 16 wide.",
        )
    models = _torchvision()
    block, blocks = models.resnet.BasicBlock, (depth - 2) // 6
    net = models.ResNet(block, [1, 1, 1, 1], num_classes=num_classes)
    net.inplanes = width
    net.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
    net.bn1 = nn.BatchNorm2d(width)
    net.maxpool = nn.Identity()
    net.layer1 = net._make_layer(block, width, blocks)
    net.layer2 = net._make_layer(block, 2 * width, blocks, stride=2)
    net.layer3 = net._make_layer(block, 4 * width, blocks, stride=2)
    net.layer4 = nn.Identity()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    net.fc = nn.Linear(4 * width, num_classes)
    return _with_dropout(net, dropout)


def resnet18(
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    small_images: bool = True,
    dropout: float = 0.0,
) -> nn.Module:
    """ResNet-18 of torchvision, with random weights.

    Args:
        num_classes: Number of outputs.
        in_channels: Number of image channels.
        small_images: Whether the first convolution is 3x3 without a stride and no pooling follows,
            as is usual for images of 32 or 64 pixels; else they are torchvision's, for 224.
        dropout: Drop probability of an ``nn.Dropout`` before ``fc``; none if 0.

    Shape:  input ``(N, in_channels, H, W)``, output ``(N, num_classes)``.

    Raises:
        ImportError: If torchvision is missing.

    Example:
        >>> import torch
        >>> resnet18(5)(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 5])
    """
    net = _torchvision().resnet18(num_classes=num_classes)
    if small_images or in_channels != 3:
        size, stride, padding = (3, 1, 1) if small_images else (7, 2, 3)
        net.conv1 = nn.Conv2d(in_channels, 64, size, stride=stride, padding=padding, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    if small_images:
        net.maxpool = nn.Identity()
    return _with_dropout(net, dropout)


def _with_dropout(net: nn.Module, rate: float) -> nn.Module:
    # After pooling instead of before fc, so that parameters keep their names.
    if rate:
        net.avgpool = nn.Sequential(net.get_submodule("avgpool"), nn.Dropout(rate))
    return net


def _torchvision() -> ModuleType:
    try:
        import torchvision.models
    except ImportError as error:
        raise ImportError(
            "This network is torchvision's: pip install 'bayesdrop[vision]'."
        ) from error
    return torchvision.models
