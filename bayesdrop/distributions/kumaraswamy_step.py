"""What a training step asks of Kumaraswamys: samples and a divergence, in one operation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bayesdrop.ops.elementwise import Elementwise, elementwise
from bayesdrop.ops.stable import EULER_GAMMA, clamp_inward, exp_open_unit, log1mexp
from bayesdrop.ops.transforms import plain_gradients, takes_plain_operations

_LOG_2 = math.log(2.0)
# What float32 can hold: a from 2e-9 to 7e10, b up to 1e26 and, as log-odds, any median.
MAX_MEDIAN_LOGIT = 60.0
LOG_A = (-20.0, 25.0)
LOG_B = (-20.0, 60.0)


class Drawn(NamedTuple):
    """What ``draw_with_kl`` returns.

    Args:
        values: A sample of each vector.
        logits: Its log-odds.
        kl: The divergences from Beta(c, 1), each times its weight, summed.
        concentration1: :math:`a` of all vectors, one behind the other.
        concentration0: :math:`b`, likewise.
    """

    values: Sequence[Tensor]
    logits: Sequence[Tensor]
    kl: Tensor
    concentration1: Tensor
    concentration0: Tensor


def draw_with_kl(
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    *,
    located: bool,
    c: Tensor | None,
    uniform: Tensor,
    weight: Tensor | None,
) -> Drawn:
    r"""Draw from Kumaraswamys and return their divergence from Beta(c, 1).

    In one operation, with its gradients, for the latents of many layers at once: the same as
    ``rsample`` and ``kl_divergence`` for the same noise.

    Args:
        first: Concentrations :math:`a`, or locations, a vector for each layer.
        second: Concentrations :math:`b`, or logarithms of shapes, likewise.
        located: Whether the parameters are locations and shapes, see ``concentrations_of``.
        c: The prior's, one for each unit of all layers or a number for all; None leaves the
            divergence out.
        uniform: Noise on (0, 1) for all.
        weight: Factors on the divergences, one for each unit or one for all; None for 1.
    """
    *drawn, kl, a, b = _DrawWithKL.apply(located, c, uniform, weight, *first, *second)
    return Drawn(drawn[: len(first)], drawn[len(first) :], kl, a, b)


class _DrawWithKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        located: bool,
        c: Tensor | None,
        uniform: Tensor,
        weight: Tensor | None,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        m = elementwise(parameters)
        half = len(parameters) // 2
        halves = [[m.array(x) for x in part] for part in (parameters[:half], parameters[half:])]
        with m.quiet():
            first, second = (m.join(part) for part in halves)
            place = _located(m, first, second) if located else None
            a, b, log_a = place[:3] if place else (first, second, m.log(first))
            factor = None if weight is None else m.array(weight)
            state = _draw(m, a, b, m.array(uniform))
            prior = None if c is None else _against_prior(m, a, b, log_a, m.array(c))
            kl = 0.0 * a if prior is None else prior.kl
            kl = kl if factor is None else kl * factor
        ctx.set_materialize_grads(False)
        # Arguments are saved for derivatives of a higher order; what follows from them is kept as
        # it is, since nobody else has it.
        ctx.save_for_backward(c, uniform, weight, *parameters)
        ctx.parts = m, place, state, prior, factor, [len(x) for x in halves[0]]
        sizes = ctx.parts[-1]
        drawn = _split(m, state.x, sizes) + _split(m, state.logit, sizes)
        return *drawn, m.tensor(kl).sum(), m.tensor(a), m.tensor(b)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        c, uniform, weight, *parameters = ctx.saved_tensors
        m, place, state, prior, factor, sizes = ctx.parts
        located = place is not None
        if torch.is_grad_enabled():

            def total(*parameters: Tensor) -> Tensor:
                outputs = _plain(located, c, uniform, weight, parameters)
                pairs = zip(outputs, grads, strict=True)
                terms = [(value * grad).sum() for value, grad in pairs if grad is not None]
                return sum(terms[1:], start=terms[0])

            one = uniform.new_ones(())
            return None, None, None, None, *plain_gradients(total, parameters, one)
        *of_drawn, of_kl, of_a, of_b = grads
        with m.quiet():
            of_x = _joined(m, of_drawn[: len(sizes)], uniform, sizes)
            of_logit = _joined(m, of_drawn[len(sizes) :], uniform, sizes)
            pair = _gradients(state, of_x, of_logit)
            if of_kl is not None and prior is not None:
                scale = m.array(of_kl) if factor is None else m.array(of_kl) * factor
                pair = [x + scale * y for x, y in zip(pair, _slopes(m, state, prior), strict=True)]
            pair = [
                grad if more is None else grad + m.array(more)
                for grad, more in zip(pair, (of_a, of_b), strict=True)
            ]
            if place is not None:
                pair = _gradients_of_located(m, place, *pair)
        found = [piece for grad in pair for piece in _split(m, grad, sizes)]
        return None, None, None, None, *found


def _split(m: Elementwise, values: Any, sizes: Sequence[int]) -> list[Tensor]:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [m.tensor(values[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


def _joined(
    m: Elementwise, grads: Sequence[Tensor | None], like: Tensor, sizes: Sequence[int]
) -> Any:
    if all(grad is None for grad in grads):
        return None
    pieces = zip(grads, sizes, strict=True)
    return m.join([m.array(like.new_zeros(n) if g is None else g) for g, n in pieces])


def _plain(
    located: bool,
    c: Tensor | None,
    uniform: Tensor,
    weight: Tensor | None,
    parameters: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    half = len(parameters) // 2
    sizes = [len(x) for x in parameters[:half]]
    a, b = torch.cat(list(parameters[:half])), torch.cat(list(parameters[half:]))
    if located:
        a, b = _plain_concentrations(a, b)
    values = exp_open_unit(log1mexp(uniform.log() / b) / a)
    kl = 0.0 * a
    if c is not None:
        harmonic = torch.digamma(b + 1) + EULER_GAMMA
        kl = (c / a - 1) * harmonic + (a / c).log() + b.log() + 1 / b - 1
    drawn = *values.split(sizes), *torch.logit(values).split(sizes)
    return *drawn, (kl if weight is None else kl * weight).sum(), a, b


class _State(NamedTuple):
    a: Any
    b: Any
    t: Any
    odds: Any
    log_x: Any
    x: Any
    logit: Any


def _draw(m: Elementwise, a: Any, b: Any, uniform: Any) -> _State:
    info = torch.finfo(torch.float32 if a.itemsize == 4 else torch.float64)
    t = m.log(uniform) / -b
    odds = m.expm1(t)
    # log(1 - e^-t) at both ends, 1 / (e^t - 1) being the odds against.
    log_x = m.log1p(1 / odds) / -a
    x = m.at_most(m.at_least(m.exp(log_x), info.tiny), 1.0 - info.eps)
    return _State(a, b, t, odds, log_x, x, m.log(x / (1 - x)))


def _gradients(state: _State, of_x: Any, of_logit: Any) -> list[Any]:
    a, b, t, odds, log_x, x, _ = state
    if of_x is None and of_logit is None:
        return [0.0 * a, 0.0 * b]
    of_log_x = 0.0 if of_x is None else of_x * x
    if of_logit is not None:
        of_log_x = of_log_x + of_logit / (1 - x)
    scaled = of_log_x / -a
    return [scaled * log_x, scaled * t / (b * odds)]


class _Prior(NamedTuple):
    ratio: Any
    harmonic: Any
    kl: Any


def _against_prior(m: Elementwise, a: Any, b: Any, log_a: Any, c: Any) -> _Prior:
    ratio = c / a
    harmonic = m.digamma(b + 1) + EULER_GAMMA
    kl = (ratio - 1) * harmonic + (m.log(b) + log_a - m.log(c) + 1 / b - 1)
    return _Prior(ratio, harmonic, kl)


def _slopes(m: Elementwise, state: _State, prior: _Prior) -> tuple[Any, Any]:
    """Return the derivatives of each divergence in a and b."""
    a, b = state.a, state.b
    slope_b = (prior.ratio - 1) * m.trigamma(b + 1) + (1 - 1 / b) / b
    return (1 - prior.ratio * prior.harmonic) / a, slope_b


def concentrations_of(location: Tensor, log_shape: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return :math:`a` and :math:`b` of a location :math:`\ell` and a log-shape.

    The median is :math:`m = \sigma(\ell\,(1 + 1/a))`, hence :math:`b = -\log 2 / \log(1 - m^a)`.

    Args:
        location: :math:`\ell`.
        log_shape: :math:`\log a`.
    """
    if takes_plain_operations():
        return _plain_concentrations(location, log_shape)
    return _Concentrations.apply(location, log_shape)


