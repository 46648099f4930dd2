"""Counts that vary more than their mean."""

from __future__ import annotations

from typing import Literal

import pyro.distributions as dist
import scipy.special
import torch
from torch import Tensor
from typing_extensions import override

from bayesdrop.likelihoods.likelihood import count_target
from bayesdrop.likelihoods.spread import SpreadLikelihood
from bayesdrop.metrics.crps_of_laws import crps_of_counts


class NegativeBinomial(SpreadLikelihood):
    r"""Overdispersed counts, by mean and dispersion.

    .. math::
        y_{nj} \sim \mathrm{NB}(\mu_{nj}, \alpha), \qquad \mu_{nj} = \exp f_{nj}, \qquad
        \mathrm{Var}[y] = \mu + \alpha \mu^2

    A Poisson whose rate is itself a gamma variable with mean :math:`\mu` and relative variance
    :math:`\alpha`; torch's ``total_count`` is :math:`1 / \alpha`. As :math:`\alpha` goes to 0
    it is ``Poisson``. An exposure :math:`t` is :math:`\log t` added to the log of the mean.

    Args:
        dispersion: A number: fixed :math:`\alpha > 0`. ``"learned"``: one for each output, a point
            estimate. ``"heteroscedastic"``: the output has two halves along dimension 1, the log
            of the mean and a raw dispersion, :math:`\alpha = \mathrm{softplus}(\cdot)`.
        num_outputs: Number of outputs :math:`D`, for ``"learned"``.
        init_dispersion: Initial :math:`\alpha` for ``"learned"``.
        min_dispersion: Added to a learned or heteroscedastic one. Far below the default, float32
            cannot tell the log-probability of a count from rounding.

    Shape:  network output ``(N, D, ...)``, the log of the mean, or ``(N, 2 D, ...)`` if
        heteroscedastic; target ``(N, D, ...)``, or ``(N,)`` for ``(N, 1)``, whole numbers >= 0.
        There are no missing targets.

    Raises:
        ConfigError: If an argument makes no sense.
        DataError: If a target is no count.
        ShapeError: If targets, output and ``num_outputs`` do not fit.

    References:
        Cameron, Trivedi (2013), "Regression Analysis of Count Data", section 3.3: the model NB2.

    Example:
        >>> NegativeBinomial(0.5).moments(torch.zeros(1, 1))[1].tolist()
        [[1.5]]
    """

    spread_name = "dispersion"

    def __init__(
        self,
        dispersion: float | Literal["learned", "heteroscedastic"] = "learned",
        *,
        num_outputs: int = 1,
        init_dispersion: float = 1.0,
        min_dispersion: float = 1e-3,
    ) -> None:
        super().__init__(
            dispersion,
            num_outputs=num_outputs,
            initial=init_dispersion,
            minimum=min_dispersion,
            unit="The variance is mean + dispersion * mean ** 2.",
        )

    @override
    def distribution(self, output: Tensor, batch_ndim: int = 1) -> dist.TorchDistribution:
        fn = self._counts(*self.location_and_spread(output, batch_ndim))
        return fn.to_event(len(fn.batch_shape) - batch_ndim)

    @staticmethod
    def _counts(log_mean: Tensor, dispersion: Tensor) -> dist.NegativeBinomial:
        return dist.NegativeBinomial(1.0 / dispersion, logits=log_mean + dispersion.log())

    @override
    def target(self, output: Tensor, y: Tensor) -> Tensor:
        return count_target("NegativeBinomial", self.location_and_spread(output)[0], y)

    @override
    def moments(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        log_mean, dispersion = self.location_and_spread(output)
        mean = log_mean.exp()
        return mean, mean + dispersion * mean.square()

    @override
    def cdf(self, output: Tensor, target: Tensor) -> Tensor:
        log_mean, dispersion = self.location_and_spread(output)
        # 1 / (1 + alpha mu), of which the distribution function is an incomplete beta function.
        parts = 1.0 / dispersion, torch.sigmoid(-log_mean - dispersion.log()), target
        count, share, y = (part.detach().double().cpu().numpy() for part in parts)
        below = scipy.special.betainc(count, y.clip(min=1.0), share) * (y > 0)
        below = torch.as_tensor(below, dtype=output.dtype, device=output.device)
        return below + 0.5 * self._counts(log_mean, dispersion).log_prob(target).exp()

    @override
    def crps(self, means: Tensor, variances: Tensor, target: Tensor) -> Tensor | None:
        return crps_of_counts(means, variances, target)
