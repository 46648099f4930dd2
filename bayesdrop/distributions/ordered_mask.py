"""Masks that open a prefix: each unit can only be kept if all the units before it are."""

from __future__ import annotations

from typing import Any, Self, cast

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.score_parts import ScoreParts
from torch import Tensor
from torch.distributions import constraints, register_kl
from torch.distributions.utils import lazy_property, logits_to_probs, probs_to_logits
from torch.nn.functional import logsigmoid, softplus
from typing_extensions import override

from bayesdrop.errors import ConfigError
from bayesdrop.ops import noise
from bayesdrop.typing import Shape


class _OrderedBoolean(constraints.Constraint):
    """Zeros and ones of which no one comes after a zero."""

    is_discrete = True
    event_dim = 1

    @override
    def check(self, value: Tensor) -> Tensor:
        exact = ((value == 0) | (value == 1)).all(-1)
        return exact & (value[..., 1:] <= value[..., :-1]).all(-1)


class _Falling(constraints.Constraint):
    """Numbers in [0, 1] that do not increase."""

    event_dim = 1

    @override
    def check(self, value: Tensor) -> Tensor:
        inside = ((value >= 0) & (value <= 1)).all(-1)
        return inside & (value[..., 1:] <= value[..., :-1]).all(-1)


FALLING = _Falling()


