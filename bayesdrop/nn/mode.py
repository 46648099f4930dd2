"""Evaluation mode for as long as a block of code needs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(*networks: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode, and back into its own mode afterwards.

    Args:
        *networks: Any modules, also what ``torch.export`` made, which refuses ``eval()``.

    Example:
        >>> net = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5).eval())
        >>> with evaluation_mode(net):
        ...     inside = [module.training for module in net]
        >>> inside, [module.training for module in net]
        ([False, False], [True, False])
    """
    modes = [(module, module.training) for network in networks for module in network.modules()]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
