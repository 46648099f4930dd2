"""Dropconnect: layers whose weights, not units, have noise of a fixed rate."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.distributions.dropped_weight import DroppedWeight
from bayesdrop.distributions.normal import Normal
from bayesdrop.errors import ConfigError
from bayesdrop.nn.weight import BayesianWeights, Noise
from bayesdrop.nn.weights.conv import ConvWeights
from bayesdrop.nn.weights.linear import LinearWeights

_TINY = 1e-16  # of a squared weight, so that one of exactly zero has a normal distribution


class Dropconnect(BayesianWeights):
    r"""Abstract layer whose weights have multiplicative noise of mean 1 and a fixed rate.

    Prior and posterior of the weights are the same distribution, so the KL is exactly zero.
    Under a prior :math:`w \sim N(0, l^{-2})` the loss gets, up to a constant,

    .. math:: \frac{l^2}{2} \Bigl(\frac{\lVert \theta \rVert^2}{1 - p}
              + \lVert b \rVert^2\Bigr)

    Args:
        shape: Shape of the weight.
        bias: Whether there is a bias; it is a point estimate.
        drop_prob: :math:`p` in [0, 1).
        length_scale: :math:`l > 0` of the prior on the weights; None leaves them to the
            optimiser's weight decay.
        noise: What training mode draws, see ``BayesianWeights``; None is ``default_noise``.
        kl_scale: Factor on the penalty.
    """

    default_noise: ClassVar[Noise]
    """What training mode draws if nothing is said."""
    drop_prob: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        bias: bool,
        *,
        drop_prob: float,
        length_scale: float | None,
        noise: Noise | None,
        kl_scale: float,
    ) -> None:
        noise = self.default_noise if noise is None else noise
        super().__init__(noise=noise, log_alpha_threshold=math.inf, kl_scale=kl_scale)
        positive = length_scale is None or 0.0 < length_scale < math.inf
        if not 0.0 <= drop_prob < 1.0 or not positive:
            raise ConfigError(
                type(self).__name__,
                expected="0 <= drop_prob < 1, and a length_scale that is None or > 0",
                got=f"drop_prob={drop_prob}, length_scale={length_scale}",
                hint="A drop_prob of 0 is a plain layer.",
            )
        self.length_scale = length_scale
        self.register_buffer("drop_prob", torch.full((), float(drop_prob)))
        self.create_weights(shape, bias)

    @abstractmethod
    def _distribution(self) -> TorchDistribution:
        """Return the distribution of the weights, all batch dimensions."""

    @override
    def posterior(self) -> dict[str, TorchDistribution]:
        return {"weight": self._distribution().to_event(self.weight.ndim)}

    @override
    def prior(self) -> dict[str, TorchDistribution]:
        return {"weight": self._distribution().to_event(self.weight.ndim)}

    @override
    def penalty(self) -> Tensor | None:
        if self.length_scale is None:
            return None
        energy = self.weight.square().sum() / (1 - self.drop_prob)
        if self.bias is not None:
            energy = energy + self.bias.square().sum()
        return 0.5 * self.length_scale**2 * energy

    @override
    def mean_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the weights if the penalty is their prior; weight decay is it otherwise."""
        return iter(()) if self.length_scale is None else iter((self.weight,))

    @override
    def weight_moments(self) -> tuple[Tensor, Tensor]:
        variance = self.weight.square() * (self.drop_prob / (1 - self.drop_prob))
        return self.weight, variance

    @override
    def kept(self) -> Tensor:
        return torch.ones_like(self.weight, dtype=torch.bool)

    def extra_repr(self) -> str:
        """Show the sizes and the rate."""
        return f"{self.plain().extra_repr()}, drop_prob={float(self.drop_prob):g}"


class BernoulliDropconnect(Dropconnect):
    """Abstract layer whose weights are there or not; see ``DropconnectLinear``."""

    key: ClassVar[str] = "dropconnect"
    reference: ClassVar[str] = "Wan et al. (2013), https://proceedings.mlr.press/v28/wan13.html"
    default_noise = "weights"

    @override
    def _distribution(self) -> TorchDistribution:
        return DroppedWeight(self.weight, 1 - self.drop_prob, validate_args=False)


class GaussianDropconnect(Dropconnect):
    """Abstract layer whose weights have normal noise; see ``GaussianDropconnectLinear``."""

    key: ClassVar[str] = "gaussian-dropconnect"
    reference: ClassVar[str] = "McClure and Kriegeskorte (2016), https://arxiv.org/abs/1611.01639"
    default_noise = "local"

    @override
    def _distribution(self) -> TorchDistribution:
        variance = (self.weight.square() + _TINY) * (self.drop_prob / (1 - self.drop_prob))
        scale = variance.clamp(min=_TINY).sqrt()
        return Normal(self.weight, scale, validate_args=False)


