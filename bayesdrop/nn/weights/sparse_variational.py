"""Sparse variational dropout: Gaussian weights that are pruned where their noise wins."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, TypeAlias, get_args

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.distributions import LogUniform, Normal
from bayesdrop.distributions.log_uniform import summed_kl
from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.nn.arguments import is_real
from bayesdrop.nn.catalogue import register
from bayesdrop.nn.latents import is_own
from bayesdrop.nn.weight import BayesianWeights, Noise
from bayesdrop.typing import SharedBy

Granularity: TypeAlias = Literal["weight", "unit", "layer"]
"""What shares one noise-to-signal ratio, see ``SparseVariational``."""
Prior: TypeAlias = Literal["exact", "fit", "cubic", "hierarchical"]
"""Prior and its KL divergence, see ``SparseVariational``."""
MeanPath: TypeAlias = Literal["posterior", "pruned"]
"""Which mean weights training runs through, see ``SparseVariational``."""

_INIT_LOG_VARIANCE = -10.0
_INIT_LOG_ALPHA = -2.0
_LEAST_VARIANCE = 1e-38
_TINY = 1e-16  # of a squared weight: a ratio of two zeros has no value


@register
class SparseVariational(BayesianWeights):
    r"""Sparse variational dropout of the weights of a Linear layer or a convolution.

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

    independently for every pixel of a convolution, which is the usual approximation: the
    distribution at one pixel is exact, while under the model nearby pixels share weights.
    Without a rising KL weight (``fit(kl_weight=schedules.warm_up(...))``) a network from scratch
    prunes everything before it has learned anything. Variances that learn much faster than means
    (``fit(variational_learning_rate=...)``; published: as fast) may come to carry the answer
    instead of them, and then the mean weights are worse than those sampled.

    **The published figures** (68 and 280 times fewer weights on MNIST) come from a training rule
    that is not the ELBO of this posterior, ``mean_path="pruned"``: the mean of a weight whose
    :math:`\log \alpha` is above the threshold is zero in training too, while its variance stays.
    Such a weight has no gradient from the data in its mean, only that of the divergence, which
    drives the mean to zero: it hardly ever comes back. The divergence is that of the whole
    posterior and counts once, the Pyro model draws the weights from it, and evaluation is the
    same for both rules.

    Args:
        layer: The ``nn.Linear`` or ``nn.Conv1d/2d/3d`` whose place it takes; it is not changed.
        granularity: ``"weight"``: every weight has a variance of its own. ``"unit"`` and
            ``"layer"``: all weights of an input unit (of a convolution with groups: of its place
            in each group), or of the layer, share :math:`\alpha`; Gaussian dropout with a learned
            rate.
        prior: ``"exact"``: log-uniform prior, exact divergence. ``"fit"``: its published
            approximation, as fast. ``"cubic"``: Kingma's, which holds :math:`\alpha \le 1`, so
            that nothing is pruned; with ``granularity`` the three forms of variational dropout.
            ``"hierarchical"``: a normal prior of the variance that fits best,
            :math:`\mathcal N(0, \theta^2 + \sigma^2)`, a proper prior with the divergence
            :math:`\frac12 \log(1 + 1/\alpha)`.
        init_log_variance: Initial :math:`\log \sigma^2`, for ``granularity="weight"``; default
            -10.
        init_log_alpha: Initial :math:`\log \alpha`, for the others; default -2.
        noise: ``"local"`` or ``"weights"``, see ``BayesianWeights``.
        shared_by: ``"example"`` or ``"batch"``, see ``BayesianWeights``.
        log_alpha_threshold: Weights whose :math:`\log \alpha` is above this are pruned.
        mean_path: ``"posterior"``: training draws from the posterior, and minimises the ELBO.
            ``"pruned"``: the published rule above, which is not the ELBO; for local noise.
        kl_scale: Factor on this layer's KL divergence.

    Shape:  input and output as those of ``layer``.
    Sites:  ``{module path}.weight``, of the weight's shape as event shape.

    References:
        Molchanov, Ashukha, Vetrov (2017), "Variational Dropout Sparsifies Deep Neural Networks",
        https://arxiv.org/abs/1701.05369.
        Kingma, Salimans, Welling (2015), "Variational Dropout and the Local Reparameterization
        Trick", https://arxiv.org/abs/1506.02557.
        Deviations: the divergence is exact; the authors' code clamps :math:`\log \alpha` to
        [-8, 8], also in the noise, and zeroes pruned means during training (``train_clip``,
        here ``mean_path="pruned"``); here the objective is by default the ELBO of this posterior.

    Example:
        >>> layer = SparseVariational(nn.Linear(4, 3))
        >>> layer(torch.ones(2, 4)).shape, layer.log_alpha().shape
        (torch.Size([2, 3]), torch.Size([3, 4]))
        >>> SparseVariational(nn.Conv1d(1, 3, 5))(torch.ones(2, 1, 8)).shape
        torch.Size([2, 3, 4])
    """

    key: ClassVar[str] = "sparse-variational"
    reference: ClassVar[str] = (
        "Molchanov, Ashukha, Vetrov (2017), https://arxiv.org/abs/1701.05369"
    )

    def __init__(
        self,
        layer: nn.Module,
        *,
        granularity: Granularity = "weight",
        prior: Prior = "exact",
        init_log_variance: float | None = None,
        init_log_alpha: float | None = None,
        noise: Noise = "local",
        shared_by: SharedBy | None = None,
        log_alpha_threshold: float = 3.0,
        mean_path: MeanPath = "posterior",
        kl_scale: float = 1.0,
    ) -> None:
        super().__init__(layer, noise=noise, shared_by=shared_by, kl_scale=kl_scale)
        who = type(self).__name__
        if granularity not in get_args(Granularity):
            raise unknown_name(f"granularity of {who}", granularity, get_args(Granularity))
        if prior not in get_args(Prior):
            raise unknown_name(f"prior of {who}", prior, get_args(Prior))
        if mean_path not in get_args(MeanPath):
            raise unknown_name(f"mean_path of {who}", mean_path, get_args(MeanPath))
        if mean_path == "pruned" and noise != "local":
            raise ConfigError(
                who,
                expected="noise='local' for mean_path='pruned'",
                got=f"{noise=}",
                hint="The rule cuts means beside variances; weights drawn whole have neither.",
            )
        numbers = (log_alpha_threshold, init_log_variance or 0.0, init_log_alpha or 0.0)
        if not all(is_real(value) and not math.isnan(value) for value in numbers):
            raise ConfigError(
                who,
                expected="a log_alpha_threshold that is a number, and initial values, if any",
                got=f"{log_alpha_threshold=}, {init_log_variance=}, {init_log_alpha=}",
                hint="The defaults are 3, -10 and -2.",
            )
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
        self.granularity, self.prior_law, self.mean_path = granularity, prior, mean_path
        self.log_alpha_threshold = log_alpha_threshold
        if by_weight:
            start = _INIT_LOG_VARIANCE if init_log_variance is None else init_log_variance
            self.log_variance = nn.Parameter(torch.full_like(self.weight, start))
        else:
            start = _INIT_LOG_ALPHA if init_log_alpha is None else init_log_alpha
            sizes = [1] * self.weight.ndim
            sizes[1] = self.weight.shape[1] if granularity == "unit" else 1
            self.log_alpha_shared = nn.Parameter(self.weight.new_full(sizes, start))

    def log_alpha(self) -> Tensor:
        r"""Return :math:`\log \alpha = \log \sigma^2 - \log \theta^2` of each weight."""
        if self.granularity != "weight":
            return self._shared_log_alpha().expand_as(self.weight)
        tiny = torch.finfo(self.weight.dtype).tiny
        log_alpha = self.log_variance - self.weight.square().clamp(min=tiny).log()
        return log_alpha.clamp(max=0.0) if self.prior_law == "cubic" else log_alpha

    @override
    def weight_moments(self) -> tuple[Tensor, Tensor]:
        if self.granularity == "weight":
            variance = self.log_variance.exp()
            if self.prior_law == "cubic":  # which knows alpha <= 1 only
                variance = torch.minimum(variance, self.weight.square() + _TINY)
            return self.weight, variance
        return self.weight, self._shared_log_alpha().exp() * (self.weight.square() + _TINY)

    @override
    def moments_in_training(self) -> tuple[Tensor, Tensor]:
        mean, variance = self.weight_moments()
        return mean if self.mean_path == "posterior" else self.mean_weight(), variance

    def _shared_log_alpha(self) -> Tensor:
        shared: Tensor = self.log_alpha_shared
        return shared.clamp(max=0.0) if self.prior_law == "cubic" else shared

    @override
    def posterior(self) -> dict[str, TorchDistribution]:
        mean, variance = self.weight_moments()
        # A variance that has underflowed, as in 16 bits, has no gradient, and no infinite one.
        info = torch.finfo(variance.dtype)
        scale = variance.clamp(min=max(info.tiny * info.eps, _LEAST_VARIANCE)).sqrt()
        fn = Normal(mean, scale, validate_args=False)
        return {"weight": fn.to_event(mean.ndim)}

    @override
    def prior(self) -> dict[str, TorchDistribution]:
        fn: TorchDistribution | None = self.previous_weight()
        if fn is not None:
            return {"weight": fn.to_event(self.weight.ndim)}
        if self.prior_law == "hierarchical":
            mean, variance = self.weight_moments()
            scale = (mean.square() + variance).sqrt()
            fn = Normal(torch.zeros_like(scale), scale, validate_args=False)
        else:
            fn = LogUniform(self.weight.shape, divergence=self.prior_law, validate_args=False)
        return {"weight": fn.to_event(self.weight.ndim)}

    @override
    def kl_divergence(
        self,
        posterior: Mapping[str, TorchDistribution] | None = None,
        *,
        prior: Mapping[str, TorchDistribution] | None = None,
    ) -> Tensor:
        own = is_own(type(self), "kl_divergence", "prior", "posterior", "penalty")
        improper = self.prior_law == "exact" and self.previous_weight() is None
        if not own or self.granularity != "weight" or not improper:
            return super().kl_divergence(posterior, prior=prior)
        return self.kl_scale * summed_kl(self.weight, self.log_variance)

    @override
    @torch.no_grad()
    def kept(self) -> Tensor:
        return self.log_alpha() <= self.log_alpha_threshold
