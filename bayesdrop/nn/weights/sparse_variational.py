"""Sparse variational dropout: linear and convolutional layers with Gaussian weights."""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias, get_args

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.distributions import LogUniform, Normal
from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.nn.weight import BayesianWeights, Noise
from bayesdrop.nn.weights.conv import ConvWeights
from bayesdrop.nn.weights.linear import LinearWeights

Granularity: TypeAlias = Literal["weight", "unit", "layer"]
"""What shares one noise-to-signal ratio, see ``SparseVariationalLinear``."""
Prior: TypeAlias = Literal["exact", "fit", "cubic", "hierarchical"]
"""Prior and KL divergence, see ``SparseVariationalLinear``."""

_INIT_LOG_VARIANCE = -10.0
_TINY = 1e-16  # of a squared weight: a ratio of two zeros has no value


class SparseVariational(BayesianWeights):
    """Abstract layer of sparse variational dropout; see ``SparseVariationalLinear``."""

    key: ClassVar[str] = "sparse-variational"
    reference: ClassVar[str] = (
        "Molchanov, Ashukha, Vetrov (2017), https://arxiv.org/abs/1701.05369"
    )

    def __init__(
        self,
        shape: tuple[int, ...],
        bias: bool,
        *,
        granularity: Granularity,
        kl: Prior,
        init_log_variance: float | None,
        init_log_alpha: float | None,
        noise: Noise,
        log_alpha_threshold: float,
        kl_scale: float,
    ) -> None:
        super().__init__(noise=noise, log_alpha_threshold=log_alpha_threshold, kl_scale=kl_scale)
        who = type(self).__name__
        if granularity not in get_args(Granularity):
            raise unknown_name(f"granularity of {who}", granularity, get_args(Granularity))
        if kl not in get_args(Prior):
            raise unknown_name(f"kl of {who}", kl, get_args(Prior))
        by_weight = granularity == "weight"
        if init_log_alpha is not None if by_weight else init_log_variance is not None:
            raise ConfigError(
                who,
                expected="init_log_variance for granularity='weight', init_log_alpha for "
                "'unit' and 'layer'",
                got=f"{granularity=}, {init_log_variance=}, {init_log_alpha=}",
                hint="A variance of its own keeps the gradient in a weight's mean free of "
                "noise; a shared one is a share of the squared mean.",
            )
        self.granularity = granularity
        self.kl = kl
        self.create_weights(shape, bias)
        if by_weight:
            start = _INIT_LOG_VARIANCE if init_log_variance is None else init_log_variance
            self.log_variance = nn.Parameter(torch.full(shape, float(start)))
        else:
            sizes = (1, shape[1] if granularity == "unit" else 1, *[1] * (len(shape) - 2))
            start = -2.0 if init_log_alpha is None else init_log_alpha
            self.log_alpha_shared = nn.Parameter(torch.full(sizes, float(start)))

    def log_alpha(self) -> Tensor:
        r"""Return :math:`\log \alpha = \log \sigma^2 - \log \theta^2` of each weight."""
        if self.granularity != "weight":
            return self._shared_log_alpha().expand_as(self.weight)
        tiny = torch.finfo(self.weight.dtype).tiny
        log_alpha = self.log_variance - self.weight.square().clamp(min=tiny).log()
        return log_alpha.clamp(max=0.0) if self.kl == "cubic" else log_alpha

    @override
    def weight_moments(self) -> tuple[Tensor, Tensor]:
        if self.granularity == "weight":
            variance = self.log_variance.exp()
            if self.kl == "cubic":  # which knows alpha <= 1 only
                variance = torch.minimum(variance, self.weight.square() + _TINY)
            return self.weight, variance
        return self.weight, self._shared_log_alpha().exp() * (self.weight.square() + _TINY)

    def _shared_log_alpha(self) -> Tensor:
        shared: Tensor = self.log_alpha_shared
        return shared.clamp(max=0.0) if self.kl == "cubic" else shared

    @override
    def posterior(self) -> dict[str, TorchDistribution]:
        mean, variance = self.weight_moments()
        fn = Normal(mean, variance.sqrt(), validate_args=False)
        return {"weight": fn.to_event(mean.ndim)}

    @override
    def prior(self) -> dict[str, TorchDistribution]:
        fn: TorchDistribution
        if self.kl == "hierarchical":
            mean, variance = self.weight_moments()
            scale = (mean.square() + variance).sqrt()
            fn = Normal(torch.zeros_like(scale), scale, validate_args=False)
        else:
            fn = LogUniform(self.weight.shape, divergence=self.kl, validate_args=False)
        return {"weight": fn.to_event(self.weight.ndim)}

    @override
    @torch.no_grad()
    def kept(self) -> Tensor:
        return self.log_alpha() <= self.log_alpha_threshold

    def extra_repr(self) -> str:
        """Show the sizes and what is not the default."""
        words = [str(self.plain().extra_repr())]
        defaults = {"granularity": "weight", "kl": "exact", "noise": "local"}
        words += [f"{n}={getattr(self, n)}" for n, v in defaults.items() if getattr(self, n) != v]
        return ", ".join(words)


