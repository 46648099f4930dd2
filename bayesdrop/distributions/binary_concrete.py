"""The binary concrete (relaxed Bernoulli) distribution, in logit space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self, cast

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import (
    broadcast_all,
    lazy_property,
    logits_to_probs,
    probs_to_logits,
)
from torch.nn.functional import softplus
from typing_extensions import override

from bayesdrop.errors import ConfigError
from bayesdrop.ops import noise
from bayesdrop.ops.transforms import plain_gradients, takes_plain_operations
from bayesdrop.typing import Shape


class BinaryConcrete(TorchDistribution):
    r"""Binary concrete distribution: a Bernoulli relaxed to the open unit interval.

    .. math::
        z = \sigma(y), \qquad y = (\ell + \log u - \log(1 - u)) / \lambda, \quad u \sim U(0, 1)

        \log p(z) = \log\lambda + (\ell - \lambda y) - 2\,\mathrm{softplus}(\ell - \lambda y)
        - \log z - \log(1 - z)

    Args:
        temperature: :math:`\lambda > 0`; at 0 the distribution is Bernoulli.
        probs: :math:`\sigma(\ell)`, the probability that ``z > 1/2``. Give this or ``logits``.
        logits: :math:`\ell`. Give this or ``probs``.
        validate_args: Whether to check arguments and values.

    Shape:  batch shape is the broadcast shape of the arguments, event shape ``()``.

    Samples are clamped to ``[eps, 1 - eps]`` of the dtype in logit space. This is far more than
    numerical hygiene: at low temperature unclamped samples are denormal numbers, which make every
    later matrix product several times slower on a CPU.

    References:
        Maddison, Mnih, Teh (2017), https://arxiv.org/abs/1611.00712;
        Jang, Gu, Poole (2017), https://arxiv.org/abs/1611.01144.

    Example:
        >>> BinaryConcrete(0.1, logits=torch.zeros(3)).rsample((2,)).shape
        torch.Size([2, 3])
    """

    arg_constraints = {
        "temperature": constraints.positive,
        "probs": constraints.unit_interval,
        "logits": constraints.real,
    }
    support = constraints.unit_interval
    has_rsample = True

    def __init__(
        self,
        temperature: Tensor | float,
        probs: Tensor | float | None = None,
        logits: Tensor | float | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        if (probs is None) == (logits is None):
            raise ConfigError(
                type(self).__name__,
                expected="exactly one of probs and logits",
                got="both" if probs is not None else "neither",
                hint="Pass probs=... or logits=....",
            )
        if logits is None:
            self.temperature, self.probs = broadcast_all(temperature, cast(Tensor, probs))
            self._param = self.probs
        else:
            self.temperature, self.logits = broadcast_all(temperature, logits)
            self._param = self.logits
        super().__init__(self._param.shape, validate_args=validate_args)

    @lazy_property
    def logits(self) -> Tensor:
        """Log-odds that ``z > 1/2``."""
        return probs_to_logits(self.probs, is_binary=True)

    @lazy_property
    def probs(self) -> Tensor:
        """Probability that ``z > 1/2``."""
        return logits_to_probs(self.logits, is_binary=True)

    @override
    def expand(self, batch_shape: Shape, _instance: object = None) -> Self:
        new = self._get_checked_instance(type(self), _instance)
        new.temperature = self.temperature.expand(batch_shape)
        name = "probs" if "probs" in self.__dict__ and self._param is self.probs else "logits"
        new._param = self._param.expand(batch_shape)
        setattr(new, name, new._param)
        super(BinaryConcrete, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample_logits(self, sample_shape: Shape = ()) -> Tensor:
        r"""Draw :math:`y = \mathrm{logit}\,z`, without the clamp."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return (self.logits + noise.logistic(shape, self.logits)) / self.temperature

    @override
    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        if takes_plain_operations():
            y = self.rsample_logits(sample_shape)
            bound = _largest_logit(y)
            return torch.sigmoid(y + (y.clamp(-bound, bound) - y).detach())
        return _Sample.apply(self.logits.expand(shape), self.temperature.expand(shape))

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        eps = torch.finfo(self.logits.dtype).eps
        y = torch.logit(value, eps=eps)
        shifted = self.logits - self.temperature * y
        log_density = self.temperature.log() + shifted - 2 * softplus(shifted)
        # -log z - log(1 - z), from the logit.
        return log_density + softplus(y) + softplus(-y)

    @override
    def cdf(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return torch.sigmoid(self.temperature * torch.logit(value) - self.logits)

    @override
    def icdf(self, value: Tensor) -> Tensor:
        return torch.sigmoid((self.logits + torch.logit(value)) / self.temperature)


def _largest_logit(like: Tensor) -> float:
    return -math.log(torch.finfo(like.dtype).eps)


class _Sample(torch.autograd.Function):
    # sigmoid((logits + noise) / temperature), clamped, in one buffer: for masks, whose size is the
    # batch's, the time goes into memory.
    @staticmethod
    def forward(ctx: Any, logits: Tensor, temperature: Tensor) -> Tensor:
        bound = _largest_logit(logits)
        y = noise.logistic(logits.shape, logits).add_(logits).div_(temperature)
        z = y.clamp_(-bound, bound).sigmoid_()
        ctx.save_for_backward(z, temperature)
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None]:
        z, temperature = ctx.saved_tensors
        grad = (1 - z).mul_(z).mul_(grads[0]).div_(temperature)
        return grad, -grad * torch.logit(z) if ctx.needs_input_grad[1] else None


