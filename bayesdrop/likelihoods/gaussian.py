"""Real targets with normal noise."""

from __future__ import annotations

import math
from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.likelihoods.likelihood import Likelihood, match_shape
from bayesdrop.nn.arguments import is_real, is_whole
from bayesdrop.ops.stable import inverse_softplus
from bayesdrop.ops.transforms import takes_plain_operations


class Gaussian(Likelihood):
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

    is_classifier = False
    has_normal_noise = True
    fixed_scale: Tensor

    def __init__(
        self,
        scale: float | Literal["learned", "heteroscedastic"] = "learned",
        *,
        num_outputs: int = 1,
        init_scale: float = 1.0,
        min_scale: float = 1e-4,
    ) -> None:
        super().__init__()
        numeric = isinstance(scale, int | float) and not isinstance(scale, bool)
        if (numeric and not 0 < float(scale) < math.inf) or (
            not numeric and scale not in ("learned", "heteroscedastic")
        ):
            raise ConfigError(
                "Gaussian",
                expected="a positive noise scale, 'learned' or 'heteroscedastic'",
                got=repr(scale),
                hint="The default is 'learned'.",
            )
        if not is_whole(num_outputs) or num_outputs < 1:
            raise ConfigError(
                "Gaussian",
                expected="num_outputs >= 1, an int",
                got=f"num_outputs={num_outputs!r}",
                hint="It is the number of columns of y.",
            )
        numbers = is_real(init_scale) and is_real(min_scale)
        if not numbers or not 0 <= min_scale < init_scale < math.inf:
            raise ConfigError(
                "Gaussian",
                expected="init_scale > min_scale >= 0",
                got=f"init_scale={init_scale!r}, min_scale={min_scale!r}",
                hint="Both are in the units of y.",
            )
        self.mode = "fixed" if numeric else str(scale)
        self.min_scale = min_scale
        if numeric:
            self.register_buffer("fixed_scale", torch.tensor(float(scale)))
        elif self.mode == "learned":
            raw = inverse_softplus(init_scale - min_scale)
            self.raw_scale = nn.Parameter(torch.full((num_outputs,), raw))

    def _mean_and_scale(self, output: Tensor, batch_ndim: int = 1) -> tuple[Tensor, Tensor]:
        if self.mode == "fixed":
            return output, self.fixed_scale.expand_as(output)
        outputs = output.shape[batch_ndim] if output.ndim > batch_ndim else 1
        if self.mode == "heteroscedastic":
            if outputs % 2:
                raise ShapeError(
                    "Gaussian('heteroscedastic')",
                    expected="an even number of outputs in dimension 1: means, then raw scales",
                    got=f"output of shape {tuple(output.shape)}",
                    hint="Double the last layer's outputs.",
                )
            mean, raw = output.chunk(2, dim=batch_ndim)
            return mean, F.softplus(raw) + self.min_scale
        if self.raw_scale.numel() not in (1, outputs):
            raise ShapeError(
                "Gaussian('learned')",
                expected=f"{self.raw_scale.numel()} outputs in dimension 1",
                got=f"output of shape {tuple(output.shape)}",
                hint="Pass num_outputs=... to Gaussian.",
            )
        scale = F.softplus(self.raw_scale) + self.min_scale
        return output, scale.reshape(-1, *[1] * (output.ndim - batch_ndim - 1)).expand_as(output)

    @override
    def distribution(self, output: Tensor, batch_ndim: int = 1) -> dist.TorchDistribution:
        mean, scale = self._mean_and_scale(output, batch_ndim)
        return dist.Normal(mean, scale).to_event(mean.ndim - batch_ndim)

    @override
    def target(self, output: Tensor, y: Tensor) -> Tensor:
        y = match_shape("Gaussian", self._mean_and_scale(output)[0], y).to(output.dtype)
        # On an accelerator the check would wait for the device at every step.
        looks = y.device.type == "cpu" and not takes_plain_operations()
        if looks and not bool(torch.isfinite(y).all()):
            row = int((~torch.isfinite(y.reshape(len(y), -1))).any(1).nonzero()[0])
            raise DataError(
                "Gaussian",
                expected="finite targets",
                got=f"NaN or infinity in row {row} of the batch",
                hint="Missing targets are not supported here: leave those rows out.",
            )
        return y

    @override
    def moments(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        mean, scale = self._mean_and_scale(output)
        return mean, scale.square()

    @override
    def cdf(self, output: Tensor, target: Tensor) -> Tensor:
        mean, scale = self._mean_and_scale(output)
        # A scale that has underflowed is a step, of height one half at the target itself.
        return torch.special.ndtr((target - mean) / scale.clamp(min=torch.finfo(scale.dtype).tiny))
