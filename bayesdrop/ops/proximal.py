"""The proximal step of a sum of norms, in the metric in which an optimiser has made its step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bayesdrop.errors import ConfigError

_STEPS = 50


def shrink_groups(value: Tensor, metric: Tensor, price: Tensor | float) -> Tensor:
    r"""Return the proximal point of a sum of Euclidean norms, one norm a row.

    .. math:: w_k = \arg\min_w \tfrac12 \sum_i c_{ki} (w_i - u_{ki})^2 + \mu \lVert w \rVert

    It is exactly zero where :math:`\lVert c_k u_k \rVert \le \mu`. Otherwise its norm :math:`t` is
    the root of :math:`\sum_i (c_i u_i / (c_i t + \mu))^2 = 1` and
    :math:`w_i = c_i u_i t / (c_i t + \mu)`. One over the root of that sum is concave in :math:`t`,
    so that Newton's method, on it, converges from everywhere; where all :math:`c_i` of a row are
    equal the first step is exact: soft thresholding by :math:`\mu / c`.

    Args:
        value: :math:`u`, ``(K, p)``.
        metric: :math:`c > 0`, which broadcasts to it.
        price: :math:`\mu \ge 0`.

    References:
        Yuan, Lin (2006), https://doi.org/10.1111/j.1467-9868.2005.00532.x, for equal :math:`c`;
        the equation in :math:`t` is that of a trust region, as is Newton's method for it: Conn,
        Gould, Toint (2000), "Trust-Region Methods", section 7.3.

    Example:
        >>> shrink_groups(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), torch.ones(()), 1.0)
        tensor([[2.4000, 3.2000],
                [0.0000, 0.0000]])
    """
    metric = metric.expand_as(value)
    pull = metric * value
    mu = torch.as_tensor(price, dtype=value.dtype, device=value.device)
    stays = pull.square().sum(1, keepdim=True) > mu.square()
    norm = torch.linalg.vector_norm(value, dim=1, keepdim=True)
    # What is left after a step of Newton's method is of the order of its square.
    least = math.sqrt(torch.finfo(value.dtype).eps)
    slack, terms = torch.empty_like(value), torch.empty_like(value)
    for _ in range(_STEPS):
        torch.mul(metric, norm, out=slack).add_(mu)
        total = torch.div(pull, slack, out=terms).square_().sum(1, keepdim=True)
        slope = terms.mul_(metric).div_(slack).sum(1, keepdim=True)
        # Newton's step for total ** -0.5 - 1.
        step = torch.where(stays, total * (total.sqrt() - 1.0) / slope, 0.0)
        norm = (norm + step).clamp(min=0.0)
        if bool((step.abs() <= least * norm).all()):
            break
    torch.mul(metric, norm, out=slack).add_(mu)
    return torch.where(stays, pull.mul_(norm).div_(slack), 0.0)


def metric_of(optimizer: torch.optim.Optimizer, parameter: Tensor) -> Tensor | None:
    r"""Return the metric of an optimiser's last step, of which ``parameter`` was a part.

    Where the gradient stays :math:`g`, the optimiser moves the parameter by
    :math:`-c^{-1} g` in each step: :math:`c = (\sqrt{\hat v} + \epsilon) / \eta` for Adam, and
    :math:`c = (1 - \mu) / ((1 - \tau) \eta)` for SGD with momentum :math:`\mu` and dampening
    :math:`\tau`. A proximal step in that metric leaves the optimum of loss and penalty where it
    is.

    Args:
        optimizer: Adam, AdamW or SGD.
        parameter: Any parameter.

    Returns:
        A number or a tensor of the parameter's shape; None if the optimiser did not move it, or
        its learning rate is 0.

    Raises:
        ConfigError: If the optimiser is of another kind, whose metric is not known.
    """
    for group in optimizer.param_groups:
        if any(own is parameter for own in group["params"]):
            break
    else:
        return None
    if parameter.grad is None or float(group["lr"]) == 0.0:
        return None
    state, rate = optimizer.state.get(parameter, {}), group["lr"]
    if isinstance(optimizer, torch.optim.SGD):
        share = 1.0
        if group["momentum"]:
            share = (1.0 - group["momentum"]) / (1.0 - group["dampening"])
        return torch.as_tensor(share / rate, dtype=parameter.dtype, device=parameter.device)
    if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        squares = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
        correction = 1.0 - group["betas"][1] ** float(state["step"])
        root = (squares / correction).sqrt_()
        return root.add_(group["eps"]).div_(rate)
    raise ConfigError(
        "a proximal step",
        expected="Adam, AdamW or SGD, whose steps have a known metric",
        got=type(optimizer).__name__,
        hint="Use one of these, or proximal=False, which leaves small weights instead of zeros.",
    )