def relaxed_product(
    x: Tensor, logits: Tensor, temperature: Tensor, mask_shape: torch.Size, aligned: Shape
) -> tuple[Tensor, Tensor]:
    r"""Return :math:`x z` and a relaxed mask :math:`z`, as one operation with its gradients.

    It is ``x * BinaryConcrete(temperature, logits=logits).rsample()`` for the same noise, with
    fewer passes over memory.

    Args:
        x: What is masked.
        logits: Log-odds; they broadcast to the mask.
        temperature: Without a gradient.
        mask_shape: Shape of the mask.
        aligned: The mask's shape as it broadcasts against ``x``.
    """
    return _RelaxedProduct.apply(x, logits, temperature, mask_shape, aligned)


class _RelaxedProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, logits: Tensor, temperature: Tensor, shape: torch.Size, aligned: Shape
    ) -> tuple[Tensor, Tensor]:
        bound, rate = _largest_logit(logits), temperature.reciprocal()
        y = noise.logistic(shape, logits).add_(logits).mul_(rate)
        z = y.clamp_(-bound, bound).sigmoid_()
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, logits, z, rate)
        ctx.aligned = aligned
        return x * z.view(aligned), z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, logits, z, rate = ctx.saved_tensors
        of_product, of_mask = grads
        if torch.is_grad_enabled():
            return *_plain_gradients(x, logits, z, rate, ctx.aligned, grads), None, None, None
        grad_x = grad_logits = None
        if ctx.needs_input_grad[0] and of_product is not None:
            grad_x = (of_product * z.view(ctx.aligned)).sum_to_size(x.shape)
        if ctx.needs_input_grad[1] and any(grad is not None for grad in grads):
            slope = torch.addcmul(z, z, z, value=-1)
            if of_product is None:
                of_z = cast(Tensor, of_mask)
            else:
                of_z = (of_product * x).sum_to_size(ctx.aligned).view(z.shape)
                of_z = of_z if of_mask is None else of_z.add_(of_mask)
            slope.mul_(of_z)
            grad_logits = slope.sum_to_size(logits.shape).mul_(rate)
        return grad_x, grad_logits, None, None, None


