"""The masks of a Bernoulli with given log-odds: relaxed for training, exact for evaluation."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pyro.distributions import Bernoulli, TorchDistribution
from torch import Tensor

from bayesdrop.distributions import (
    BernoulliStraightThrough,
    BinaryConcrete,
    BinaryConcreteStraightThrough,
)
from bayesdrop.errors import unknown_name

Relaxation: TypeAlias = Literal["concrete", "straight-through", "bernoulli-straight-through"]
"""How a mask gets a gradient, see ``bernoulli_mask``."""

_RELAXATIONS = {
    "concrete": BinaryConcrete,
    "straight-through": BinaryConcreteStraightThrough,
}
_UNRELAXED = "bernoulli-straight-through"


def check_relaxation(name: str) -> None:
    """Raise ``ConfigError`` if there is no relaxation of this name."""
    known = (*_RELAXATIONS, _UNRELAXED)
    if name not in known:
        raise unknown_name("relaxation", name, known)


def bernoulli_mask(
    logits: Tensor, temperature: Tensor, relaxation: str, *, relaxed: bool
) -> TorchDistribution:
    """Return the distribution of a mask of independent units, event shape ``(K,)``.

    Args:
        logits: Log-odds that a unit is kept, ``(..., K)``.
        temperature: Of the relaxation, > 0.
        relaxation: ``"concrete"``; or masks of exactly 0 and 1, with the gradient of the concrete
            ones behind them (``"straight-through"``), or of their probability, whatever the
            temperature is (``"bernoulli-straight-through"``).
        relaxed: Whether to relax at all; the alternative is the Bernoulli itself.
    """
    if not relaxed:
        return Bernoulli(logits=logits, validate_args=False).to_event(1)
    if relaxation == _UNRELAXED:
        return BernoulliStraightThrough(logits=logits, validate_args=False).to_event(1)
    family = _RELAXATIONS[relaxation]
    return family(temperature, logits=logits, validate_args=False).to_event(1)