class SparseVariationalLinear(LinearWeights, SparseVariational):
    r"""Linear layer with sparse variational dropout.

    .. math::
        p(w_{ij}) \propto \frac{1}{|w_{ij}|} \qquad
        q(w_{ij}) = \mathcal N(\theta_{ij}, \sigma_{ij}^2), \quad
        \alpha_{ij} = \sigma_{ij}^2 / \theta_{ij}^2

    The KL divergence falls as :math:`\alpha` grows, so that weights which the data does not need
    drift to :math:`\alpha \to \infty` and are pruned at :math:`\log \alpha > 3` (a drop
    probability of 0.953 in binary dropout's terms). In training mode the pre-activations are
    drawn instead of the weights,

    .. math::
        y_{nj} \sim \mathcal N\Bigl(\sum_i x_{ni} \theta_{ij} + b_j,\
        \sum_i x_{ni}^2 \sigma_{ij}^2\Bigr)

    Without a rising KL weight (``fit(kl_weight=schedules.warm_up(...))``) a network from scratch
    prunes everything before it has learned anything.

    Args:
        in_features: Number of inputs.
        out_features: Number of outputs.
        bias: Whether there is a bias; it is a point estimate.
        granularity: ``"weight"``: every weight has a variance of its own. ``"unit"`` and
            ``"layer"``: all weights of an input unit, or of the layer, share :math:`\alpha`;
            Gaussian dropout with a learned rate.
        kl: ``"exact"``: log-uniform prior, exact divergence. ``"fit"``: its published
            approximation, as fast. ``"cubic"``: Kingma's, which holds :math:`\alpha \le 1`, so
            that nothing is pruned; with ``granularity`` the three forms of variational dropout.
            ``"hierarchical"``: a normal prior of the variance that fits best,
            :math:`\mathcal N(0, \theta^2 + \sigma^2)`, a proper prior with the divergence
            :math:`\frac12 \log(1 + 1/\alpha)`.
        init_log_variance: Initial :math:`\log \sigma^2`, for ``granularity="weight"``; default
            -10.
        init_log_alpha: Initial :math:`\log \alpha`, for the others; default -2.
        noise: ``"local"``, ``"weights"`` or ``"shared"``, see ``BayesianWeights``.
        log_alpha_threshold: Weights whose :math:`\log \alpha` is above this are pruned.
        kl_scale: Factor on this layer's KL divergence.

    Shape:  input ``(*, in_features)``, output ``(*, out_features)``.
    Sites:  ``{module path}.weight``, event ``(out_features, in_features)``.

    References:
        Molchanov, Ashukha, Vetrov (2017), "Variational Dropout Sparsifies Deep Neural Networks",
        https://arxiv.org/abs/1701.05369.
        Kingma, Salimans, Welling (2015), "Variational Dropout and the Local Reparameterization
        Trick", https://arxiv.org/abs/1506.02557.
        Deviations: the divergence is exact; the authors' code clamps :math:`\log \alpha` to
        [-8, 8], also in the noise, and zeroes pruned means during training (``train_clip``);
        here the objective is the ELBO of this posterior throughout.

    Example:
        >>> layer = SparseVariationalLinear(4, 3)
        >>> layer(torch.ones(2, 4)).shape, layer.log_alpha().shape
        (torch.Size([2, 3]), torch.Size([3, 4]))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        granularity: Granularity = "weight",
        kl: Prior = "exact",
        init_log_variance: float | None = None,
        init_log_alpha: float | None = None,
        noise: Noise = "local",
        log_alpha_threshold: float = 3.0,
        kl_scale: float = 1.0,
    ) -> None:
        super().__init__(
            (out_features, in_features),
            bias,
            granularity=granularity,
            kl=kl,
            init_log_variance=init_log_variance,
            init_log_alpha=init_log_alpha,
            noise=noise,
            log_alpha_threshold=log_alpha_threshold,
            kl_scale=kl_scale,
        )
        self.in_features, self.out_features = in_features, out_features


class SparseVariationalConv2d(ConvWeights, SparseVariational):
    r"""Convolution with sparse variational dropout; see ``SparseVariationalLinear``.

    Local noise is independent for every output pixel, which is the usual approximation: its
    distribution at one pixel is exact, while under the model nearby pixels share weights.

    Args:
        in_channels: Number of input channels.
        out_channels: Number of filters.
        kernel_size: Size of the kernel.
        stride: Stride.
        padding: Zero padding.
        dilation: Dilation.
        groups: Number of groups.
        bias: Whether there is a bias; it is a point estimate.
        granularity: As for ``SparseVariationalLinear``; a unit is an input channel.
        kl: As for ``SparseVariationalLinear``.
        init_log_variance: As for ``SparseVariationalLinear``.
        init_log_alpha: As for ``SparseVariationalLinear``.
        noise: As for ``SparseVariationalLinear``.
        log_alpha_threshold: As for ``SparseVariationalLinear``.
        kl_scale: Factor on this layer's KL divergence.

    Shape:  input ``(N, C, H, W)``, output ``(N, out_channels, H', W')``.
    Sites:  ``{module path}.weight``, event ``(out_channels, C / groups, h, w)``.

    References:
        Molchanov, Ashukha, Vetrov (2017), https://arxiv.org/abs/1701.05369.

    Example:
        >>> layer = SparseVariationalConv2d(1, 3, 5)
        >>> layer(torch.ones(2, 1, 8, 8)).shape
        torch.Size([2, 3, 4, 4])
    """

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
        granularity: Granularity = "weight",
        kl: Prior = "exact",
        init_log_variance: float | None = None,
        init_log_alpha: float | None = None,
        noise: Noise = "local",
        log_alpha_threshold: float = 3.0,
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
            granularity=granularity,
            kl=kl,
            init_log_variance=init_log_variance,
            init_log_alpha=init_log_alpha,
            noise=noise,
            log_alpha_threshold=log_alpha_threshold,
            kl_scale=kl_scale,
        )
        self.set_sizes(plain)
