"""Real targets with normal noise."""

from __future__ import annotations

from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor
from typing_extensions import override

from bayesdrop.likelihoods.likelihood import finite_target
from bayesdrop.likelihoods.spread import SpreadLikelihood


class Gaussian(SpreadLikelihood):
    r"""Regression: :math:`y_{nj} \sim N(\mu_{nj}, \sigma^2_{nj})`.

    Args:
        scale: A number: fixed noise scale :math:`\sigma > 0`. ``"learned"``: one :math:`\sigma`
            for each output, a point estimate. ``"heteroscedastic"``: the network's output has two
            halves along dimension 1, the mean and a raw scale, :math:`\sigma =
            \mathrm{softplus}(\cdot)`.
        num_outputs: Number of outputs :math:`D`, for ``"learned"``.
        init_scale: Initial :math:`\sigma` for ``"learned"``.
        min_scale: Added to a learned or heteroscedastic scale, in the units of ``y``.

    Shape:  network output ``(N, D, ...)``, or ``(N, 2 D, ...)`` if heteroscedastic; target
        ``(N, D, ...)``, or ``(N,)`` for ``(N, 1)``. There are no missing targets.

    Raises:
        ConfigError: If an argument makes no sense.
        DataError: If a target is NaN or infinite.
        ShapeError: If targets, output and ``num_outputs`` do not fit.

    Example:
        >>> Gaussian("heteroscedastic").distribution(torch.zeros(5, 2)).event_shape
        torch.Size([1])
    """

    has_normal_noise = True
    spread_name = "scale"

    def __init__(
        self,
        scale: float | Literal["learned", "heteroscedastic"] = "learned",
        *,
        num_outputs: int = 1,
        init_scale: float = 1.0,
        min_scale: float = 1e-4,
    ) -> None:
        super().__init__(
            scale,
            num_outputs=num_outputs,
            initial=init_scale,
            minimum=min_scale,
            unit="Both are in the units of y.",
        )

    @override
    def distribution(self, output: Tensor, batch_ndim: int = 1) -> dist.TorchDistribution:
        mean, scale = self.location_and_spread(output, batch_ndim)
        return dist.Normal(mean, scale).to_event(mean.ndim - batch_ndim)

    @override
    def target(self, output: Tensor, y: Tensor) -> Tensor:
        return finite_target("Gaussian", self.location_and_spread(output)[0], y)

    @override
    def moments(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        mean, scale = self.location_and_spread(output)
        return mean, scale.square()

    @override
    def cdf(self, output: Tensor, target: Tensor) -> Tensor:
        mean, scale = self.location_and_spread(output)
        # A scale that has underflowed is a step, of height one half at the target itself.
        return torch.special.ndtr((target - mean) / scale.clamp(min=torch.finfo(scale.dtype).tiny))
