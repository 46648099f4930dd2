"""Binary targets, one or many an example, some of them unlabelled."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from typing_extensions import override

from bayesdrop.errors import ConfigError, DataError
from bayesdrop.likelihoods.likelihood import Likelihood, first_row, match_shape
from bayesdrop.nn.arguments import is_whole
from bayesdrop.ops.transforms import takes_plain_operations


class Bernoulli(Likelihood):
    r"""Independent binary targets: :math:`y_{nj} \sim \mathrm{Bernoulli}(\sigma(f_{nj}))`.

    All outputs of an example are one observation: its entropy is the sum of theirs, its confidence
    their average.

    Args:
        ignore_index: The label of outputs without one, such as -1, which then count nowhere: not
            in the objective, not in error, not in any average over labels. None: there are none.

    Shape:  network output ``(N, ...)`` logits; target the same shape, or ``(N,)`` for an output of
        ``(N, 1)``, with values 0, 1 and ``ignore_index``.

    Raises:
        ConfigError: If ``ignore_index`` is 0, 1 or no integer.
        DataError: If a target is none of these.
        ShapeError: If the targets have another shape than the output.

    Example:
        >>> Bernoulli().distribution(torch.zeros(5, 3)).event_shape
        torch.Size([3])
    """

    is_classifier = True

    def __init__(self, *, ignore_index: int | None = None) -> None:
        super().__init__()
        if ignore_index is not None and (not is_whole(ignore_index) or ignore_index in (0, 1)):
            raise ConfigError(
                "Bernoulli",
                expected="an integer ignore_index other than 0 and 1, or None",
                got=repr(ignore_index),
                hint="-1 is usual.",
            )
        self.ignore_index = ignore_index

    @override
    def distribution(self, output: Tensor, batch_ndim: int = 1) -> dist.TorchDistribution:
        if self.ignore_index is None:
            fn = dist.Bernoulli(logits=output)
        else:
            fn = PartlyObservedBernoulli(output, self.ignore_index)
        return fn.to_event(output.ndim - batch_ndim)

    def _is_missing(self, y: Tensor) -> Tensor:
        if self.ignore_index is None:
            return torch.zeros_like(y, dtype=torch.bool)
        return y == self.ignore_index

    @override
    def target(self, output: Tensor, y: Tensor) -> Tensor:
        y = match_shape("Bernoulli", output, y).to(output.dtype)
        good = (y == 0) | (y == 1) | self._is_missing(y)
        if not takes_plain_operations() and not bool(good.all()):
            given = self.ignore_index is not None
            raise DataError(
                "Bernoulli",
                expected="targets of 0 and 1" + (f", and {self.ignore_index}" if given else ""),
                got=f"{float(y[~good][0]):g} in row {first_row(~good)} of the batch",
                hint="Threshold or sample grey values first. Missing targets have a number that "
                "bd.Bernoulli(ignore_index=...) is told.",
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
        """Return the probability of 1 and the target of every labelled output, ``(M,)`` each."""
        flat, labels = probabilities.reshape(-1), self.target(probabilities, y).reshape(-1)
        if not bool((missing := self._is_missing(labels)).any()):
            return flat, labels
        return flat[~missing], labels[~missing]

    def extra_repr(self) -> str:
        """Show the label of missing ones, if there may be any."""
        return "" if self.ignore_index is None else f"ignore_index={self.ignore_index}"


class PartlyObservedBernoulli(dist.Bernoulli):
    """A Bernoulli distribution in which one value says that nothing was observed.

    It draws 0 and 1 only; the value adds nothing to a log density.

    Args:
        logits: Any shape.
        ignore_index: The value.
    """

    def __init__(
        self, logits: Tensor, ignore_index: int, validate_args: bool | None = None
    ) -> None:
        self.ignore_index = ignore_index
        super().__init__(logits=logits, validate_args=validate_args)

    @override
    def expand(self, batch_shape: Any, _instance: Any = None) -> PartlyObservedBernoulli:
        new = self._get_checked_instance(PartlyObservedBernoulli, _instance)
        new.ignore_index = self.ignore_index
        return super().expand(batch_shape, _instance=new)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        missing = value == self.ignore_index
        observed = super().log_prob(value.masked_fill(missing, 0.0))
        return observed.masked_fill(missing, 0.0)
