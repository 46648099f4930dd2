"""Targeted dropout of weights: only the smallest are dropped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal, TypeAlias, get_args

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.distributions.masked_delta import MaskedDelta
from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.nn.arguments import is_real
from bayesdrop.nn.catalogue import register
from bayesdrop.nn.masks.targeted import check_shares
from bayesdrop.nn.weight import BayesianWeights, Noise
from bayesdrop.ops.smallest import smallest
from bayesdrop.typing import SharedBy

Granularity: TypeAlias = Literal["weight", "unit"]
"""What is a candidate: a small weight, or all weights of a unit with small ones."""


@register
class TargetedDropconnect(BayesianWeights):
    r"""Targeted weight dropout: of the smallest weights, each is dropped at a rate.

    .. math:: p(w) = q(w), \qquad w_{oi} = \theta_{oi} z_{oi}, \quad
              z_{oi} \sim \mathrm{Bernoulli}(1 - \alpha\, c_{oi})

    where the candidates :math:`c` are, for each output unit :math:`o`, the share :math:`\gamma` of
    its weights with the smallest :math:`\lvert \theta_{oi} \rvert`, found anew in every pass. What
    is kept is not rescaled, and gradients reach only weights that are kept. Nothing about the mask
    is learned: its KL divergence is exactly zero. The network can then be pruned by magnitude at
    little cost (``bd.compression.sweep_magnitudes``).

    With :math:`\alpha = 0` or :math:`\gamma = 0` it is a plain layer, with :math:`\gamma = 1`
    dropconnect without the rescaling, and with :math:`\alpha = 1` a layer that is pruned by
    magnitude all along.

    Args:
        layer: The ``nn.Linear`` or ``nn.Conv1d/2d/3d`` whose place it takes; it is not changed.
        drop_prob: :math:`\alpha` in [0, 1]. ``fit`` can schedule it, and the share.
        targeted_share: :math:`\gamma` in [0, 1].
        granularity: ``"weight"``, or ``"unit"``: all weights of the output units with the smallest
            norms are candidates, each by itself, as the authors' code does for units. For whole
            units there is ``TargetedDropout``.
        threshold: Weights with a keep probability below this are pruned in evaluation mode. With 0
            (published) nothing is, unless ``drop_prob`` is 1; with anything above
            :math:`1 - \alpha` all candidates are.
        noise: ``"weights"`` (the default) draws the weights; ``"local"`` draws the pre-activations
            from the normal distribution with the right mean and variance, an approximation.
        shared_by: ``"batch"`` (the default, and published) is one draw of the weights for all
            examples of a call; ``"example"`` one for each.
        kl_scale: Has nothing to scale.

    Shape:  input and output as those of ``layer``.
    Sites:  ``{module path}.weight``, of the weight's shape as event shape.

    References:
        Gomez, Zhang, Kamalakara, Madaan, Swersky, Gal, Hinton (2019), "Learning Sparse Networks
        Using Targeted Dropout", https://arxiv.org/abs/1905.13678, section 3.
        Deviation: weights as large as the largest candidate are candidates too.

    Example:
        >>> layer = TargetedDropconnect(nn.Linear(4, 3), drop_prob=1.0, targeted_share=0.75)
        >>> int(layer.kept().sum())
        3
    """

    key: ClassVar[str] = "targeted-dropconnect"
    reference: ClassVar[str] = "Gomez et al. (2019), https://arxiv.org/abs/1905.13678"

    schedulable: ClassVar[tuple[str, ...]] = ("drop_prob", "targeted_share")
    always_shown: ClassVar[tuple[str, ...]] = ("drop_prob", "targeted_share")
    fixed_rate: ClassVar[bool] = True

    drop_prob: Tensor
    targeted_share: Tensor

    def __init__(
        self,
        layer: nn.Module,
        *,
        drop_prob: float = 0.5,
        targeted_share: float = 0.5,
        granularity: Granularity = "weight",
        threshold: float = 0.0,
        noise: Noise = "weights",
        shared_by: SharedBy | None = None,
        kl_scale: float = 1.0,
    ) -> None:
        super().__init__(layer, noise=noise, shared_by=shared_by, kl_scale=kl_scale)
        who = type(self).__name__
        check_shares(who, drop_prob, targeted_share)
        if granularity not in get_args(Granularity):
            raise unknown_name(f"granularity of {who}", granularity, get_args(Granularity))
        if not is_real(threshold) or not 0.0 <= threshold < 1.0:
            raise ConfigError(
                who,
                expected="0 <= threshold < 1",
                got=f"threshold={threshold!r}",
                hint="0 prunes nothing.",
            )
        self.granularity, self.threshold = granularity, threshold
        self.register_buffer("drop_prob", self.weight.new_full((), float(drop_prob)))
        self.register_buffer("targeted_share", self.weight.new_full((), float(targeted_share)))

    @torch.no_grad()
    def candidates(self) -> Tensor:
        """Return which weights may be dropped, as they are, of the weight's shape."""
        by_output = self.weight.detach().flatten(1)
        if self.granularity == "unit":
            units = smallest(by_output.norm(dim=1), self.targeted_share)
            found = units[:, None].expand_as(by_output)
        else:
            found = smallest(by_output.abs(), self.targeted_share)
        return found.reshape(self.weight.shape)

    def keep_prob(self) -> Tensor:
        """Return the probability that each weight is kept, of the weight's shape."""
        return 1 - self.drop_prob * self.candidates()

    @override
    def posterior(self) -> dict[str, TorchDistribution]:
        weights = MaskedDelta(self.weight, self.keep_prob(), validate_args=False)
        return {"weight": weights.to_event(self.weight.ndim)}

    @override
    def prior(self) -> dict[str, TorchDistribution]:
        return self.posterior()

    @override
    def kl_divergence(
        self,
        posterior: Mapping[str, TorchDistribution] | None = None,
        *,
        prior: Mapping[str, TorchDistribution] | None = None,
    ) -> Tensor:
        # Of a distribution from itself, without a look at each weight.
        return self.weight.new_zeros(())

    @override
    def weight_moments(self) -> tuple[Tensor, Tensor]:
        keep = self.keep_prob()
        return self.weight * keep, self.weight.square() * keep * (1 - keep)

    @override
    @torch.no_grad()
    def kept(self) -> Tensor:
        keep = self.keep_prob()
        return (keep >= self.threshold) & (keep > 0)

    @override
    def mean_parameters(self) -> Iterator[nn.Parameter]:
        """Yield nothing: the weights are points, and weight decay is their prior."""
        return iter(())
