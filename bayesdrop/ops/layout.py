"""The order in memory of a tensor's elements."""

from __future__ import annotations

import torch
from torch import Tensor

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def memory_format_of(x: Tensor) -> torch.memory_format:
    """Return channels last where ``x`` is laid out so, else contiguous.

    What is cut from a convolution's weights must be laid out as they are: torch picks the
    convolution's kernel by it, and that for channels last can take half the time.

    Example:
        >>> x = torch.zeros(4, 3, 5, 5)
        >>> memory_format_of(x), memory_format_of(x.to(memory_format=torch.channels_last))
        (torch.contiguous_format, torch.channels_last)
    """
    last = _CHANNELS_LAST.get(x.ndim)
    # With one channel, or one pixel, torch calls either contiguous, and goes by the strides.
    strides = torch.empty(x.shape, device="meta").stride()
    if last is None or x.stride() == strides or not x.is_contiguous(memory_format=last):
        return torch.contiguous_format
    return last