class OrderedMask(TorchDistribution):
    r"""Distribution of an ordered mask: a chain that, once closed, stays closed.

    .. math::
        P(z_1 = 1) = \beta_1, \quad P(z_k = 1 \mid z_{k-1} = 1) = \beta_k, \quad
        P(z_k = 1 \mid z_{k-1} = 0) = 0

        P(t) = (1 - \beta_{t+1}) \prod_{j \le t} \beta_j \ (t < D), \qquad
        P(D) = \prod_{j \le D} \beta_j, \qquad z_k = 1[k \le t]

    with :math:`t` the number of open units, the tail index.

    Args:
        probs: :math:`\beta`, each in [0, 1], ``(..., D)``. Give this or ``logits``.
        logits: :math:`\mathrm{logit}\,\beta`, ``(..., D)``. Give this or ``probs``.
        validate_args: Whether to check arguments and values.
        stratified: Whether the masks of one draw share its law out among them: of n masks each
            takes another of n equal slices of the law, in random order. Each alone has the law,
            together they are dependent: their mean over a batch varies less.

    Shape:  batch shape ``(...)``, event shape ``(D,)``.

    ``log_prob`` is linear in the tail's indicators, so that it has a gradient in a mask whose
    sample is straight-through.

    References:
        Cui, Liu, Li, Chan, Xue (2021), "Bayesian Nested Neural Networks for Uncertainty
        Calibration and Adaptive Compression", CVPR; Cui et al. (2023), "Variational Nested
        Dropout", https://arxiv.org/abs/2101.11353.

    Example:
        >>> z = OrderedMask(torch.full((4,), 0.9))
        >>> z.sample((3,)).shape, z.enumerate_support().shape
        (torch.Size([3, 4]), torch.Size([5, 4]))
    """

    arg_constraints = {
        "probs": constraints.independent(constraints.unit_interval, 1),
        "logits": constraints.independent(constraints.real, 1),
    }
    support = _OrderedBoolean()
    has_enumerate_support = True

    def __init__(
        self,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        *,
        validate_args: bool | None = None,
        stratified: bool = False,
    ) -> None:
        given = logits if probs is None else probs
        if given is None or (probs is not None and logits is not None) or given.ndim < 1:
            raise ConfigError(
                type(self).__name__,
                expected="exactly one of probs and logits, of at least one dimension",
                got="a number" if given is not None and given.ndim < 1 else "both or neither",
                hint="Pass one for each unit: OrderedMask(probs=torch.full((10,), 0.9)).",
            )
        if probs is not None:
            self.probs = probs
        else:
            self.logits = given
        self._param = given
        self.stratified = stratified
        super().__init__(given.shape[:-1], given.shape[-1:], validate_args=validate_args)

    @lazy_property
    def logits(self) -> Tensor:
        r"""Log-odds :math:`\mathrm{logit}\,\beta`; finite where a probability is 0 or 1."""
        return probs_to_logits(self.probs, is_binary=True)

    @lazy_property
    def probs(self) -> Tensor:
        r"""Probabilities :math:`\beta` that a unit is open if the one before it is."""
        return logits_to_probs(self.logits, is_binary=True)

    @override
    def expand(self, batch_shape: Shape, _instance: object = None) -> Self:
        new = self._get_checked_instance(type(self), _instance)
        new.stratified = self.stratified
        new._param = self._param.expand(torch.Size(batch_shape) + self.event_shape)
        setattr(
            new, "probs" if self._param is self.__dict__.get("probs") else "logits", new._param
        )
        super(OrderedMask, new).__init__(
            torch.Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    @property
    def log_tail_probs(self) -> Tensor:
        """Logarithm of the probability of 0, 1, ..., D open units, ``(..., D + 1)``."""
        log_open = logsigmoid(self.logits).cumsum(-1)
        log_reach = torch.cat([torch.zeros_like(log_open[..., :1]), log_open], -1)
        log_stop = torch.cat([logsigmoid(-self.logits), torch.zeros_like(log_open[..., :1])], -1)
        return log_reach + log_stop

    @property
    def tail_probs(self) -> Tensor:
        """Probability of 0, 1, ..., D open units, ``(..., D + 1)``; its sum is 1."""
        return self.log_tail_probs.exp()

    @property
    @override
    def mean(self) -> Tensor:
        if "probs" in self.__dict__:
            return self.probs.cumprod(-1)
        return logsigmoid(self.logits).cumsum(-1).exp()

    @property
    @override
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)

    @override
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        # The number of open units by its inverse survival function: one number for each mask.
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            u = self.quantiles(shape[:-1])
            return (u < self.mean).to(self._param.dtype).expand(shape)

    def quantiles(self, shape: Shape) -> Tensor:
        """Return the noise that decides how many units are open, from all (0) to none (1).

        Args:
            shape: Of the masks, ``(...)``; the result is ``(..., 1)``.
        """
        draw = noise.strata if self.stratified else noise.uniform
        return draw((*shape, 1), self._param)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return (_tail_indicators(value) * self.log_tail_probs).sum(-1)

    @override
    def enumerate_support(self, expand: bool = True) -> Tensor:
        (size,) = self.event_shape
        masks = torch.ones(size + 1, size, dtype=self._param.dtype, device=self._param.device)
        masks = masks.tril(-1).reshape((size + 1,) + (1,) * len(self.batch_shape) + (size,))
        return masks.expand((size + 1,) + self.batch_shape + (size,)) if expand else masks

    @override
    def entropy(self) -> Tensor:
        log_tail = self.log_tail_probs
        return -(log_tail.exp() * log_tail).sum(-1)

    def score_parts(self, x: Tensor, *args: Any, **kwargs: Any) -> ScoreParts:
        """Return Pyro's parts of the density; a value without a path of its own is enumerated."""
        if getattr(x, "_reparameterised", False):
            return super().score_parts(x, *args, **kwargs)
        log_prob = self.log_prob(x)
        return ScoreParts(log_prob, log_prob, 0)  # type: ignore[arg-type]


