"""Gaussian dropconnect: weights with normal noise in proportion to their size."""

from __future__ import annotations

from typing import ClassVar

from pyro.distributions import TorchDistribution
from typing_extensions import override

from bayesdrop.distributions.normal import Normal
from bayesdrop.nn.catalogue import register
from bayesdrop.nn.weight import Noise
from bayesdrop.nn.weights.fixed_rate import FixedRateWeights

_TINY = 1e-16  # of a squared weight, so that one of exactly zero has a normal distribution


@register
class GaussianDropconnect(FixedRateWeights):
    r"""Gaussian dropconnect: each weight has normal noise in proportion to its size.

    .. math::
        p(w) = q(w), \qquad w_{ij} = \theta_{ij} (1 + \sigma \epsilon_{ij}), \quad
        \epsilon_{ij} \sim N(0, 1), \quad \sigma^2 = \frac{p}{1 - p}

        y_{nj} \sim N\Bigl(\sum_i x_{ni} \theta_{ij} + b_j,\
        \sigma^2 \sum_i x_{ni}^2 \theta_{ij}^2\Bigr)

    Spike-and-slab dropout is this layer behind Bernoulli dropout on its inputs,
    :math:`w_{ij} = b_i \theta_{ij} (1 + \sigma \epsilon_{ij})`; the posterior of a weight is then
    :math:`(1 - p) N(\theta, \sigma^2 \theta^2) + p\, \delta_0`, up to the rescaling of inputs::

        net = bd.convert(bd.convert(net, "gaussian-dropconnect"), "mc-dropout")

    Args:
        layer: The ``nn.Linear`` or ``nn.Conv1d/2d/3d`` whose place it takes; it is not changed.
        drop_prob: :math:`p` in [0, 1): the rate of the Bernoulli noise of the same variance.
        length_scale: :math:`l > 0` of a prior :math:`N(0, l^{-2})` on weights and bias; None
            leaves them to the optimiser's weight decay.
        noise: ``"local"`` (the default) draws the pre-activations, ``"weights"`` the weights, see
            ``BayesianWeights``.
        shared_by: ``"example"`` or ``"batch"``, see ``BayesianWeights``.
        kl_scale: Factor on the penalty.

    Shape:  input and output as those of ``layer``.
    Sites:  ``{module path}.weight``, of the weight's shape as event shape.

    References:
        McClure, Kriegeskorte (2016), "Robustly representing uncertainty through sampling in deep
        neural networks", https://arxiv.org/abs/1611.01639.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> GaussianDropconnect(nn.Conv2d(1, 3, 5), drop_prob=0.2)(torch.ones(2, 1, 8, 8)).shape
        torch.Size([2, 3, 4, 4])
    """

    key: ClassVar[str] = "gaussian-dropconnect"
    reference: ClassVar[str] = "McClure and Kriegeskorte (2016), https://arxiv.org/abs/1611.01639"
    usual_noise: ClassVar[Noise] = "local"

    @override
    def weight_distribution(self) -> TorchDistribution:
        variance = (self.weight.square() + _TINY) * (self.drop_prob / (1 - self.drop_prob))
        return Normal(self.weight, variance.clamp(min=_TINY).sqrt(), validate_args=False)
