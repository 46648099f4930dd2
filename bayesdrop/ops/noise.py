"""The random numbers behind reparameterised samples, in one place so that they can be replaced.

Every stochastic layer and distribution of the package draws its noise through these
functions; a test or an experiment that wants other noise (antithetic, quasi-random, fixed)
replaces them here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bayesdrop.ops.transforms import takes_plain_operations


def uniform(shape: Sequence[int], like: Tensor) -> Tensor:
    """Return uniform noise on (0, 1), ends excluded, with the dtype and device of ``like``."""
    info = torch.finfo(like.dtype)
    noise = torch.rand(tuple(shape), dtype=like.dtype, device=like.device)
    if takes_plain_operations():  # which have no rule for some operations in place
        return noise.clamp(min=info.tiny, max=1.0 - info.eps)
    return noise.clamp_(min=info.tiny, max=1.0 - info.eps)


def strata(shape: Sequence[int], like: Tensor) -> Tensor:
    """Return uniform noise, one number in each of as many equal intervals as there are numbers.

    Which number is in which interval is random, so that each alone is uniform on (0, 1); together
    they cover it evenly.

    Args:
        shape: Of the noise, of n numbers in intervals of length 1 / n.
        like: Gives dtype and device.
    """
    place, order = uniform((2, math.prod(shape)), like)
    info = torch.finfo(like.dtype)
    noise = (order.argsort() + place) / max(1, len(place))
    return noise.clamp(min=info.tiny, max=1.0 - info.eps).reshape(tuple(shape))


def uniforms(shapes: Sequence[Sequence[int]], like: Tensor) -> Tensor:
    """Return the uniform noise of several arrays as one vector, one array behind the other.

    Args:
        shapes: Of the arrays. On a CPU the noise is what they would be given one by one.
        like: Gives dtype and device.
    """
    return uniform((sum(math.prod(shape) for shape in shapes),), like)


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