class OrderedMaskStraightThrough(OrderedMask):
    r"""Ordered mask whose samples are exact, with the gradient of a relaxed one.

    .. math::
        c = \mathrm{softmax}((\log P(t) + g) / \lambda), \quad g_t \sim \mathrm{Gumbel}, \qquad
        v_k = 1 - \sum_{t < k} c_t

    A sample is the mask of the largest :math:`c_t`, whose law is ``OrderedMask`` at every
    temperature; its gradient is that of :math:`v`, which is ``Downhill``.

    Args:
        temperature: :math:`\lambda > 0`, of the gradient alone.
        probs: :math:`\beta`, ``(..., D)``. Give this or ``logits``.
        logits: :math:`\mathrm{logit}\,\beta`, ``(..., D)``. Give this or ``probs``.
        validate_args: Whether to check arguments and values.

    Shape:  batch shape ``(...)``, event shape ``(D,)``.

    References:
        Jang, Gu, Poole (2017), https://arxiv.org/abs/1611.01144; Cui et al. (2021), as for
        ``OrderedMask``.
        Deviation: the Gumbel noise is added to log-probabilities. The authors' code adds it to
        probabilities, whose samples are nearly uniform over widths whatever is learned.

    Example:
        >>> z = OrderedMaskStraightThrough(2.0, logits=torch.zeros(4)).rsample((100,))
        >>> bool(((z == 0) | (z == 1)).all())
        True
    """

    has_rsample = True

    def __init__(
        self,
        temperature: Tensor | float,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.temperature = temperature
        if validate_args is not False and not bool(torch.as_tensor(temperature).gt(0).all()):
            raise ConfigError(
                type(self).__name__,
                expected="temperature > 0",
                got=f"temperature={temperature}",
                hint="The published value is 2.",
            )
        super().__init__(probs, logits, validate_args=validate_args)

    @override
    def expand(self, batch_shape: Shape, _instance: object = None) -> Self:
        new = super().expand(batch_shape, _instance)
        new.temperature = self.temperature
        return new

    @override
    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        log_tail = self.log_tail_probs.expand(shape[:-1] + (shape[-1] + 1,))
        gumbel = -(-noise.uniform(log_tail.shape, log_tail).log()).log()
        scores = log_tail + gumbel
        soft = prefix_mask(torch.softmax(scores / self.temperature, -1))
        index = scores.argmax(-1, keepdim=True)
        hard = (torch.arange(shape[-1], device=index.device) < index).to(soft.dtype)
        mask = hard + (soft - soft.detach())
        mask._reparameterised = True  # type: ignore[attr-defined]
        return mask

    @override
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)


class OrderedMaskInterpolated(OrderedMask):
    r"""Ordered mask with an unbiased pathwise gradient: a group may stand between open and closed.

    .. math::
        E[f(z)] = f(0) + \sum_{k=1}^{D} S_k\,[f(k) - f(k-1)], \quad S_k = P(t \ge k), \qquad
        f(k) - f(k-1) = \int_0^1 \frac{\partial f}{\partial z_k}(1, \dots, 1, u, 0, \dots, 0)\,du

    with :math:`f(k)` short for :math:`f` of the prefix of :math:`k` units. A sample's tail
    :math:`t` is drawn from its law; then neighbouring prefixes exchange half of the smaller of
    their probabilities: with probability :math:`\rho_k = \min(P(k-1), P(k))` the sample is
    :math:`k - 1` open units and :math:`z_k = u` uniform, with the gradient
    :math:`\nabla S_k / \rho_k`; else it is the prefix :math:`t`, without a gradient. So one
    evaluation of any :math:`f` that is absolutely continuous in the mask (a network with ReLUs,
    say) has the gradient of its mean over exact masks, without bias, and what is linear in the
    mask, such as ``log_prob``, has the same mean as under exact masks.

    Args:
        probs: :math:`\beta`, ``(..., D)``. Give this or ``logits``.
        logits: :math:`\mathrm{logit}\,\beta`, ``(..., D)``. Give this or ``probs``.
        validate_args: Whether to check arguments and values.
        stratified: As for ``OrderedMask``.

    Shape:  batch shape ``(...)``, event shape ``(D,)``.

    ``sample`` draws exact masks. Several orders in one network each have their gradient unbiased
    given the others as they are sampled, between two prefixes too.

    References:
        Straight-through gradients take the derivative at one end of the path for the integral; two
        ends are Heun's rule: Liu, Dong, Liu, Yu, Gao (2023), "Bridging Discrete and
        Backpropagation: Straight-Through and Beyond", https://arxiv.org/abs/2304.08612.

    Example:
        >>> z = OrderedMaskInterpolated(logits=torch.zeros(4)).rsample((100,))
        >>> bool((((z > 0) & (z < 1)).sum(-1) <= 1).all() and (z.diff(dim=-1) <= 0).all())
        True
    """

    support = FALLING  # type: ignore[assignment]
    has_rsample = True

    @override
    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        if self.stratified:
            u = self.quantiles(shape[:-1])
            v, place = noise.uniform((2, *shape[:-1], 1), self._param)
        else:
            u, v, place = noise.uniform((3, *shape[:-1], 1), self._param)
        return self.from_noise(u, v, place)

    def from_noise(self, u: Tensor, v: Tensor, place: Tensor) -> Tensor:
        """Return the sample of given uniform noise.

        Args:
            u: Decides on the tail, ``(..., 1)``.
            v: Decides whether a group stands between, likewise.
            place: Where it then stands, likewise.
        """
        shape = (*u.shape[:-1], *self.event_shape)
        log_open = logsigmoid(self.logits).cumsum(-1)
        with torch.no_grad():
            log_tail = self.log_tail_probs
        log_pair = torch.minimum(log_tail[..., :-1], log_tail[..., 1:])
        none = torch.zeros_like(log_pair[..., :1])
        to_next = torch.cat([0.5 * (log_pair - log_tail[..., :-1]).exp(), none], -1)
        to_last = torch.cat([none, 0.5 * (log_pair - log_tail[..., 1:]).exp()], -1)
        tail = (u < log_open.detach().exp()).sum(-1, keepdim=True)
        wide = (*shape[:-1], shape[-1] + 1)
        up = v < to_next.expand(wide).gather(-1, tail)
        down = v > 1 - to_last.expand(wide).gather(-1, tail)
        unit = torch.arange(1, shape[-1] + 1, device=tail.device)
        between = (unit == tail + up) & (up | down)
        mask = torch.where(between, place, (unit <= tail).to(place.dtype))
        slope = torch.where(between, (log_open.detach() - log_pair).exp(), 0.0)
        mask = mask + slope * (log_open - log_open.detach())
        mask._reparameterised = True  # type: ignore[attr-defined]
        return mask


