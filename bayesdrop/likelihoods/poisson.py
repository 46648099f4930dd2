"""Counts whose variance is their mean."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from typing_extensions import override

from bayesdrop.likelihoods.likelihood import Likelihood, count_target
from bayesdrop.metrics.crps_of_laws import crps_of_counts


class Poisson(Likelihood):
    r"""Counts: :math:`y_{nj} \sim \mathrm{Poisson}(\exp f_{nj})`.

    .. math:: E[y] = \mathrm{Var}[y] = e^f

    Real counts mostly vary more than that: see ``NegativeBinomial``. An exposure :math:`t`, such
    as the hours that were counted, is :math:`\log t` added to the network's output.

    Shape:  network output ``(N, ...)``, the log of the rate; target the same shape, or ``(N,)``
        for ``(N, 1)``, whole numbers >= 0. There are no missing targets.

    Raises:
        DataError: If a target is no count.
        ShapeError: If the targets have another shape than the output.

    Example:
        >>> Poisson().moments(torch.zeros(2, 1))[0].tolist()
        [[1.0], [1.0]]
    """

    is_classifier = False

    @override
    def distribution(self, output: Tensor, batch_ndim: int = 1) -> dist.TorchDistribution:
        return dist.Poisson(output.exp()).to_event(output.ndim - batch_ndim)

    @override
    def target(self, output: Tensor, y: Tensor) -> Tensor:
        return count_target("Poisson", output, y)

    @override
    def log_prob(self, output: Tensor, y: Tensor) -> Tensor:
        # In the log of the rate, which has a gradient where the rate itself has underflowed.
        y = self.target(output, y)
        terms = y * output - output.exp() - torch.lgamma(y + 1.0)
        return terms.reshape(len(terms), -1).sum(1)

    @override
    def nll(self, output: Tensor, y: Tensor) -> Tensor:
        return -self.log_prob(output, y).sum()

    @override
    def moments(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        rate = output.exp()
        return rate, rate

    @override
    def cdf(self, output: Tensor, target: Tensor) -> Tensor:
        rate = output.exp()
        below = torch.special.gammaincc(target.clamp(min=1.0), rate)
        below = torch.where(target > 0, below, 0.0)
        return below + 0.5 * dist.Poisson(rate).log_prob(target).exp()

    @override
    def crps(self, means: Tensor, variances: Tensor, target: Tensor) -> Tensor | None:
        return crps_of_counts(means, variances, target)
