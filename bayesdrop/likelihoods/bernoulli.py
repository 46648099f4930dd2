"""Binary targets, one or many an example."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from typing_extensions import override

from bayesdrop.errors import DataError
from bayesdrop.likelihoods.likelihood import Likelihood, match_shape
from bayesdrop.ops.transforms import takes_plain_operations


class Bernoulli(Likelihood):
    r"""Independent binary targets: :math:`y_{nj} \sim \mathrm{Bernoulli}(\sigma(f_{nj}))`.

    All outputs of an example are one observation: its entropy is the sum of theirs, its confidence
    their average. There are no missing targets.

    Shape:  network output ``(N, ...)`` logits; target the same shape, or ``(N,)`` for an output of
        ``(N, 1)``, with values 0 and 1.

    Raises:
        DataError: If a target is neither 0 nor 1.
        ShapeError: If the targets have another shape than the output.

    Example:
        >>> Bernoulli().distribution(torch.zeros(5, 3)).event_shape
        torch.Size([3])
    """

    is_classifier = True

    @override
    def distribution(self, output: Tensor, batch_ndim: int = 1) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=output).to_event(output.ndim - batch_ndim)

    @override
    def target(self, output: Tensor, y: Tensor) -> Tensor:
        y = match_shape("Bernoulli", output, y).to(output.dtype)
        if not takes_plain_operations() and not bool(((y == 0) | (y == 1)).all()):
            raise DataError(
                "Bernoulli",
                expected="targets of 0 and 1",
                got=f"values from {float(y.min()):g} to {float(y.max()):g}",
                hint="Threshold or sample grey values first. Missing targets need "
                "bd.Categorical(ignore_index=...) with two classes.",
            )
        return y

    @override
    def moments(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        return output.sigmoid(), None

    @override
    def doubt(self, output: Tensor) -> str | None:
        made_by = "" if output.grad_fn is None else output.grad_fn.name()
        if not made_by.startswith("Sigmoid"):
            return None
        return (
            "the network ends in a sigmoid. bd.Bernoulli takes logits and applies it itself: "
            "leave out the network's own."
        )

    @override
    def entropy(self, probabilities: Tensor) -> Tensor:
        """Return the sum of the outputs' entropies in nats, ``(N,)``."""
        both = torch.special.entr(probabilities) + torch.special.entr(1.0 - probabilities)
        return both.reshape(len(both), -1).sum(1)

    @override
    def confidence(self, probabilities: Tensor) -> Tensor:
        """Return the average over outputs of the larger of both probabilities, ``(N,)``."""
        sure = torch.maximum(probabilities, 1.0 - probabilities)
        return sure.reshape(len(sure), -1).mean(1)

    @override
    def flatten_labels(self, probabilities: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probability of 1 and the target of every output, ``(M,)`` and ``(M,)``."""
        return probabilities.reshape(-1), self.target(probabilities, y).reshape(-1)
