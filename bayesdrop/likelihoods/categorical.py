"""Classes, one a row or one a pixel, some of them unlabelled."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.likelihoods.likelihood import Likelihood, require_rows
from bayesdrop.ops.transforms import takes_plain_operations

_FEW_CLASSES, _FEW_ROWS = 32, 200


class Categorical(Likelihood):
    r"""Classification: :math:`y_{nj} \sim \mathrm{Categorical}(\mathrm{softmax}_c(f_{ncj}))`.

    The shapes are those of ``torch.nn.functional.cross_entropy``: classes in dimension 1, and
    further dimensions (pixels, time steps) after it. The elements of an example are independent
    given the output. Probabilities keep the output's shape; entropies and confidence have the
    target's, one number for each element.

    Args:
        ignore_index: The label of elements without one, as in torch. They count nowhere: not in
            the objective, not in error, not in any average.

    Shape:  network output ``(N, C, ...)`` logits; target ``(N, ...)`` integers in ``[0, C)`` or
        ``ignore_index``.

    Raises:
        ConfigError: If ``ignore_index`` is no integer.
        DataError: If a label is out of range or no integer.
        ShapeError: If targets and output do not fit.

    Example:
        >>> import torch
        >>> Categorical().distribution(torch.zeros(5, 3)).batch_shape
        torch.Size([5])
        >>> Categorical().distribution(torch.zeros(5, 3, 8, 8)).event_shape
        torch.Size([8, 8])
    """

    is_classifier = True
    has_logits = True

    def __init__(self, *, ignore_index: int = -100) -> None:
        super().__init__()
        if not isinstance(ignore_index, int) or isinstance(ignore_index, bool):
            raise ConfigError(
                "Categorical",
                expected="an integer ignore_index",
                got=repr(ignore_index),
                hint="torch's default is -100; many segmentation sets use 255.",
            )
        self.ignore_index = ignore_index

    @override
    def distribution(self, output: Tensor, batch_ndim: int = 1) -> dist.TorchDistribution:
        fn = PartlyObserved(output.movedim(batch_ndim, -1), self.ignore_index)
        return fn.to_event(output.ndim - batch_ndim - 1)

    @override
    def target(self, output: Tensor, y: Tensor) -> Tensor:
        if output.ndim < 2 or output.shape[1] < 2:
            one = output.ndim == 2 and output.shape[1] == 1
            raise ShapeError(
                "Categorical",
                expected="network output of shape (N, classes) or (N, classes, ...)",
                got=str(tuple(output.shape)),
                hint="With one output every loss is 0: take two, or bd.Bernoulli()."
                if one
                else "Does the network end in a Linear layer with one output per class?",
            )
        require_rows("Categorical", output, y)
        shape = (output.shape[0], *output.shape[2:])
        if tuple(y.shape) != shape or y.is_floating_point():
            raise DataError(
                "Categorical",
                expected=f"integer labels of shape {shape}",
                got=f"{y.dtype} of shape {tuple(y.shape)}",
                hint=_label_hint(output, y),
            )
        # On an accelerator the check would wait for the device at every step; under a transform
        # there is no value.
        if y.device.type == "cpu" and not takes_plain_operations():
            labels = y if _in_range(y, output.shape[1]) else y[y != self.ignore_index]
            if not _in_range(labels, output.shape[1]):
                raise DataError(
                    "Categorical",
                    expected=f"labels in 0..{output.shape[1] - 1}",
                    got=f"labels from {int(labels.min())} to {int(labels.max())}",
                    hint="Does the network have one output per class? A missing label is "
                    f"{self.ignore_index} here, see ignore_index of bd.Categorical.",
                )
        return y.long()

    @override
    def log_prob(self, output: Tensor, y: Tensor) -> Tensor:
        terms = self.label_log_prob(output, y)
        return terms.flatten(1).sum(1) if terms.ndim > 1 else terms

    @override
    def label_log_prob(self, output: Tensor, y: Tensor) -> Tensor:
        target = self.target(output, y)
        return -F.cross_entropy(output, target, reduction="none", ignore_index=self.ignore_index)

    @override
    def nll(self, output: Tensor, y: Tensor) -> Tensor:
        target = self.target(output, y)
        return F.cross_entropy(output, target, reduction="sum", ignore_index=self.ignore_index)

    @override
    def moments(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        if output.ndim == 2 and output.shape[1] <= _FEW_CLASSES and len(output) > _FEW_ROWS:
            # Along the rows of the transposed matrix torch's softmax is several times faster.
            return output.t().softmax(0).t(), None
        return output.softmax(1), None

    @override
    def flatten_labels(self, probabilities: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        flat, labels = super().flatten_labels(probabilities, y)
        if not bool((missing := labels == self.ignore_index).any()):
            return flat, labels
        return flat[~missing], labels[~missing]

    @override
    def doubt(self, output: Tensor) -> str | None:
        if output.ndim < 2 or output.shape[1] < 2 or bool((output < 0).any()):
            return None
        if not bool(((output.sum(1) - 1).abs() < 1e-3).all()):
            return None
        return (
            "every row of the network's output is >= 0 and sums to 1. bd.Categorical takes logits "
            "and applies the softmax itself: leave out the network's own."
        )

    def extra_repr(self) -> str:
        """Show the label of missing ones where it is not torch's."""
        return "" if self.ignore_index == -100 else f"ignore_index={self.ignore_index}"


def _in_range(labels: Tensor, classes: int) -> bool:
    if not labels.numel():
        return True
    least, most = torch.aminmax(labels)
    return 0 <= int(least) and int(most) < classes


def _label_hint(output: Tensor, y: Tensor) -> str:
    if output.ndim > 2 and y.shape == output.shape[:-1]:
        return "Classes go into dimension 1: output.movedim(-1, 1)."
    return "One-hot labels? Use y.argmax(1). Float labels? Use y.long()."


class PartlyObserved(dist.Categorical):
    """A categorical distribution in which one label says that nothing was observed.

    It draws classes only; the label adds nothing to a log density.

    Args:
        logits: ``(..., C)``.
        ignore_index: The label.
    """

    def __init__(
        self, logits: Tensor, ignore_index: int, validate_args: bool | None = None
    ) -> None:
        self.ignore_index = ignore_index
        super().__init__(logits=logits, validate_args=validate_args)

    @override
    def expand(self, batch_shape: Any, _instance: Any = None) -> PartlyObserved:
        new = self._get_checked_instance(PartlyObserved, _instance)
        new.ignore_index = self.ignore_index
        return super().expand(batch_shape, _instance=new)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        missing = value == self.ignore_index
        observed = super().log_prob(value.masked_fill(missing, 0))
        return observed.masked_fill(missing, 0.0)
