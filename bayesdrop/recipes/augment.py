"""Random crops and flips of training images, drawn batch by batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

_SHARE = 8


def augmented_loader(images: Tensor, labels: Tensor, batch_size: int) -> DataLoader:
    """Return a loader of shuffled batches, each image cropped and flipped at random.

    Args:
        images: ``(N, C, H, W)``.
        labels: ``(N,)``.
        batch_size: Images a batch.

    Example:
        >>> loader = augmented_loader(torch.rand(6, 3, 8, 8), torch.zeros(6), 4)
        >>> [len(x) for x, _ in loader]
        [4, 2]
    """
    dataset = _Crops(images, labels)
    sampler = BatchSampler(RandomSampler(dataset), batch_size, drop_last=False)
    return DataLoader(dataset, sampler=sampler, batch_size=None)


def crop_and_flip(images: Tensor) -> Tensor:
    """Return the images shifted by up to an eighth each way, and half of them mirrored.

    The standard augmentation for CIFAR: zero padding by 4 of 32 pixels, a random crop of the
    original size, and a horizontal flip, each image its own, from torch's global generator.

    Args:
        images: ``(N, C, H, W)``.
    """
    count, _, height, width = images.shape
    padding = max(1, min(height, width) // _SHARE)
    padded = torch.nn.functional.pad(images, [padding] * 4)
    shifts = torch.randint(0, 2 * padding + 1, (2, count, 1))
    rows = shifts[0] + torch.arange(height)
    columns = shifts[1] + torch.arange(width)
    flipped = torch.rand(count, 1) < 0.5
    columns = torch.where(flipped, columns.flip(1), columns)
    example = torch.arange(count)[:, None, None]
    # Indices before and after a slice put the channels last.
    return padded[example, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


class _Crops(TensorDataset):
    # A whole batch of indices at a time, so that images are indexed and not collated.
    def __getitem__(self, index: Sequence[int]) -> tuple[Tensor, ...]:
        images, labels = self.tensors
        rows = torch.as_tensor(index)
        return crop_and_flip(images[rows]), labels[rows]
