"""The mean of the training inputs, subtracted inside the network."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Center(nn.Module):
    """Subtract the mean input; zero until ``set_mean`` says what it is.

    Inside the network, so that whoever holds it passes inputs as they are.

    Args:
        *shape: Of one input.

    Shape:  input and output ``(N, *shape)``.

    Example:
        >>> center = Center(2)
        >>> center.set_mean(torch.tensor([[0.0, 1.0], [2.0, 1.0]]))
        >>> center(torch.ones(1, 2))
        tensor([[0., 0.]])
    """

    mean: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        """Return the inputs less their mean."""
        return x - self.mean

    def set_mean(self, x: Tensor) -> None:
        """Take the mean of inputs ``(N, ...)``, of as many values each as ``shape`` has."""
        self.mean.copy_(x.mean(0).reshape(self.mean.shape))
