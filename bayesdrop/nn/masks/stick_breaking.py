"""Stick-breaking: the sticks of an Indian buffet process, and layers whose units are ordered."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pyro.distributions import Beta, TorchDistribution
from torch import Tensor
from typing_extensions import override

from bayesdrop.errors import ConfigError, TruncationWarning
from bayesdrop.nn.arguments import is_whole, shown_arguments
from bayesdrop.nn.latents import JointDraw, LatentOwner, extend_tensor
from bayesdrop.nn.masks.bernoulli import BernoulliDropout
from bayesdrop.nn.masks.importance import importance_ranks
from bayesdrop.nn.masks.kumaraswamy_posterior import KumaraswamyPosterior, Parametrization
from bayesdrop.nn.masks.relaxation import Relaxation
from bayesdrop.ops.memo import Memo
from bayesdrop.typing import Latents

DEFAULT_CONCENTRATION = 10.0
"""Of the sticks, where none is given."""

_KEPT = 5 / 6


class IndianBuffetSticks(KumaraswamyPosterior):
    r"""The sticks of an Indian buffet process and their posterior.

    .. math::
        p(v_j) = \mathrm{Beta}(\alpha, 1), \quad \pi_k = \prod_{j \le k} v_j
        \qquad
        q(v_j) = \mathrm{Kumaraswamy}(a_j, b_j)

    ``IndianBuffetDropout`` has its own; ``HierarchicalIndianBuffetDropout`` layers share one.

    Args:
        num_sticks: Number of sticks :math:`K`, the truncation.
        concentration: Mass :math:`\alpha > 0`: the expected number of features of an example.
        init_concentration1: Initial :math:`a > 0`. None starts with all units kept:
            :math:`E[\pi_K] = 5/6`.
        init_concentration0: Initial :math:`b > 0`.
        kl_scale: Factor on the KL divergence of the sticks.
        parametrization: What is learned of the posterior: ``"location"``, a location and a shape,
            or ``"log"``, the logarithms of :math:`a` and :math:`b`. See ``KumaraswamyPosterior``.

    Sites:  ``{module path}.v``, event ``(K,)``.

    Raises:
        ConfigError: If there is no stick, or an argument is not positive and finite.

    Example:
        >>> IndianBuffetSticks(4, concentration=2.0).keep_prob().shape
        torch.Size([4])
    """

    unit_word: ClassVar[str] = "sticks"

    concentration: Tensor

    def __init__(
        self,
        num_sticks: int,
        *,
        concentration: float = DEFAULT_CONCENTRATION,
        init_concentration1: float | None = None,
        init_concentration0: float = 1.0,
        kl_scale: float = 1.0,
        parametrization: Parametrization = "location",
    ) -> None:
        super().__init__()
        who = type(self).__name__
        if not is_whole(num_sticks) or num_sticks < 1:
            raise ConfigError(
                who,
                expected="at least 1 stick",
                got=f"num_sticks={num_sticks!r}",
                hint="Pass the number of units of the widest layer.",
            )
        if init_concentration1 is None:
            init_concentration1 = concentration_of_kept(num_sticks, _KEPT)
        check_positive(
            who,
            concentration=concentration,
            init_concentration1=init_concentration1,
            init_concentration0=init_concentration0,
            kl_scale=kl_scale,
        )
        self.num_sticks = num_sticks
        self.kl_scale = kl_scale
        self._start_posterior(
            num_sticks, parametrization, a=init_concentration1, b=init_concentration0
        )
        self._memo = Memo()
        self.register_buffer("concentration", torch.full((), concentration))

    @override
    def prior(self) -> dict[str, TorchDistribution]:
        previous = self._previous()
        if previous is not None:
            return {"v": previous.to_event(1)}
        prior = Beta(self.concentration, torch.ones_like(self.concentration), validate_args=False)
        return {"v": prior.expand([self.num_sticks]).to_event(1)}

    @override
    def posterior(self) -> dict[str, TorchDistribution]:
        return {"v": self._kumaraswamy().to_event(1)}

    @classmethod
    @override
    def draw_jointly(
        cls,
        owners: Sequence[IndianBuffetSticks],
        *,
        drawn: Mapping[LatentOwner, Latents],
        rows: int | None,
    ) -> JointDraw | None:
        return draw_sticks(owners, owners)

    @override
    def kept(self) -> Tensor:
        """Return that every stick is: only the units behind them are pruned."""
        return torch.ones(self.num_sticks, dtype=torch.bool, device=self.concentration.device)

    @override
    def grow(self, num_units: int) -> bool:
        """Get more sticks, behind the others, under the prior."""
        c = self.concentration
        self._extend_posterior(num_units, c=c, a=float(c), b=1.0)
        self.num_sticks += num_units
        return True

    def keep_prob(self) -> Tensor:
        r"""Return :math:`E_q[\pi_k]`, the product of the means of independent sticks, ``(K,)``."""
        parameters = self.posterior_parameters()
        return self._memo(lambda: self._kumaraswamy().log_mean.cumsum(-1).exp(), *parameters)

    def extra_repr(self) -> str:
        """Show the number of sticks, and every argument that is not the default."""
        options = shown_arguments(self, self._given)
        return f"{self.num_sticks}, {options}" if options else f"{self.num_sticks}"


def draw_sticks(
    owners: Sequence[LatentOwner], sticks: Sequence[IndianBuffetSticks]
) -> JointDraw | None:
    """Draw the sticks of several owners at once, with the owners' factors on the divergences.

    Args:
        owners: What owns the sticks: themselves, or the layers of which they are a part.
        sticks: Those of each owner.
    """
    concentrations = [s.concentration for s in sticks]
    draw = IndianBuffetSticks.draw_together(
        sticks, concentrations, [owner.kl_scale for owner in owners]
    )
    if draw is None:
        return None
    values = zip(owners, draw.values, strict=True)
    return JointDraw({owner: {"v": v} for owner, v in values}, draw.kl)


class StickBreakingDropout(BernoulliDropout):
    """Abstract layer whose units are ordered: the k-th stick's unit needs all sticks before.

    Args:
        num_units: Number of units :math:`K`.
        unit_dim: The masked dimension: -1 for features, -3 for convolution maps.
        batch_dim: The dimension of the examples, counted from the first.
        threshold: Units with a keep probability below this are pruned.
        kl_scale: Factor on this layer's KL divergence.
        temperature: Temperature of the relaxed mask, > 0.
        relaxation: ``"concrete"``, or ``"straight-through"`` for masks of exactly 0 and 1.
    """

    rank: Tensor
    sticks: IndianBuffetSticks
    """What the keep probabilities are made of, the layer's own or what layers share."""

    def __init__(
        self,
        num_units: int,
        *,
        unit_dim: int,
        batch_dim: int,
        threshold: float,
        kl_scale: float,
        temperature: float,
        relaxation: Relaxation,
    ) -> None:
        super().__init__(
            num_units,
            unit_dim=unit_dim,
            batch_dim=batch_dim,
            threshold=threshold,
            kl_scale=kl_scale,
            temperature=temperature,
            relaxation=relaxation,
        )
        self.register_buffer("rank", torch.arange(num_units))

    @override
    def order_curves(self) -> tuple[Tensor, Tensor]:
        return self.sticks.posterior()["v"].mean, self.keep_prob()[self.rank.argsort()]

    @override
    def rank_units(self, importance: Tensor | Sequence[float]) -> None:
        """Give the first stick to the most important unit, and so on; ties keep their order.

        Without it unit ``k`` has stick ``k``, which is as good as any order for untrained weights.
        Before a trained ``linear``, say: ``layer.rank_units(linear.weight.norm(dim=0))``.

        Args:
            importance: A number for each unit, such as the norm of its weights, shape ``(K,)``.

        Raises:
            ShapeError: If there is not one number for each unit.
            ConfigError: If one is NaN.

        Example:
            >>> import bayesdrop as bd
            >>> layer = bd.IndianBuffetDropout(3)
            >>> layer.rank_units([0.1, 5.0, 2.0])
            >>> layer.rank
            tensor([2, 0, 1])
        """
        self.rank.copy_(importance_ranks(self.name, importance, self.num_units, self.rank.device))

    def _grow_ranks(self, num_units: int) -> None:
        new = torch.arange(self.num_units, self.num_units + num_units)
        extend_tensor(self, "rank", new)
        self.num_units += num_units

    @torch.no_grad()
    def check_posterior(self) -> None:
        """Warn if the last unit is kept, so that the data may want more; ``fit`` calls it."""
        last = float(self.keep_prob()[self.rank.argmax()])
        if last >= self.threshold:
            warnings.warn(
                f"{self.name}: expected the last of its {self.num_units} units to be pruned "
                f"(keep probability < threshold={self.threshold:g}), got {last:.2g}. If it is "
                "still falling, train for longer; otherwise the data want more units than there "
                "are: use a wider layer (bd.nn.widen), or a smaller concentration.",
                TruncationWarning,
                stacklevel=2,
            )


def concentration_of_kept(num_sticks: int, keep_prob: float) -> float:
    """Return the concentration a of every stick, for b = 1, at which the last unit is so kept."""
    # E[pi_K] = (a / (a + 1))^K.
    return 1 / math.expm1(-math.log(keep_prob) / num_sticks)


def log_stick_products(v: Tensor) -> Tensor:
    r"""Return :math:`\log \pi_k = \sum_{j \le k} \log v_j` along the last dimension, below zero.

    In log space: the product of some ten short sticks is below the smallest float. A stick below
    that number's square root counts as the root, which no mask can tell from zero; the derivative
    of its logarithm would overflow.
    """
    info = torch.finfo(v.dtype)
    return v.clamp(min=math.sqrt(info.tiny), max=1 - info.eps).log().cumsum(-1)


def check_positive(who: str, **values: float) -> None:
    """Raise ``ConfigError`` if one of the named values is not positive and finite."""
    for name, value in values.items():
        if not 0.0 < value < math.inf:
            raise ConfigError(
                who,
                expected=f"{name} > 0 and finite",
                got=f"{name}={value}",
                hint="The concentration is the number of units an example should use; "
                "start from the other defaults.",
            )