def _plain_concentrations(location: Tensor, log_shape: Tensor) -> tuple[Tensor, Tensor]:
    a = clamp_inward(log_shape, *LOG_A).exp()
    logit = location * (1 + 1 / a)
    log_median = logsigmoid(clamp_inward(logit, -math.inf, MAX_MEDIAN_LOGIT))
    # log(m^a), below which b would be infinite. Not a quotient, whose derivative would overflow.
    power = clamp_inward(a * log_median, -LOG_B[1], math.inf)
    return a, (math.log(_LOG_2) - (-log1mexp(power)).log()).exp()


class _Place(NamedTuple):
    a: Any
    b: Any
    log_a: Any
    location: Any
    log_shape: Any
    stretch: Any
    logit: Any
    log_median: Any
    power: Any
    odds: Any
    log_rest: Any


def _located(m: Elementwise, location: Any, log_shape: Any) -> _Place:
    log_a = m.at_most(m.at_least(log_shape, LOG_A[0]), LOG_A[1])
    a = m.exp(log_a)
    stretch = 1 / a + 1
    logit = m.at_most(location * stretch, MAX_MEDIAN_LOGIT)
    log_median = m.at_most(logit, 0.0) - m.log1p(m.exp(-abs(logit)))
    power = a * log_median
    odds = m.expm1(-m.at_least(power, -LOG_B[1]))  # m^-a - 1
    log_rest = m.log1p(1 / odds)  # -log(1 - m^a)
    return _Place(
        a, _LOG_2 / log_rest, log_a, location, log_shape, stretch, logit, log_median, power, odds,
        log_rest,
    )  # fmt: skip


