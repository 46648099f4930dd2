"""Elementary functions that keep their precision near the ends of their domain."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from bayesdrop.ops.transforms import in_transform, takes_plain_operations

EULER_GAMMA = 0.5772156649015329


# Gradients of the functions below are written out, which takes fewer operations on the short
# vectors of every training step. They take ``ctx`` in ``forward``, since torch inspects the
# signature at each call of one with ``setup_context``, which costs more than the arithmetic. Each
# has a form in plain operations beside it, with the same gradient, for torch's transforms; what is
# saved for a gradient is an argument or the result, so that the second derivative is right too.


class _Log1mExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        near = x > -math.log(2.0)
        return torch.where(near, (-torch.expm1(x)).log_(), torch.log1p(-x.exp()))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return -grads[0] / torch.expm1(-x)


def log1mexp(x: Tensor) -> Tensor:
    r"""Return :math:`\log(1 - e^x)` for :math:`x < 0`, accurate at both ends.

    Its gradient :math:`-1 / (e^{-x} - 1)` is written out: differentiating the two branches would
    give NaN where the unused one overflows, and costs five times as many operations.

    References:
        Maechler (2012), "Accurately computing log(1 - exp(-|a|))".
    """
    return _plain_log1mexp(x) if takes_plain_operations() else _Log1mExp.apply(x)


def _plain_log1mexp(x: Tensor) -> Tensor:
    # What a branch does not need is replaced before it: there is no gradient of infinity.
    near, half = x > -math.log(2.0), -math.log(2.0)
    close = torch.log(-torch.expm1(torch.where(near, x, half)))
    return torch.where(near, close, torch.log1p(-torch.exp(torch.where(near, half, x))))


class _ExpOpenUnit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        info = torch.finfo(x.dtype)
        y = x.exp().clamp_(min=info.tiny, max=1.0 - info.eps)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return grads[0] * y


def exp_open_unit(x: Tensor) -> Tensor:
    """Return ``exp(x)`` for ``x < 0``, kept inside (0, 1) as by ``clamp_open_unit``.

    The gradient is that of the exponential, also where the value is held at an end.
    """
    if takes_plain_operations():
        y = x.exp()
        return y + (clamp_open_unit(y) - y).detach()
    return _ExpOpenUnit.apply(x)


def inverse_softplus(y: float) -> float:
    r"""Return the :math:`x` with :math:`\log(1 + e^x) = y > 0`."""
    return y + math.log(-math.expm1(-y))


def clamp_open_unit(x: Tensor) -> Tensor:
    """Clamp to the open unit interval: the smallest normal number up to 1 - eps."""
    info = torch.finfo(x.dtype)
    return x.clamp(min=info.tiny, max=1.0 - info.eps)


class _ClampInward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, lower: float, upper: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bounds = lower, upper
        return x.clamp(lower, upper)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,), (lower, upper) = ctx.saved_tensors, ctx.bounds
        outward = ((x <= lower) & (grads[0] > 0)) | ((x >= upper) & (grads[0] < 0))
        return grads[0].masked_fill(outward, 0.0), None, None


class _TransformedClampInward(torch.autograd.Function):
    # The same for torch.func: a gradient that looks at its own sign is no plain operation's.
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, lower: float, upper: float) -> Tensor:
        return x.clamp(lower, upper)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, float], output: Tensor) -> None:
        x, *ctx.bounds = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _ClampInward.backward(ctx, *grads)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        (x,), (lower, upper) = ctx.saved_tensors, ctx.bounds
        return torch.where((x < lower) | (x > upper), 0.0, tangents[0])


def clamp_inward(x: Tensor, lower: float, upper: float) -> Tensor:
    """Clamp a parameter that is minimised over, without holding it at the bound for good.

    The gradient is cut only where a descent step would lead further out, so that a parameter
    that an optimiser has carried over a bound can come back: what clamping the parameter itself
    after each step achieves.
    """
    # The compiler traces a function with ``ctx``, and none with a rule for the forward mode.
    transformed = not torch.compiler.is_compiling() and in_transform()
    form = _TransformedClampInward if transformed else _ClampInward
    return form.apply(x, lower, upper)


def bernoulli_kl(q_logits: Tensor, p_logits: Tensor) -> Tensor:
    """Return KL(Bernoulli || Bernoulli) from log-odds, finite where a probability rounds to 0."""
    q = torch.sigmoid(q_logits)
    on = softplus(-p_logits) - softplus(-q_logits)
    off = softplus(p_logits) - softplus(q_logits)
    return q * on + (1 - q) * off


def lgamma_step(x: Tensor, step: Tensor) -> Tensor:
    r"""Return :math:`\log \Gamma(x) - \log \Gamma(x + h)` for :math:`x, h > 0`.

    Beyond 100, where the two nearly cancel, by Stirling's series.
    """
    far = x.clamp(min=100.0)
    series = _stirling_rest(far) - _stirling_rest(far + step)
    series = series + step - step * far.log() - (far + step - 0.5) * torch.log1p(step / far)
    return torch.where(x > 100.0, series, torch.lgamma(x) - torch.lgamma(x + step))


def _stirling_rest(x: Tensor) -> Tensor:
    return (1 / 12 - (1 / 360 - 1 / (1260 * x.square())) / x.square()) / x


def wide(x: Tensor) -> Tensor:
    """Return ``x`` in float64 where the device has it, for differences of large numbers."""
    return x if x.device.type == "mps" else x.double()


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Treat denormal floats as zero in this thread while the context is open.

    Arithmetic on a denormal number takes a CPU tens of times longer. Weights that nothing but
    weight decay pulls at (those of pixels that are never inked, say) end there, and slow every
    step. Threads that torch starts inside the context inherit the mode; those it already has keep
    theirs. It does nothing where the CPU cannot.
    """
    was_flushing = bool(torch.tensor(1e-39, dtype=torch.float32) * 1.0 == 0.0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_flushing)
