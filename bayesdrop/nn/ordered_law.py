"""What an ordered code of an auto-encoder asks of masks that keep a prefix."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class OrderedLaw(NamedTuple):
    r"""The law of ordered masks: unit :math:`k` is kept with the odds given, if the one before is.

    Args:
        prior_logits: Log-odds of the prior, ``(D,)``.
        init_logits: Log-odds where an example's posterior starts, ``(D,)``.
        always_kept: Number of units before those, which every mask keeps.
        temperature: Temperature of the gradient; None where the law is fixed, for every example.
        interpolated: Whether the gradient is that of ``OrderedMaskInterpolated`` instead.
        stratified: Whether the examples of a batch share the law out among them in training.
    """

    prior_logits: Tensor
    init_logits: Tensor
    always_kept: int
    temperature: float | None
    interpolated: bool = False
    stratified: bool = False
