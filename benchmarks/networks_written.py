"""Small networks of torch's own layers, as people write them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from typing_extensions import override

CLASSES = 10
WORDS = 40


class Recurrent(nn.Module):
    """A word embedding, a recurrent layer, and a Linear on its last state."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 16)
        self.recurrent = kind(16, 32, batch_first=True)
        self.head = nn.Linear(32, CLASSES)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embedding(x))[0][:, -1])


class EncoderClassifier(nn.Module):
    """torch's own transformer encoder on words."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.embedding = nn.Embedding(WORDS, 32)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, CLASSES)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(x)).mean(1))


class BagClassifier(nn.Module):
    """A text classifier on the mean of word vectors, of torch's tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(WORDS, 32)
        self.hidden = nn.Linear(32, 48)
        self.head = nn.Linear(48, CLASSES)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.hidden(self.embedding(x))))


class UNet(nn.Module):
    """Encoder and decoder with skip connections, Ronneberger et al. (2015)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.down1, self.down2 = self._block(3, width), self._block(width, 2 * width)
        self.bottom = self._block(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.merge2 = self._block(4 * width, 2 * width)
        self.up1 = nn.Upsample(scale_factor=2, mode="bilinear")
        self.merge1 = self._block(3 * width, width)
        self.head = nn.Conv2d(width, 5, 1)

    @staticmethod
    def _block(before: int, after: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
        )  # fmt: skip

    @override
    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        x = self.up2(self.bottom(F.max_pool2d(second, 2)))
        x = self.up1(self.merge2(torch.cat([x, second], 1)))
        return self.head(self.merge1(torch.cat([x, first], 1)))


class SuperResolution(nn.Module):
    """Convolutions and a pixel shuffle, Shi et al. (2016), with class scores for pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 32, 5, padding=2), nn.Conv2d(32, 24, 3, padding=1)
        self.conv3 = nn.Conv2d(24, 4 * 8, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.head = nn.Conv2d(8, 5, 3, padding=1)

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.conv2(torch.tanh(self.conv1(x))))
        return self.head(self.shuffle(self.conv3(x)))


class CausalBlock(nn.Module):
    """Two dilated convolutions with normed weights and a residual, Bai et al. (2018)."""

    def __init__(self, before: int, after: int, dilation: int) -> None:
        super().__init__()
        self.reach = 2 * dilation
        self.conv1 = weight_norm(nn.Conv1d(before, after, 3, dilation=dilation))
        self.conv2 = weight_norm(nn.Conv1d(after, after, 3, dilation=dilation))
        self.skip = nn.Conv1d(before, after, 1) if before != after else nn.Identity()
        self.dropout = nn.Dropout(0.2)

    @override
    def forward(self, x: Tensor) -> Tensor:
        y = self.dropout(F.relu(self.conv1(F.pad(x, (self.reach, 0)))))
        y = self.dropout(F.relu(self.conv2(F.pad(y, (self.reach, 0)))))
        return F.relu(y + self.skip(x))


class TemporalNetwork(nn.Module):
    """A temporal convolutional network."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [CausalBlock(4 if i == 0 else 24, 24, 2**i) for i in range(3)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(24, CLASSES)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x)[:, :, -1])


class MixerBlock(nn.Module):
    """Two MLPs, one on places and one on channels, Tolstikhin et al. (2021)."""

    def __init__(self, places: int, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.places = nn.Sequential(nn.Linear(places, 24), nn.GELU(), nn.Linear(24, places))
        self.channels = nn.Sequential(nn.Linear(channels, 64), nn.GELU(), nn.Linear(64, channels))

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = x + self.places(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """An MLP-Mixer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, stride=8)
        self.blocks = nn.Sequential(*(MixerBlock(16, 32) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, CLASSES)

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(1))


class TabularBlock(nn.Module):
    """A residual block for tables, Gorishniy et al. (2021)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(0.1)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear2(self.dropout(F.relu(self.linear1(self.norm(x)))))


def tabular_resnet() -> nn.Module:
    """Return a ResNet for 12 columns."""
    blocks = [TabularBlock(32, 64) for _ in range(3)]
    head = (nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, CLASSES))
    return nn.Sequential(nn.Linear(12, 32), *blocks, *head)


def autoencoder() -> nn.Module:
    """Return a convolutional auto-encoder of images of 16 x 16."""
    encoder = (
        nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1),
        nn.ReLU(), nn.Flatten(), nn.Linear(256, 12),
    )  # fmt: skip
    decoder = (
        nn.Linear(12, 256), nn.ReLU(), nn.Unflatten(1, (16, 4, 4)),
        nn.ConvTranspose2d(16, 8, 2, 2), nn.ReLU(), nn.ConvTranspose2d(8, 1, 2, 2), nn.Flatten(),
    )  # fmt: skip
    return nn.Sequential(*encoder, *decoder)


def lenet() -> nn.Module:
    """Return LeNet-5 with dropout, on images of 28 x 28."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(800, 100), nn.ReLU(), nn.Dropout(),
        nn.Linear(100, CLASSES),
    )  # fmt: skip


def discriminator() -> nn.Module:
    """Return convolutions with spectral norm, Miyato et al. (2018)."""
    return nn.Sequential(
        spectral_norm(nn.Conv2d(3, 24, 3, 2, 1)), nn.LeakyReLU(0.1),
        spectral_norm(nn.Conv2d(24, 32, 3, 2, 1)), nn.LeakyReLU(0.1),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), spectral_norm(nn.Linear(128, CLASSES)),
    )  # fmt: skip


def style() -> nn.Module:
    """Return convolutions with instance norm, group norm, and a transposed one."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.InstanceNorm2d(16, affine=True), nn.ReLU(),
        nn.Conv2d(16, 24, 3, 2, 1), nn.GroupNorm(4, 24), nn.ReLU(),
        nn.ConvTranspose2d(24, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 5, 1),
    )  # fmt: skip
