"""When two outputs count as equal."""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = {
    torch.float64: 1e-9,
    torch.float32: 1e-5,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}


def differs(expected: Tensor, got: Tensor) -> bool:
    """Return whether two tensors differ by more than rounding, against the largest number."""
    if expected.shape != got.shape:
        return True
    if expected.numel() == 0 or not expected.is_floating_point():
        return False
    both = torch.isfinite(expected) & torch.isfinite(got)
    if not torch.equal(torch.isnan(expected), torch.isnan(got)):
        return True
    error = torch.where(both, expected - got, 0.0).abs().max()
    size = torch.where(both, expected, 0.0).abs().max()
    return bool(error > TOLERANCE[expected.dtype] * size)
