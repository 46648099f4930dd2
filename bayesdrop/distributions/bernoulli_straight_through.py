"""Zeros and ones with the straight-through gradient of their probability."""

from __future__ import annotations

import torch
from pyro.distributions import Bernoulli
from torch import Tensor
from typing_extensions import override

from bayesdrop.ops import noise
from bayesdrop.typing import Shape


class BernoulliStraightThrough(Bernoulli):
    r"""Bernoulli distribution whose samples have the gradient of their probability.

    .. math:: z = 1[u < p], \qquad \frac{\partial z}{\partial p} := 1

    The gradient is that of a function linear in :math:`z`, exactly, and a guess for all others:
    what ``torch.distributions.OneHotCategoricalStraightThrough`` is for several categories.

    Args:
        probs: :math:`p`. Give this or ``logits``.
        logits: Log-odds of a one. Give this or ``probs``.
        validate_args: Whether to check arguments and values.

    Shape:  batch shape is the argument's, event shape ``()``.

    References:
        Bengio, Leonard, Courville (2013), section 4, https://arxiv.org/abs/1308.3432.

    Example:
        >>> probs = torch.full((3,), 0.5, requires_grad=True)
        >>> BernoulliStraightThrough(probs).rsample().sum().backward()
        >>> probs.grad.tolist()
        [1.0, 1.0, 1.0]
    """

    has_rsample = True

    @override
    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        probs = self.probs
        u = noise.uniform(self._extended_shape(torch.Size(sample_shape)), probs)
        return (u < probs).to(probs.dtype) + (probs - probs.detach())

    @override
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)
