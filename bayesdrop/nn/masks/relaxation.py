"""The masks of a Bernoulli with given log-odds: relaxed for training, exact for evaluation."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pyro.distributions import Bernoulli, TorchDistribution
from torch import Tensor

from bayesdrop.distributions import BinaryConcrete, BinaryConcreteStraightThrough
from bayesdrop.errors import unknown_name

Relaxation: TypeAlias = Literal["concrete", "straight-through"]

_RELAXATIONS = {
    "concrete": BinaryConcrete,
    "straight-through": BinaryConcreteStraightThrough,
}


def check_relaxation(name: str) -> None:
    """Raise ``ConfigError`` if there is no relaxation of this name."""
    if name not in _RELAXATIONS:
        raise unknown_name("relaxation", name, _RELAXATIONS)


def bernoulli_mask(
    logits: Tensor, temperature: Tensor, relaxation: str, *, relaxed: bool
) -> TorchDistribution:
    """Return the distribution of a mask of independent units, event shape ``(K,)``.

    Args:
        logits: Log-odds that a unit is kept, ``(..., K)``.
        temperature: Of the relaxation, > 0.
        relaxation: ``"concrete"``, or ``"straight-through"`` for masks of exactly 0 and 1.
        relaxed: Whether to relax at all; the alternative is the Bernoulli itself.
    """
    if not relaxed:
        return Bernoulli(logits=logits, validate_args=False).to_event(1)
    family = _RELAXATIONS[relaxation]
    return family(temperature, logits=logits, validate_args=False).to_event(1)
