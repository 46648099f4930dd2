"""A metric object of torchmetrics for predictions and their uncertainty."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bayesdrop.errors import DataError
from bayesdrop.metrics import ClassifierFigures
from bayesdrop.metrics.arrays import Array, as_tensor
from bayesdrop.record import Record

if TYPE_CHECKING:
    _Metric: Any = object
else:
    try:
        from torchmetrics import Metric as _Metric
    except ImportError as error:
        raise ImportError(
            "bayesdrop.integrations.torchmetrics needs torchmetrics: "
            "pip install bayesdrop[torchmetrics]."
        ) from error


class PredictionMetric(_Metric):
    """Any figure of merit of this package as an object of torchmetrics.

    It keeps what ``update`` is given, on all processes, and computes the figure of all examples at
    once: a calibration error, or an area under a curve, is no average of those of batches::

        self.ece = PredictionMetric(bd.metrics.expected_calibration_error)
        ...
        self.ece.update(probabilities, labels)  # in validation_step
        self.log("val_ece", self.ece)

    Args:
        function: Called as ``function(predictions, labels, **options)``; it returns a number, or
            a record or mapping of numbers, of which ``compute`` makes a dictionary of tensors, as
            ``MetricCollection`` and ``log_dict`` take it. None gives all of ``ClassifierFigures``.
        options: Of the function, such as ``{"num_bins": 10}``.
        **settings: Of ``torchmetrics.Metric``.

    Shape:
        Predictions are probabilities ``(N, C)``, posterior samples ``(S, N, C)``, or of a
        regression whatever the function takes with the examples in the dimension before the last,
        or in the only one.

    Example:
        >>> import bayesdrop as bd
        >>> brier = PredictionMetric(bd.metrics.brier_score)
        >>> brier.update(torch.tensor([[0.75, 0.25]]), torch.tensor([0]))
        >>> brier.update(torch.tensor([[0.25, 0.75]]), torch.tensor([1]))
        >>> brier.compute()
        tensor(0.1250)
    """

    is_differentiable = False
    full_state_update = False

    def __init__(
        self,
        function: Callable[..., object] | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.function = ClassifierFigures.from_predictions if function is None else function
        self.options = dict(options or {})
        # Examples come first, since processes join their states there.
        self.add_state("predictions", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, predictions: Array, labels: Array) -> None:
        """Add a batch.

        Args:
            predictions: Of its examples.
            labels: Classes or targets ``(N, ...)``.

        Raises:
            DataError: If they are not of as many examples.
        """
        p, y = as_tensor("PredictionMetric", predictions), as_tensor("PredictionMetric", labels)
        p = p.movedim(-2, 0) if p.ndim > 1 else p
        if p.ndim == 0 or y.ndim == 0 or len(p) != len(y):
            raise DataError(
                "PredictionMetric",
                expected="as many labels as predictions",
                got=f"shapes {tuple(as_tensor('', predictions).shape)} and {tuple(y.shape)}",
                hint="Predictions are (N, C) or (S, N, C), labels (N,).",
            )
        self.predictions.append(p)
        self.labels.append(y)

    def compute(self) -> Tensor | dict[str, Tensor]:
        """Return the figure of all examples so far, or several by name.

        Raises:
            DataError: If there was no batch.
        """
        if not len(self.labels):
            raise DataError(
                "PredictionMetric",
                expected="at least one batch",
                got="none",
                hint="Call update(predictions, labels) first.",
            )
        p, y = (_joined(state) for state in (self.predictions, self.labels))
        found: object = self.function(p.movedim(0, -2) if p.ndim > 1 else p, y, **self.options)
        found = found.to_dict() if isinstance(found, Record) else found
        if isinstance(found, Mapping):
            return {name: self._tensor(value) for name, value in _numbers(found).items()}
        return self._tensor(found)

    def _tensor(self, value: Any) -> Tensor:
        return torch.as_tensor(value, device=self.device, dtype=torch.get_default_dtype())


def _joined(state: Any) -> Tensor:
    # After processes have joined theirs it is a tensor already.
    return state if isinstance(state, Tensor) else torch.cat(list(state))


def _numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found[f"{prefix}{name}"] = value
    return found
