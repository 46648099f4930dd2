"""Which of some magnitudes are the smallest: what magnitude pruning takes."""

from __future__ import annotations

import torch
from torch import Tensor


def smallest(magnitudes: Tensor, share: Tensor | float) -> Tensor:
    r"""Return which entries of each row are among its :math:`\lfloor \gamma n \rfloor` smallest.

    Those that are as large as the last of them count too: there are more where entries are equal.

    Args:
        magnitudes: Numbers, ``(..., n)``.
        share: :math:`\gamma` in [0, 1].

    Returns:
        Booleans of the same shape.

    Example:
        >>> smallest(torch.tensor([0.3, 0.1, 0.2, 0.4]), 0.5)
        tensor([False,  True,  True, False])
    """
    size = magnitudes.shape[-1]
    # Shares are kept in single precision, in which 0.9 of 500 is less than 450.
    room = size * (1.0 + 4.0 * torch.finfo(torch.float32).eps)
    if torch.compiler.is_compiling():
        # One graph cannot be chosen by a number that is in a tensor. Sorting is slower than below.
        count = (torch.as_tensor(share, device=magnitudes.device).double() * room).long()
        last = count.clamp(1, size).sub(1).expand(*magnitudes.shape[:-1], 1)
        return (magnitudes <= magnitudes.sort(dim=-1).values.gather(-1, last)) & (count > 0)
    number = min(size, int(float(share) * room))
    if number == 0:
        return torch.zeros_like(magnitudes, dtype=torch.bool)
    return magnitudes <= magnitudes.kthvalue(number, dim=-1, keepdim=True).values
