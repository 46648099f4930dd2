"""Monte Carlo dropout: nn.Dropout as a posterior, drawn from at prediction too."""

from __future__ import annotations

from typing import ClassVar

from pyro.distributions import TorchDistribution
from torch import Tensor
from typing_extensions import override

from bayesdrop.distributions.scaled_bernoulli import ScaledBernoulli
from bayesdrop.nn.catalogue import register
from bayesdrop.nn.masks.unit_noise import FixedNoiseDropout
from bayesdrop.typing import Latents


@register
class MonteCarloDropout(FixedNoiseDropout):
    r"""Monte Carlo dropout: ``nn.Dropout`` whose masks are samples of a posterior.

    .. math::
        p(z_{nk}) = q(z_{nk}), \qquad
        q(z_{nk} = \tfrac{1}{1 - p}) = 1 - p, \quad q(z_{nk} = 0) = p

    The rate is fixed, so the KL of the mask is exactly zero. In training mode, on inputs
    ``(N, K)``, the layer is ``nn.Dropout`` in law; in evaluation mode it is the identity.
    ``predict`` draws masks. A network that was trained with ``nn.Dropout`` needs no training::

        bnn = bd.BayesianNetwork(
            bd.convert(net, "mc-dropout", linear=False, conv=False), bd.Categorical(), num_data
        )

    Every ``nn.Dropout`` keeps its own rate there, unless ``drop_prob`` is given.

    Args:
        num_units: Number of units :math:`K`.
        unit_dim: The masked dimension: -1 for features, -3 for convolution maps, where whole
            channels are dropped as by ``nn.Dropout2d``.
        batch_dim: The dimension of the examples, counted from the first.
        drop_prob: :math:`p` in [0, 1), as in ``nn.Dropout``.
        kl_scale: Factor on the penalty.
        length_scale: :math:`l > 0` of a prior :math:`N(0, l^{-2})` on the weights and bias of the
            layer behind the mask (the one that ``convert`` attaches): the loss gets
            :math:`\frac{l^2}{2} (\lVert V \rVert^2 / (1 - p) + \lVert b \rVert^2)` nats. None
            leaves it to the optimiser's weight decay; use one of the two. Layers without a mask
            are always left to weight decay.

    Shape:  input and output ``(N, ..., K)``, or ``(N, ..., K, H, W)`` with ``unit_dim=-3``.
    Sites:  ``{module path}.z``, plate ``data``, event ``(K,)``.

    References:
        Gal, Ghahramani (2016), "Dropout as a Bayesian Approximation: Representing Model
        Uncertainty in Deep Learning", https://arxiv.org/abs/1506.02142.
        Deviation: one mask for each example, shared along sequence positions and pixels, where
        ``nn.Dropout`` draws each entry; inputs are rescaled by :math:`1 / (1 - p)`.

    Example:
        >>> import torch
        >>> layer = MonteCarloDropout(4, drop_prob=0.25)
        >>> bool((layer.eval()(torch.ones(2, 4)) == 1).all())
        True
    """

    key: ClassVar[str] = "mc-dropout"
    reference: ClassVar[str] = "Gal and Ghahramani (2016), https://arxiv.org/abs/1506.02142"

    @override
    def mask_distribution(self, latents: Latents, x: Tensor | None = None) -> TorchDistribution:
        return ScaledBernoulli(self.keep_prob(), validate_args=False).to_event(1)