def prefix_mask(tail: Tensor) -> Tensor:
    """Return the mask of weights of the tail index 0..D: unit ``k`` has the weight of ``t >= k``.

    Args:
        tail: Weights that sum to 1, ``(..., D + 1)``.

    Returns:
        The mask, not increasing, ``(..., D)``.
    """
    return tail.flip(-1).cumsum(-1).flip(-1)[..., 1:]


def _tail_indicators(mask: Tensor) -> Tensor:
    one, zero = torch.ones_like(mask[..., :1]), torch.zeros_like(mask[..., :1])
    return torch.cat([one, mask], -1) - torch.cat([mask, zero], -1)


def chain_kl(q_logits: Tensor, p_logits: Tensor) -> Tensor:
    r"""Return the KL divergence of two chains from their log-odds, ``(...)``.

    .. math::
        \sum_k \Bigl(\prod_{j<k} \beta_j\Bigr) \Bigl[\beta_k \log\frac{\beta_k}{\pi_k}
        + (1 - \beta_k) \log\frac{1 - \beta_k}{1 - \pi_k}\Bigr]

    Args:
        q_logits: Log-odds of :math:`\beta`, ``(..., D)``.
        p_logits: Log-odds of :math:`\pi`, ``(..., D)``.
    """
    log_open = logsigmoid(q_logits).cumsum(-1)
    reach = torch.cat([torch.zeros_like(log_open[..., :1]), log_open[..., :-1]], -1).exp()
    # log(beta / pi) = softplus(-p) - softplus(-q), which also differ where they are tiny.
    on = softplus(-p_logits) - softplus(-q_logits)
    off = softplus(p_logits) - softplus(q_logits)
    beta = torch.sigmoid(q_logits)
    return (reach * (beta * on + (1 - beta) * off)).sum(-1)


@register_kl(OrderedMask, OrderedMask)
def _kl_ordered_ordered(q: OrderedMask, p: OrderedMask) -> Tensor:
    return chain_kl(*cast(Any, torch.broadcast_tensors(q.logits, p.logits)))