class _OfLinear(LinearWeights, Dropconnect):
    """The sizes of ``nn.Linear``, for both kinds of noise."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        drop_prob: float = 0.5,
        length_scale: float | None = None,
        noise: Noise | None = None,
        kl_scale: float = 1.0,
    ) -> None:
        super().__init__(
            (out_features, in_features),
            bias,
            drop_prob=drop_prob,
            length_scale=length_scale,
            noise=noise,
            kl_scale=kl_scale,
        )
        self.in_features, self.out_features = in_features, out_features


class _OfConv2d(ConvWeights, Dropconnect):
    """The sizes of ``nn.Conv2d``, for both kinds of noise."""

    def __init__(  # noqa: PLR0913 - those of nn.Conv2d, and the layer's own
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        drop_prob: float = 0.5,
        length_scale: float | None = None,
        noise: Noise | None = None,
        kl_scale: float = 1.0,
    ) -> None:
        # torch's own checks of these sizes.
        plain = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            device="meta",
        )  # fmt: skip
        super().__init__(
            tuple(plain.weight.shape),
            bias,
            drop_prob=drop_prob,
            length_scale=length_scale,
            noise=noise,
            kl_scale=kl_scale,
        )
        self.set_sizes(plain)


class DropconnectLinear(BernoulliDropconnect, _OfLinear):
    r"""Bernoulli dropconnect: each weight is there with probability :math:`1 - p`.

    .. math:: p(w) = q(w), \qquad w_{ij} = \frac{\theta_{ij} z_{ij}}{1 - p}, \quad
              z_{ij} \sim \mathrm{Bernoulli}(1 - p)

    Args:
        in_features: Number of inputs.
        out_features: Number of outputs.
        bias: Whether there is a bias; it is a point estimate.
        drop_prob: :math:`p` in [0, 1).
        length_scale: :math:`l > 0` of a prior :math:`N(0, l^{-2})` on weights and bias; None
            leaves them to the optimiser's weight decay.
        noise: ``"weights"`` (the default) draws the weights once a call; ``"local"`` draws the
            pre-activations of each example from the normal distribution with the right mean and
            variance, which is an approximation here.
        kl_scale: Factor on the penalty.

    Shape:  input ``(*, in_features)``, output ``(*, out_features)``.
    Sites:  ``{module path}.weight``, event ``(out_features, in_features)``.

    References:
        Wan, Zeiler, Zhang, LeCun, Fergus (2013), "Regularization of Neural Networks using
        DropConnect"; sampled at prediction as in McClure, Kriegeskorte (2016),
        https://arxiv.org/abs/1611.01639.
        Deviation: in training one draw of the weights for all examples of a batch, where the
        paper has one for each example.

    Example:
        >>> layer = DropconnectLinear(4, 3, drop_prob=0.2)
        >>> layer(torch.ones(2, 4)).shape
        torch.Size([2, 3])
    """


class DropconnectConv2d(BernoulliDropconnect, _OfConv2d):
    r"""Convolution with Bernoulli dropconnect; see ``DropconnectLinear``.

    A weight that is dropped is missing at every pixel.

    Args:
        in_channels: Number of input channels.
        out_channels: Number of filters.
        kernel_size: Size of the kernel.
        stride: Stride.
        padding: Zero padding.
        dilation: Dilation.
        groups: Number of groups.
        bias: Whether there is a bias; it is a point estimate.
        drop_prob: As for ``DropconnectLinear``.
        length_scale: As for ``DropconnectLinear``.
        noise: As for ``DropconnectLinear``.
        kl_scale: Factor on the penalty.

    Shape:  input ``(N, C, H, W)``, output ``(N, out_channels, H', W')``.
    Sites:  ``{module path}.weight``, event ``(out_channels, C / groups, h, w)``.

    References:
        McClure, Kriegeskorte (2016), https://arxiv.org/abs/1611.01639.

    Example:
        >>> layer = DropconnectConv2d(1, 3, 5, drop_prob=0.2)
        >>> layer(torch.ones(2, 1, 8, 8)).shape
        torch.Size([2, 3, 4, 4])
    """


class GaussianDropconnectLinear(GaussianDropconnect, _OfLinear):
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
        in_features: Number of inputs.
        out_features: Number of outputs.
        bias: Whether there is a bias; it is a point estimate.
        drop_prob: :math:`p` in [0, 1): the rate of the Bernoulli noise of the same variance.
        length_scale: :math:`l > 0` of a prior :math:`N(0, l^{-2})` on weights and bias; None
            leaves them to the optimiser's weight decay.
        noise: ``"local"`` (the default) draws the pre-activations of each example, ``"weights"``
            the weights once a call. The distribution of any one output is the same.
        kl_scale: Factor on the penalty.

    Shape:  input ``(*, in_features)``, output ``(*, out_features)``.
    Sites:  ``{module path}.weight``, event ``(out_features, in_features)``.

    References:
        McClure, Kriegeskorte (2016), "Robustly representing uncertainty through sampling in deep
        neural networks", https://arxiv.org/abs/1611.01639.

    Example:
        >>> layer = GaussianDropconnectLinear(4, 3, drop_prob=0.2)
        >>> layer(torch.ones(2, 4)).shape
        torch.Size([2, 3])
    """


class GaussianDropconnectConv2d(GaussianDropconnect, _OfConv2d):
    r"""Convolution with Gaussian dropconnect; see ``GaussianDropconnectLinear``.

    Local noise is independent for every output pixel, as in ``SparseVariationalConv2d``.

    Args:
        in_channels: Number of input channels.
        out_channels: Number of filters.
        kernel_size: Size of the kernel.
        stride: Stride.
        padding: Zero padding.
        dilation: Dilation.
        groups: Number of groups.
        bias: Whether there is a bias; it is a point estimate.
        drop_prob: As for ``GaussianDropconnectLinear``.
        length_scale: As for ``GaussianDropconnectLinear``.
        noise: As for ``GaussianDropconnectLinear``.
        kl_scale: Factor on the penalty.

    Shape:  input ``(N, C, H, W)``, output ``(N, out_channels, H', W')``.
    Sites:  ``{module path}.weight``, event ``(out_channels, C / groups, h, w)``.

    References:
        McClure, Kriegeskorte (2016), https://arxiv.org/abs/1611.01639.

    Example:
        >>> layer = GaussianDropconnectConv2d(1, 3, 5, drop_prob=0.2)
        >>> layer(torch.ones(2, 1, 8, 8)).shape
        torch.Size([2, 3, 4, 4])
    """
