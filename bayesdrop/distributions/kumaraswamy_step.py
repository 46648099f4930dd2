"""What a training step asks of a Kumaraswamy: a sample and a divergence, in one operation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bayesdrop.ops.stable import EULER_GAMMA, exp_open_unit, log1mexp
from bayesdrop.ops.transforms import plain_gradients


def sample_with_kl(
    a: Tensor, b: Tensor, c: Tensor, uniform: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    r"""Return a sample of Kumaraswamy(a, b) and its divergence from Beta(c, 1), summed.

    In one operation, with its gradients, for the latents of many layers at once: the same as
    ``rsample`` and ``kl_divergence`` for the same noise.

    Args:
        a: Concentrations, ``(K,)``.
        b: Concentrations, ``(K,)``.
        c: The prior's, ``(K,)`` or a number for all.
        uniform: Noise on (0, 1), ``(K,)``; it is overwritten.
        weight: Factors on the divergences, ``(K,)`` or one for all; None for 1.
    """
    return _SampleWithKL.apply(a, b, c, uniform.log_().neg_(), weight)


class _SampleWithKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, c: Tensor, s: Tensor, weight: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        info = torch.finfo(a.dtype)
        t, ratio = s / b, c / a
        log_x = log1mexp(-t).div_(a)
        x = log_x.exp().clamp_(min=info.tiny, max=1.0 - info.eps)
        harmonic = torch.digamma(b + 1).add_(EULER_GAMMA)
        kl = (
            (ratio - 1).mul_(harmonic).add_(b.log()).sub_(ratio.log()).add_(b.reciprocal()).sub_(1)
        )
        ctx.save_for_backward(a, b, c, s, t, ratio, log_x, x, harmonic, weight)
        ctx.set_materialize_grads(False)
        return x, (kl if weight is None else kl * weight).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        a, b, c, s, t, ratio, log_x, x, harmonic, weight = ctx.saved_tensors
        of_x, of_kl = grads
        if torch.is_grad_enabled():

            def total(a: Tensor, b: Tensor) -> Tensor:
                drawn = exp_open_unit(log1mexp(-s / b) / a)
                harmonic = torch.digamma(b + 1) + EULER_GAMMA
                kl = (c / a - 1) * harmonic + (a / c).log() + b.log() + 1 / b - 1
                values = drawn, (kl if weight is None else kl * weight).sum()
                pairs = zip(values, grads, strict=True)
                terms = [(value * grad).sum() for value, grad in pairs if grad is not None]
                return sum(terms[1:], start=terms[0])

            return *plain_gradients(total, (a, b), a.new_ones(())), None, None, None
        grad_a = grad_b = None
        if of_x is not None:
            scaled = (of_x * x).div_(-a)
            grad_a, grad_b = scaled * log_x, scaled.mul_(t).div_(b * torch.expm1(t))
        if of_kl is not None:
            factor = of_kl if weight is None else of_kl * weight
            kl_a = torch.addcmul(torch.ones_like(a), ratio, harmonic, value=-1).div_(a)
            kl_b = (ratio - 1).mul_(torch.polygamma(1, b + 1))
            kl_b.add_((1 - b.reciprocal()).div_(b))
            kl_a, kl_b = kl_a.mul_(factor), kl_b.mul_(factor)
            grad_a = kl_a if grad_a is None else grad_a.add_(kl_a)
            grad_b = kl_b if grad_b is None else grad_b.add_(kl_b)
        return grad_a, grad_b, None, None, None
