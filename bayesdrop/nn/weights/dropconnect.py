"""Dropconnect: weights that are there or not."""

from __future__ import annotations

from typing import ClassVar

from pyro.distributions import TorchDistribution
from typing_extensions import override

from bayesdrop.distributions import ScaledBernoulli
from bayesdrop.nn.catalogue import register
from bayesdrop.nn.weight import Noise
from bayesdrop.nn.weights.fixed_rate import FixedRateWeights


@register
class Dropconnect(FixedRateWeights):
    r"""Bernoulli dropconnect: each weight is there with probability :math:`1 - p`.

    .. math:: p(w) = q(w), \qquad w_{ij} = \frac{\theta_{ij} z_{ij}}{1 - p}, \quad
              z_{ij} \sim \mathrm{Bernoulli}(1 - p)

    A weight of a convolution that is dropped is missing at every pixel.

    Args:
        layer: The ``nn.Linear`` or ``nn.Conv1d/2d/3d`` whose place it takes; it is not changed.
        drop_prob: :math:`p` in [0, 1).
        length_scale: :math:`l > 0` of a prior :math:`N(0, l^{-2})` on weights and bias; None
            leaves them to the optimiser's weight decay.
        noise: ``"weights"`` (the default) draws the weights; ``"local"`` draws the pre-activations
            from the normal distribution with the right mean and variance, which is an
            approximation here.
        shared_by: ``"batch"`` is one draw of the weights for all examples of a call, and the
            default; ``"example"`` one for each, as published, which takes the memory of as many
            weights.
        kl_scale: Factor on the penalty.

    Shape:  input and output as those of ``layer``.
    Sites:  ``{module path}.weight``, of the weight's shape as event shape.

    References:
        Wan, Zeiler, Zhang, LeCun, Fergus (2013), "Regularization of Neural Networks using
        DropConnect"; sampled at prediction as in McClure, Kriegeskorte (2016),
        https://arxiv.org/abs/1611.01639.

    Example:
        >>> from torch import nn
        >>> Dropconnect(nn.Linear(4, 3), drop_prob=0.2)
        Dropconnect(Linear(in_features=4, out_features=3, bias=True), drop_prob=0.2)
    """

    key: ClassVar[str] = "dropconnect"
    reference: ClassVar[str] = "Wan et al. (2013), https://proceedings.mlr.press/v28/wan13.html"
    usual_noise: ClassVar[Noise] = "weights"

    @override
    def weight_distribution(self) -> TorchDistribution:
        return ScaledBernoulli(1 - self.drop_prob, self.weight, validate_args=False)
