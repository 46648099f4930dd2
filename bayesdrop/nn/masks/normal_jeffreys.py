"""Normal-Jeffreys scales: variational dropout of whole units."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.distributions import LogUniform, Normal
from bayesdrop.errors import ConfigError
from bayesdrop.nn.arguments import is_real
from bayesdrop.nn.catalogue import register
from bayesdrop.nn.masks.unit_scale import UnitScaleDropout
from bayesdrop.typing import Latents, SharedBy


@register
class NormalJeffreysDropout(UnitScaleDropout):
    r"""Normal-Jeffreys scales of units: Bayesian compression's group sparsity.

    .. math::
        p(z_k) \propto \frac{1}{|z_k|} \qquad
        q(z_k) = \mathcal N(\mu_k, \sigma_k^2), \quad \alpha_k = \sigma_k^2 / \mu_k^2

    Over Gaussian weights, :math:`w_{kj} = z_k \tilde w_{kj}` with
    :math:`\tilde w_{kj} \sim \mathcal N(0, 1)`, it is the prior
    :math:`\mathcal N(0, z_k^2)` of all weights of a unit, whose divergence is the sum of those of
    the two layers::

        net = bd.convert(net, "normal-jeffreys", weights="gaussian-weights")

    This prior knows no size: over :math:`\tilde w_{kj} \sim \mathcal N(0, s^2)` the model is the
    same for every :math:`s`, and training is not. Scales start at 1, so let :math:`s` be the size
    of the weights that are there, and their noise a fraction of it::

        weights = {"dropout": "gaussian-weights", "prior_scale": 0.05, "init_log_variance": -15.0}
        net = bd.convert(net, "normal-jeffreys", weights=weights)

    The divergence of a scale depends on :math:`\alpha_k` alone and falls as it grows: a unit that
    the data do not need drifts to :math:`\alpha_k \to \infty`. It is exact (``LogUniform``), where
    the paper has its published approximation. In evaluation mode the layer multiplies by
    :math:`\mu_k`, and by zero where a unit is pruned.

    Args:
        num_units: Number of units :math:`K`.
        unit_dim: The masked dimension: -1 for features, -3 for convolution maps.
        batch_dim: The dimension of the examples, counted from the first.
        threshold: Units whose ``keep_prob`` :math:`1 / (1 + \alpha_k)` is below this are pruned:
            for a largest :math:`\log \alpha` of :math:`t` pass :math:`1 / (1 + e^t)`.
            ``bd.compression.choose_threshold`` chooses it on validation data.
        kl_scale: Factor on this layer's KL divergence.
        init_log_variance: Initial :math:`\log \sigma^2`; the default is nearly no noise.
        shared_by: ``"batch"`` or ``"example"``, see ``UnitScaleDropout``.

    Shape:  input and output ``(N, ..., K)``, or ``(N, ..., K, H, W)`` with ``unit_dim=-3``.
    Sites:  ``{module path}.scale``, event ``(K,)``, unless it is drawn for each example;
        ``{module path}.z``, plate ``data``, event ``(K,)``, equal to the scale.

    References:
        Louizos, Ullrich, Welling (2017), "Bayesian Compression for Deep Learning", section 4.1,
        https://arxiv.org/abs/1705.08665.
        Deviations: the divergence is exact; biases are point estimates; one threshold is chosen
        on validation data, where the authors read one for each layer off a histogram.

    Example:
        >>> layer = NormalJeffreysDropout(4)
        >>> layer(torch.ones(2, 4)).shape, bool(layer.kept().all())
        (torch.Size([2, 4]), True)
    """

    key: ClassVar[str] = "normal-jeffreys"
    reference: ClassVar[str] = "Louizos, Ullrich, Welling (2017), https://arxiv.org/abs/1705.08665"
    per_unit: ClassVar[tuple[str, ...]] = (
        *("loc", "log_variance"),
        *("previous_scale_loc", "previous_scale_scale"),
    )

    def __init__(
        self,
        num_units: int,
        *,
        unit_dim: int = -1,
        batch_dim: int = 0,
        threshold: float = 0.5,
        kl_scale: float = 1.0,
        init_log_variance: float = -9.0,
        shared_by: SharedBy = "batch",
    ) -> None:
        super().__init__(
            num_units,
            unit_dim=unit_dim,
            batch_dim=batch_dim,
            threshold=threshold,
            kl_scale=kl_scale,
            shared_by=shared_by,
        )
        if not is_real(init_log_variance) or not math.isfinite(init_log_variance):
            raise ConfigError(
                type(self).__name__,
                expected="a finite init_log_variance",
                got=f"{init_log_variance=}",
                hint="The default is -9.",
            )
        self.loc = nn.Parameter(torch.ones(num_units))
        self.log_variance = nn.Parameter(torch.full((num_units,), float(init_log_variance)))

    @override
    def unit_priors(self) -> dict[str, TorchDistribution]:
        return {"scale": LogUniform(self.loc.shape, validate_args=False).to_event(1)}

    @override
    def unit_posteriors(self) -> dict[str, TorchDistribution]:
        std = (0.5 * self.log_variance).exp()
        # A scale that has underflowed is no scale.
        std = std.clamp(min=torch.finfo(std.dtype).tiny)
        return {"scale": Normal(self.loc, std, validate_args=False).to_event(1)}

    @override
    def scale(self, latents: Latents) -> Tensor:
        return latents["scale"]

    @override
    def scale_given(self, latents: Latents) -> TorchDistribution:
        return self.unit_posteriors()["scale"]

    def log_alpha(self) -> Tensor:
        r"""Return :math:`\log \alpha = \log \sigma^2 - \log \mu^2` of each unit, ``(K,)``."""
        tiny = torch.finfo(self.loc.dtype).tiny
        return self.log_variance - self.loc.square().clamp(min=tiny).log()

    @override
    def keep_prob(self) -> Tensor:
        return torch.sigmoid(-self.log_alpha())

    @override
    def mean_mask(self, x: Tensor | None = None) -> Tensor:
        return self.loc.masked_fill(self.keep_prob() < self.threshold, 0.0)
