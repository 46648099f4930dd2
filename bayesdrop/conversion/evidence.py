"""Whether the weights of a network are trained, by what they look like."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bayesdrop.conversion.kinds import CONVOLUTIONS, NORMALISATIONS
from bayesdrop.conversion.selection import plain_of

_FALSE_ALARMS = 1e-9


@torch.no_grad()
def looks_trained(network: nn.Module) -> bool:
    r"""Return whether the norms and biases of a network are those of a trained one.

    New networks have norms of equal weights, and biases that are equal, too, or torch's uniform
    ones in :math:`\pm 1 / \sqrt{\text{fan in}}`; training ends that. Biases count as trained where
    their empirical distribution is further from the uniform one than the
    Dvoretzky-Kiefer-Wolfowitz inequality allows once in :math:`10^9` new networks. Weights say
    nothing here, since they begin in many ways; without norms and biases the answer is no.

    Args:
        network: Any module.

    Example:
        >>> looks_trained(nn.Linear(3, 2))
        False
    """
    shares = []
    for module in network.modules():
        if isinstance(module, NORMALISATIONS) and _differs(getattr(module, "weight", None)):
            return True
        bias = getattr(module, "bias", None)
        if isinstance(plain_of(module), (nn.Linear, *CONVOLUTIONS)) and _differs(bias):
            weight = getattr(module, "weight", None)
            if isinstance(bias, Tensor) and isinstance(weight, Tensor):
                shares.append(bias.flatten().double().cpu() * math.sqrt(weight[0].numel()))
    return bool(shares) and _is_not_uniform(torch.cat(shares))


def _differs(value: Tensor | None) -> bool:
    if not isinstance(value, Tensor) or value.is_meta or value.numel() < 2:
        return False
    return bool(torch.ne(value, value.flatten()[0]).any())


def _is_not_uniform(values: Tensor) -> bool:
    """Return whether values come from another law than the uniform one on [-1, 1]."""
    if float(values.abs().max()) > 1 + 1e-3:
        return True
    number = len(values)
    steps = torch.arange(number + 1, dtype=values.dtype) / number
    uniform = (values.sort().values + 1) / 2
    distance = torch.maximum(steps[1:] - uniform, uniform - steps[:-1]).max()
    return float(distance) > math.sqrt(math.log(2 / _FALSE_ALARMS) / (2 * number))
