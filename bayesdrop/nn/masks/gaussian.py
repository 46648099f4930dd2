"""Gaussian dropout: multiplicative normal noise of a fixed rate."""

from __future__ import annotations

from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from typing_extensions import override

from bayesdrop.distributions.normal import Normal
from bayesdrop.nn.catalogue import register
from bayesdrop.nn.mask import MaskKind
from bayesdrop.nn.masks.unit_noise import FixedNoiseDropout
from bayesdrop.typing import Latents


@register
class GaussianDropout(FixedNoiseDropout):
    r"""Gaussian dropout: normal noise with the mean and variance of rescaled Bernoulli masks.

    .. math:: p(z_{nk}) = q(z_{nk}) = N\bigl(1, \tfrac{p}{1 - p}\bigr)

    The rate is fixed, so the KL of the mask is exactly zero. In evaluation mode the layer is the
    identity; ``predict`` draws masks.

    Args:
        num_units: Number of units :math:`K`.
        unit_dim: The masked dimension: -1 for features, -3 for convolution maps.
        batch_dim: The dimension of the examples, counted from the first.
        drop_prob: :math:`p` in [0, 1): the rate of the Bernoulli dropout with the same variance.
            The noise's variance is ``drop_prob / (1 - drop_prob)``.
        kl_scale: Factor on the penalty.
        length_scale: :math:`l > 0` of a prior :math:`N(0, l^{-2})` on the weights behind the mask,
            as in ``MonteCarloDropout``; None for no such term.

    Shape:  input and output ``(N, ..., K)``, or ``(N, ..., K, H, W)`` with ``unit_dim=-3``.
    Sites:  ``{module path}.z``, plate ``data``, event ``(K,)``.

    Nothing is ever zero, and a mask can be negative: ``keep_prob`` is that of the Bernoulli
    dropout with the same variance.

    References:
        Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov (2014), "Dropout: A Simple Way to
        Prevent Neural Networks from Overfitting", section 10,
        https://jmlr.org/papers/v15/srivastava14a.html; sampled at prediction as in McClure,
        Kriegeskorte (2016), https://arxiv.org/abs/1611.01639.

    Example:
        >>> layer = GaussianDropout(4, drop_prob=0.2)
        >>> bool((layer.eval()(torch.ones(2, 4)) == 1).all())
        True
    """

    key: ClassVar[str] = "gaussian"
    reference: ClassVar[str] = (
        "Srivastava et al. (2014), https://jmlr.org/papers/v15/srivastava14a.html"
    )

    mask_kind: ClassVar[MaskKind] = "noise"

    @override
    def mask_distribution(self, latents: Latents, x: Tensor | None = None) -> TorchDistribution:
        variance = (self.drop_prob / (1 - self.drop_prob)).expand(self.num_units)
        # Not validated, so that a rate of 0 is the constant 1.
        return Normal(torch.ones_like(variance), variance.sqrt(), validate_args=False).to_event(1)
