"""A likelihood whose examples count more or less than one."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from typing_extensions import override

from bayesdrop.likelihoods import Likelihood


class Weighted(Likelihood):
    r"""Another likelihood, of whose log-likelihoods a batch has the weighted sum.

    .. math:: \sum_n w_n \log p(y_n \mid f_n)

    Only training knows of it: what is predicted afterwards is the other likelihood's.

    Args:
        likelihood: The other one.

    Shape:  targets ``(N, 1 + D)``, as of ``pack``: the weight, then the other's targets; labels
        where ``D`` is 1 and it classifies.
    """

    def __init__(self, likelihood: Likelihood) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.is_classifier = likelihood.is_classifier  # type: ignore[misc]

    @staticmethod
    def pack(y: Tensor, weights: Tensor) -> Tensor:
        """Return targets ``(N,)`` or ``(N, D)`` behind their weights."""
        return torch.cat([weights[:, None].double(), y.reshape(len(y), -1).double()], 1)

    def _unpacked(self, y: Tensor) -> Tensor:
        return y[:, 1].long() if self.is_classifier else y[:, 1:]

    @override
    def distribution(self, output: Tensor, batch_ndim: int = 1) -> dist.TorchDistribution:
        return self.likelihood.distribution(output, batch_ndim)

    @override
    def target(self, output: Tensor, y: Tensor) -> Tensor:
        return self.likelihood.target(output, self._unpacked(y))

    @override
    def moments(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.likelihood.moments(output)

    @override
    def log_prob(self, output: Tensor, y: Tensor) -> Tensor:
        return y[:, 0].to(output.dtype) * self.likelihood.log_prob(output, self._unpacked(y))

    @override
    def nll(self, output: Tensor, y: Tensor) -> Tensor:
        return -self.log_prob(output, y).sum()

    @override
    def flatten_labels(self, probabilities: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.likelihood.flatten_labels(probabilities, self._unpacked(y))

    @override
    def doubt(self, output: Tensor) -> str | None:
        return self.likelihood.doubt(output)
