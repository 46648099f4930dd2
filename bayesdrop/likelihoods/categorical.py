"""Classes, one a row or one a pixel, some of them unlabelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.likelihoods.likelihood import Likelihood, require_rows
from bayesdrop.nn.arguments import is_real, is_whole
from bayesdrop.ops.transforms import takes_plain_operations

_FEW_CLASSES, _FEW_ROWS = 32, 200


class Categorical(Likelihood):
    r"""Classification: :math:`y_{nj} \sim \mathrm{Categorical}(\mathrm{softmax}_c(f_{ncj}))`.

    The shapes are those of ``torch.nn.functional.cross_entropy``: classes in dimension 1, and
    further dimensions (pixels, time steps) after it; ``class_dim`` says where else they are. The
    elements of an example are independent given the output. Probabilities, of ``predict`` too,
    have the classes in dimension 1 whatever ``class_dim`` is; entropies and confidence have the
    target's shape, one number for each element.

    The unit that :math:`N`, batches and leave-one-out count is the example, an image or a
    sequence, whose elements' log-probabilities are summed: a pixel is no example of its own.

    Args:
        ignore_index: The label of elements without one, as in torch. They count nowhere: not in
            the objective, not in error, not in any average.
        class_dim: Dimension of the classes in the output, counted with the batch as dimension 0;
            -1 for the ``(N, T, C)`` of a Linear layer on every time step.
        class_weights: :math:`w_c \ge 0` for each class, ``(C,)``; None is 1 for all.
        label_smoothing: :math:`\epsilon` in [0, 1).

    With the last two the objective is the pseudo-likelihood of torch's cross-entropy,

    .. math::
        \ell_{nj} = (1 - \epsilon)\, w_{y_{nj}} \log p_{n y_{nj} j}
        + \frac{\epsilon}{C} \sum_c w_c \log p_{ncj},

    summed and not divided by the weights, so that it keeps its balance with the KL divergences:
    an element counts as :math:`w_y` of its kind, and smoothing adds :math:`\epsilon` of an
    element spread over the classes. It is no density of :math:`y`: the posterior is that of the
    weighted data. What is reported, the NLL of ``evaluate`` and of validation included, is
    :math:`\log p_{n y_{nj} j}` itself; leave-one-out is refused.

    Shape:  network output ``(N, C, ...)`` logits, or ``(N, ..., C)`` by ``class_dim``; target
        ``(N, ...)`` integers in ``[0, C)`` or ``ignore_index``.

    Raises:
        ConfigError: If an argument makes no sense.
        DataError: If a label is out of range or no integer.
        ShapeError: If targets, output and class weights do not fit.

    Example:
        >>> import torch
        >>> Categorical().distribution(torch.zeros(5, 3)).batch_shape
        torch.Size([5])
        >>> Categorical().distribution(torch.zeros(5, 3, 8, 8)).event_shape
        torch.Size([8, 8])
        >>> Categorical(class_dim=-1).distribution(torch.zeros(5, 8, 3)).event_shape
        torch.Size([8])
    """

    is_classifier = True
    has_logits = True
    class_weights: Tensor | None

    def __init__(
        self,
        *,
        ignore_index: int = -100,
        class_dim: int = 1,
        class_weights: Tensor | Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if not is_whole(ignore_index):
            raise ConfigError(
                "Categorical",
                expected="an integer ignore_index",
                got=repr(ignore_index),
                hint="torch's default is -100; many segmentation sets use 255.",
            )
        if not is_whole(class_dim) or class_dim == 0:
            raise ConfigError(
                "Categorical",
                expected="an integer class_dim other than 0, which is the batch",
                got=repr(class_dim),
                hint="1 is torch's place for the classes, -1 the last dimension.",
            )
        if not is_real(label_smoothing) or not 0 <= label_smoothing < 1:
            raise ConfigError(
                "Categorical",
                expected="0 <= label_smoothing < 1",
                got=repr(label_smoothing),
                hint="0.1 is usual; 1 would leave nothing of the labels.",
            )
        self.ignore_index = int(ignore_index)
        self.class_dim = int(class_dim)
        self.label_smoothing = float(label_smoothing)
        weights = None if class_weights is None else _as_weights(class_weights)
        self.register_buffer("class_weights", weights)

    @property
    @override
    def is_density(self) -> bool:
        return self.class_weights is None and not self.label_smoothing

    @override
    def distribution(self, output: Tensor, batch_ndim: int = 1) -> dist.TorchDistribution:
        position = self.class_dim + (batch_ndim - 1 if self.class_dim > 0 else 0)
        logits = output.movedim(position, -1)
        weights = None if self.class_weights is None else self.class_weights.to(output.dtype)
        fn = PartlyObserved(logits, self.ignore_index, weights, self.label_smoothing)
        return fn.to_event(logits.ndim - 1 - batch_ndim)

    @override
    def logits(self, output: Tensor) -> Tensor:
        return output if self.class_dim == 1 else output.movedim(self.class_dim, 1)

    @override
    def target(self, output: Tensor, y: Tensor) -> Tensor:
        return self._checked(output, y, self.class_dim)

    def _checked(self, output: Tensor, y: Tensor, class_dim: int) -> Tensor:
        self._check_output(output, class_dim)
        require_rows("Categorical", output, y)
        logits = output if class_dim == 1 else output.movedim(class_dim, 1)
        shape, classes = (len(logits), *logits.shape[2:]), logits.shape[1]
        truth = y.dtype == torch.bool and classes > 2
        if tuple(y.shape) != shape or y.is_floating_point() or truth:
            raise DataError(
                "Categorical",
                expected=f"integer labels of shape {shape}",
                got=f"{y.dtype} of shape {tuple(y.shape)}",
                hint=_label_hint(output, y, class_dim),
            )
        y = y.long()  # first: -1 is 255 to a tensor of uint8
        # On an accelerator the check would wait for the device at every step; under a transform
        # there is no value.
        if y.device.type == "cpu" and not takes_plain_operations():
            labels = y if _in_range(y, classes) else y[y != self.ignore_index]
            if not _in_range(labels, classes):
                raise DataError(
                    "Categorical",
                    expected=f"labels in 0..{classes - 1}",
                    got=f"labels from {int(labels.min())} to {int(labels.max())}",
                    hint="Does the network have one output per class? A missing label is "
                    f"{self.ignore_index} here, see ignore_index of bd.Categorical.",
                )
        return y

    def _check_output(self, output: Tensor, class_dim: int) -> None:
        there = output.ndim >= 2 and -output.ndim < class_dim < output.ndim
        classes = output.shape[class_dim] if there else 0
        if classes < 2:
            last = class_dim == -1
            where = "(N, classes) or " + ("(N, ..., classes)" if last else "(N, classes, ...)")
            raise ShapeError(
                "Categorical",
                expected="network output of shape "
                + (where if class_dim in (-1, 1) else f"with classes in dimension {class_dim}"),
                got=str(tuple(output.shape)),
                hint="With one output every loss is 0: take two, or bd.Bernoulli()."
                if classes == 1
                else "Does the network end in a Linear layer with one output per class?",
            )
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise ShapeError(
                "Categorical",
                expected=f"a weight for each of {classes} classes",
                got=f"{len(self.class_weights)} class_weights",
                hint="Does the network have one output per class, in the dimension class_dim?",
            )

    @override
    def log_prob(self, output: Tensor, y: Tensor) -> Tensor:
        return _by_example(-self._cross_entropy(output, y))

    @override
    def log_density(self, output: Tensor, y: Tensor) -> Tensor:
        return _by_example(self.label_log_prob(output, y))

    @override
    def label_log_prob(self, output: Tensor, y: Tensor) -> Tensor:
        target, logits = self.target(output, y), self.logits(output)
        return -F.cross_entropy(logits, target, reduction="none", ignore_index=self.ignore_index)

    @override
    def nll(self, output: Tensor, y: Tensor) -> Tensor:
        return self._cross_entropy(output, y, "sum")

    def _cross_entropy(self, output: Tensor, y: Tensor, reduction: str = "none") -> Tensor:
        target, logits = self.target(output, y), self.logits(output)
        return F.cross_entropy(
            logits,
            target,
            None if self.class_weights is None else self.class_weights.to(logits.dtype),
            ignore_index=self.ignore_index,
            reduction=reduction,
            label_smoothing=self.label_smoothing,
        )

    @override
    def moments(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        self._check_output(output, self.class_dim)
        logits = self.logits(output)
        if logits.ndim == 2 and logits.shape[1] <= _FEW_CLASSES and len(logits) > _FEW_ROWS:
            # Along the rows of the transposed matrix torch's softmax is several times faster.
            return logits.t().softmax(0).t(), None
        return logits.softmax(1), None

    @override
    def flatten_labels(self, probabilities: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        labels = self._checked(probabilities, y, 1).flatten()
        flat = probabilities.movedim(1, -1).reshape(-1, probabilities.shape[1])
        if not bool((missing := labels == self.ignore_index).any()):
            return flat, labels
        return flat[~missing], labels[~missing]

    @override
    def doubt(self, output: Tensor) -> str | None:
        there = output.ndim >= 2 and -output.ndim < self.class_dim < output.ndim
        if not there or output.shape[self.class_dim] < 2 or bool((output < 0).any()):
            return None
        if not bool(((output.sum(self.class_dim) - 1).abs() < 1e-3).all()):
            return None
        return (
            "every row of the network's output is >= 0 and sums to 1. bd.Categorical takes logits "
            "and applies the softmax itself: leave out the network's own."
        )

    def extra_repr(self) -> str:
        """Show what is not the default."""
        parts = {
            "ignore_index": self.ignore_index if self.ignore_index != -100 else None,
            "class_dim": self.class_dim if self.class_dim != 1 else None,
            "class_weights": None if self.class_weights is None else self.class_weights.tolist(),
            "label_smoothing": self.label_smoothing or None,
        }
        return ", ".join(f"{name}={value}" for name, value in parts.items() if value is not None)


def _as_weights(values: Tensor | Sequence[float]) -> Tensor:
    try:
        weights = torch.as_tensor(values, dtype=torch.get_default_dtype()).detach().clone()
    except (TypeError, ValueError, RuntimeError):
        weights = torch.zeros(0)
    good = weights.ndim == 1 and weights.numel() > 1 and bool(torch.isfinite(weights).all())
    if not good or bool((weights < 0).any()) or not bool((weights > 0).any()):
        raise ConfigError(
            "Categorical",
            expected="class_weights >= 0 and finite, one for each class, not all 0",
            got=repr(values),
            hint="len(y) / (C * torch.bincount(y)) makes all classes count alike.",
        )
    return weights


def _by_example(terms: Tensor) -> Tensor:
    return terms.flatten(1).sum(1) if terms.ndim > 1 else terms


def _in_range(labels: Tensor, classes: int) -> bool:
    if not labels.numel():
        return True
    least, most = torch.aminmax(labels)
    return 0 <= int(least) and int(most) < classes


def _label_hint(output: Tensor, y: Tensor, class_dim: int) -> str:
    if output.ndim > 2 and class_dim != -1 and y.shape == output.shape[:-1]:
        return (
            "Classes go into dimension 1: output.movedim(-1, 1), or bd.Categorical(class_dim=-1)."
        )
    if output.ndim > 2 and class_dim != 1 and y.shape == output.shape[:1] + output.shape[2:]:
        return "The classes seem to be in dimension 1: leave class_dim out."
    if y.ndim > 1 and y.shape[1] == 1:  # of which argmax(1) makes zeros
        return f"A {'column of labels' if y.ndim == 2 else 'channel'}? Use y.squeeze(1)."
    if y.dtype == torch.bool and y.ndim == 1:
        return "Truth values are the labels of two classes: were they compared with one class?"
    return "One-hot labels? Use y.argmax(1). Float labels? Use y.long()."


class PartlyObserved(dist.Categorical):
    """A categorical distribution in which one label says that nothing was observed.

    It draws classes only; the label adds nothing to a log density.

    Args:
        logits: ``(..., C)``.
        ignore_index: The label.
        weights: Of the classes, in the log density; None for none.
        smoothing: Label smoothing, likewise.
    """

    def __init__(
        self,
        logits: Tensor,
        ignore_index: int,
        weights: Tensor | None = None,
        smoothing: float = 0.0,
        validate_args: bool | None = None,
    ) -> None:
        self.ignore_index, self.weights, self.smoothing = ignore_index, weights, smoothing
        super().__init__(logits=logits, validate_args=validate_args)

    @override
    def expand(self, batch_shape: Any, _instance: Any = None) -> PartlyObserved:
        new = self._get_checked_instance(PartlyObserved, _instance)
        new.ignore_index, new.weights = self.ignore_index, self.weights
        new.smoothing = self.smoothing
        return super().expand(batch_shape, _instance=new)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        missing = value == self.ignore_index
        value = value.masked_fill(missing, 0)
        observed = super().log_prob(value)
        if self.weights is not None:
            observed = observed * self.weights[value]
        if self.smoothing:
            each = self.logits if self.weights is None else self.logits * self.weights
            observed = (1 - self.smoothing) * observed + self.smoothing * each.mean(-1)
        return observed.masked_fill(missing, 0.0)
