"""Real targets with heavy-tailed noise."""

from __future__ import annotations

from typing import Literal

import pyro.distributions as dist
import scipy.special
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from bayesdrop.errors import ConfigError
from bayesdrop.likelihoods.likelihood import finite_target
from bayesdrop.likelihoods.spread import SpreadLikelihood
from bayesdrop.metrics.crps_of_laws import crps_of_student_t
from bayesdrop.nn.arguments import is_real
from bayesdrop.ops.stable import inverse_softplus

_LEAST_DF = 2.0 + 1e-3  # From 2 down there is no variance to predict.


class StudentT(SpreadLikelihood):
    r"""Regression with outliers: :math:`y_{nj} \sim t_\nu(\mu_{nj}, \sigma_{nj})`.

    .. math::
        E[y] = \mu, \qquad \mathrm{Var}[y] = \sigma^2 \frac{\nu}{\nu - 2}

    An observation far from :math:`\mu` pulls ever less, other than with ``Gaussian``, which is the
    limit of large :math:`\nu`.

    Args:
        scale: As for ``Gaussian``: a number, ``"learned"`` or ``"heteroscedastic"``.
        df: Degrees of freedom :math:`\nu > 2`, so that predictions have a variance; or
            ``"learned"``, one for all outputs, a point estimate.
        num_outputs: Number of outputs :math:`D`, for a learned scale.
        init_scale: Initial :math:`\sigma` for ``"learned"``.
        min_scale: Added to a learned or heteroscedastic scale, in the units of ``y``.

    Shape:  network output ``(N, D, ...)``, or ``(N, 2 D, ...)`` if heteroscedastic; target
        ``(N, D, ...)``, or ``(N,)`` for ``(N, 1)``. There are no missing targets.

    Raises:
        ConfigError: If an argument makes no sense.
        DataError: If a target is NaN or infinite.
        ShapeError: If targets, output and ``num_outputs`` do not fit.

    References:
        Lange, Little, Taylor (1989), "Robust statistical modeling using the t distribution",
        https://doi.org/10.1080/01621459.1989.10478852

    Example:
        >>> StudentT(1.0, df=4.0).moments(torch.zeros(5, 1))[1].unique()
        tensor([2.])
    """

    spread_name = "scale"
    fixed_df: Tensor

    def __init__(
        self,
        scale: float | Literal["learned", "heteroscedastic"] = "learned",
        *,
        df: float | Literal["learned"] = 4.0,
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
        if df != "learned" and not (is_real(df) and _LEAST_DF <= float(df) < float("inf")):
            raise ConfigError(
                "StudentT",
                expected=f"df >= {_LEAST_DF:g} or 'learned'",
                got=f"df={df!r}",
                hint="From 2 down the noise has no variance; 4 is a usual choice.",
            )
        self.learns_df = df == "learned"
        if self.learns_df:
            self.raw_df = nn.Parameter(torch.tensor(inverse_softplus(4.0 - _LEAST_DF)))
        else:
            self.register_buffer("fixed_df", torch.tensor(float(df)))

    @property
    def df(self) -> Tensor:
        r"""Degrees of freedom :math:`\nu`, a number."""
        return F.softplus(self.raw_df) + _LEAST_DF if self.learns_df else self.fixed_df

    @override
    def distribution(self, output: Tensor, batch_ndim: int = 1) -> dist.TorchDistribution:
        location, scale = self.location_and_spread(output, batch_ndim)
        fn = dist.StudentT(self.df.to(output.dtype), location, scale)
        return fn.to_event(location.ndim - batch_ndim)

    @override
    def target(self, output: Tensor, y: Tensor) -> Tensor:
        return finite_target("StudentT", self.location_and_spread(output)[0], y)

    @override
    def moments(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        location, scale = self.location_and_spread(output)
        df = self.df.to(output.dtype)
        return location, scale.square() * df / (df - 2.0)

    @override
    def cdf(self, output: Tensor, target: Tensor) -> Tensor:
        location, scale = self.location_and_spread(output)
        tiny = torch.finfo(scale.dtype).tiny
        z = ((target - location) / scale.clamp(min=tiny)).detach()
        below = scipy.special.stdtr(float(self.df.detach()), z.double().cpu().numpy())
        return torch.as_tensor(below, dtype=z.dtype, device=z.device)

    @override
    def crps(self, means: Tensor, variances: Tensor, target: Tensor) -> Tensor | None:
        return crps_of_student_t(means, variances, float(self.df.detach()), target)