def _gradients_of_located(m: Elementwise, place: _Place, of_a: Any, of_b: Any) -> list[Any]:
    a, b, _, location, log_shape, stretch, logit, log_median, power, odds, log_rest = place
    # Each bound cuts the gradient as clamp_inward does: where a descent step leads outward.
    slope = of_b * b / (log_rest * odds) * -1.0  # the product: each factor may overflow
    slope = m.where((power <= -LOG_B[1]) & (slope > 0), 0.0, slope)
    of_logit = slope * a / (1 + m.exp(logit))
    of_logit = m.where((logit >= MAX_MEDIAN_LOGIT) & (of_logit < 0), 0.0, of_logit)
    of_log = (of_a + slope * log_median) * a - of_logit * location / a  # (1 + 1/a) falls with a
    low, high = LOG_A
    outward = ((log_shape <= low) & (of_log > 0)) | ((log_shape >= high) & (of_log < 0))
    return [of_logit * stretch, m.where(outward, 0.0, of_log)]


class _Concentrations(torch.autograd.Function):
    # Written out, beside the form in plain operations, as in bayesdrop.ops.stable.
    @staticmethod
    def forward(ctx: Any, location: Tensor, log_shape: Tensor) -> tuple[Tensor, Tensor]:
        m = elementwise((location, log_shape))
        with m.quiet():
            place = _located(m, m.array(location), m.array(log_shape))
        ctx.save_for_backward(location, log_shape)
        ctx.parts = m, place
        return m.tensor(place.a), m.tensor(place.b)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        location, log_shape = ctx.saved_tensors
        if torch.is_grad_enabled():

            def total(location: Tensor, log_shape: Tensor) -> Tensor:
                values = _plain_concentrations(location, log_shape)
                terms = [(v * g).sum() for v, g in zip(values, grads, strict=True)]
                return terms[0] + terms[1]

            return plain_gradients(total, (location, log_shape), location.new_ones(()))
        m, place = ctx.parts
        with m.quiet():
            found = _gradients_of_located(m, place, *(m.array(grad) for grad in grads))
        return tuple(m.tensor(grad) for grad in found)