def _plain_gradients(
    x: Tensor,
    logits: Tensor,
    z: Tensor,
    rate: Tensor,
    aligned: Shape,
    grads: tuple[Tensor | None, ...],
) -> tuple[Tensor | None, ...]:
    # With their graph: the mask again, with its value and its dependence on the log-odds.
    def total(x: Tensor, logits: Tensor) -> Tensor:
        mask = torch.sigmoid(z.detach().logit() + rate * (logits - logits.detach()))
        pairs = zip((x * mask.view(aligned), mask), grads, strict=True)
        terms = [(value * grad).sum() for value, grad in pairs if grad is not None]
        return sum(terms[1:], start=terms[0])

    return plain_gradients(total, (x, logits), torch.ones_like(rate))


def relaxed_masks(
    logits: Sequence[Tensor], temperatures: Sequence[Tensor], rows: int
) -> tuple[Tensor, ...]:
    r"""Return a relaxed mask of every row under each vector of log-odds, in one operation.

    They are ``BinaryConcrete(temperature, logits=logits).rsample((rows,))`` one by one, for the
    same noise.

    Args:
        logits: Log-odds, ``(K,)`` each.
        temperatures: One for each, without a gradient.
        rows: Number of masks, the same for all.
    """
    return _RelaxedMasks.apply(rows, *temperatures, *logits)


class _RelaxedMasks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: int, *inputs: Tensor) -> tuple[Tensor, ...]:
        half = len(inputs) // 2
        rates, logits = [t.reciprocal() for t in inputs[:half]], inputs[half:]
        shapes = [(rows, len(x)) for x in logits]
        flat = noise.uniforms(shapes, logits[0]).logit_()
        pieces = flat.split([rows * len(x) for x in logits])
        masks = [y.view(shape) for y, shape in zip(pieces, shapes, strict=True)]
        for y, x, rate in zip(masks, logits, rates, strict=True):
            y.add_(x).mul_(rate)
        bound = _largest_logit(flat)
        flat.clamp_(-bound, bound).sigmoid_()
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*rates, *logits, *masks)
        return tuple(masks)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        size = len(grads)
        saved = ctx.saved_tensors
        parts = zip(saved[:size], saved[size : 2 * size], saved[2 * size :], grads, strict=True)
        if torch.is_grad_enabled():
            found = [_plain_slope(*part) for part in parts]
        else:
            found = [_slope(*part) for part in parts]
        return None, *[None] * size, *found


def _slope(rate: Tensor, logits: Tensor, z: Tensor, grad: Tensor | None) -> Tensor | None:
    if grad is None:
        return None
    return torch.addcmul(z, z, z, value=-1).mul_(grad).sum(0).mul_(rate)


def _plain_slope(rate: Tensor, logits: Tensor, z: Tensor, grad: Tensor | None) -> Tensor | None:
    # With its graph: the mask's dependence on the log-odds, at the value that it has.
    if grad is None or not logits.requires_grad:
        return None

    def mask(logits: Tensor) -> Tensor:
        return torch.sigmoid(z.detach().logit() + rate * (logits - logits.detach()))

    return plain_gradients(mask, (logits,), grad)[0]


class BinaryConcreteStraightThrough(BinaryConcrete):
    r"""Binary concrete distribution whose samples are 0 or 1, with the relaxed sample's gradient.

    ``log_prob`` of a sample is the density of the relaxed value behind it, as in Pyro's
    ``RelaxedBernoulliStraightThrough``.

    Args:
        temperature: :math:`\lambda > 0`.
        probs: Probability of a one. Give this or ``logits``.
        logits: Log-odds of a one. Give this or ``probs``.
        validate_args: Whether to check arguments and values.

    References:
        Bengio, Leonard, Courville (2013), https://arxiv.org/abs/1308.3432.

    Example:
        >>> z = BinaryConcreteStraightThrough(0.1, logits=torch.zeros(100)).rsample()
        >>> bool(((z == 0) | (z == 1)).all())
        True
    """

    @override
    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        soft = super().rsample(sample_shape)
        hard = soft + (soft.round() - soft).detach()  # exactly 0 or 1
        hard._relaxed = soft  # type: ignore[attr-defined]
        return hard

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(getattr(value, "_relaxed", value))
