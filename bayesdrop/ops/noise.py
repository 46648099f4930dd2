"""The random numbers behind reparameterised samples, in one place so that they can be replaced.

Every stochastic layer and distribution of the package draws its noise through these
functions; a test or an experiment that wants other noise (antithetic, quasi-random, fixed)
replaces them here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bayesdrop.ops.transforms import takes_plain_operations

_MANY = 16384
"""From so many numbers on a generator of their own is worth its seed."""


def uniform(shape: Sequence[int], like: Tensor) -> Tensor:
    """Return uniform noise on (0, 1), ends excluded, with the dtype and device of ``like``.

    On a CPU torch draws one number after the other from a Mersenne twister. Many numbers in single
    precision are therefore bits of NumPy's SFC64, whose seed are 126 bits of torch's default
    generator: equally likely midpoints of 2^23 intervals, reproducible from ``torch.manual_seed``
    and from a restored state like all else, in half the time.
    """
    info = torch.finfo(like.dtype)
    count = math.prod(shape)
    if count >= _MANY and _is_eager_float32(like):
        return _many(count).view(tuple(shape))
    noise = torch.rand(tuple(shape), dtype=like.dtype, device=like.device)
    if takes_plain_operations():  # which have no rule for some operations in place
        return noise.clamp(min=info.tiny, max=1.0 - info.eps)
    return noise.clamp_(min=info.tiny, max=1.0 - info.eps)


def logistic(shape: Sequence[int], like: Tensor) -> Tensor:
    r"""Return standard logistic noise :math:`\log u - \log(1 - u)`."""
    return uniform(shape, like).logit_()


def normal(shape: Sequence[int], like: Tensor) -> Tensor:
    """Return standard normal noise, laid out in memory as ``like`` where it has its shape."""
    if torch.Size(shape) == like.shape and not takes_plain_operations():
        # Filled as the vector it is in memory: several times faster with the channels last.
        result = torch.empty_like(like)
        result.as_strided((result.numel(),), (1,)).normal_()
        return result
    return torch.randn(tuple(shape), dtype=like.dtype, device=like.device)


def _is_eager_float32(like: Tensor) -> bool:
    # Under vmap, torch.compile or a tracer it is torch's own function that they know.
    return (
        like.dtype == torch.float32
        and like.device.type == "cpu"
        and type(like) in (Tensor, torch.nn.Parameter)
        and not takes_plain_operations()
        and not torch.jit.is_tracing()
    )


def _many(count: int) -> Tensor:
    high, low = torch.empty(2, dtype=torch.int64, device="cpu").random_().tolist()
    words = np.random.SFC64((high << 63) | low).random_raw((count + 1) // 2)
    bits = torch.from_numpy(words.view(np.int32))[:count]
    # The float 1 + k 2^-23 with k from 23 bits; what is subtracted leaves (2 k + 1) 2^-24 exactly.
    ones = bits.bitwise_and_(0x007FFFFF).bitwise_or_(0x3F800000).view(torch.float32)
    return ones.sub_(1.0 - 2.0**-24)
