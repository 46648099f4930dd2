"""The one gate through which all metrics take probabilities, labels and scores."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from bayesdrop.errors import DataError, ShapeError, describe

Array: TypeAlias = "Tensor | np.ndarray"

# Room for rounding in float32 softmax averages and in probabilities written with four digits.
SUM_TOLERANCE = 1e-3


def as_probabilities(who: str, probabilities: Array) -> Tensor:
    """Return class probabilities ``(N, C)`` in float64 on the CPU, or say what is wrong.

    ``(N,)`` holds P(y = 1) of a binary problem and becomes ``(N, 2)``.

    Raises:
        ShapeError: If the shape is neither.
        DataError: If there are none, or they are not finite, outside [0, 1] or do not sum to one.
    """
    values = torch.as_tensor(probabilities).detach().to("cpu", torch.float64)
    if values.ndim not in (1, 2) or values.shape[-1:] == (1,) and values.ndim == 2:
        raise ShapeError(
            describe(
                who,
                expected="probabilities of shape (N, classes), or (N,) for P(y = 1)",
                got=str(tuple(values.shape)),
                hint="Average posterior samples first: samples.mean(0). Binary? Use squeeze(1).",
            )
        )
    _require_examples(who, "probabilities", values)
    _require_finite(who, "probabilities", values)
    if values.min() < 0.0 or values.max() > 1.0:
        raise DataError(
            describe(
                who,
                expected="probabilities in [0, 1]",
                got=f"values from {float(values.min()):g} to {float(values.max()):g}",
                hint="Are these logits? Apply softmax first.",
            )
        )
    if values.ndim == 1:
        return torch.stack([1.0 - values, values], dim=1)
    error = (values.sum(1) - 1.0).abs()
    if error.max() > SUM_TOLERANCE:
        row = int(error.argmax())
        raise DataError(
            describe(
                who,
                expected="probabilities that sum to one in every row",
                got=f"a sum of {float(values[row].sum()):g} in row {row}",
                hint="Several binary outputs? Evaluate them one at a time.",
            )
        )
    return values


def as_labels(who: str, labels: Array, probabilities: Tensor) -> Tensor:
    """Return labels ``(N,)`` as int64 on the CPU, or say why they do not go with probabilities.

    Raises:
        ShapeError: If there is not one label for each row.
        DataError: If they are not integers in ``[0, C)``.
    """
    values = torch.as_tensor(labels).detach().to("cpu")
    count, num_classes = probabilities.shape
    if values.shape != (count,):
        raise ShapeError(
            describe(
                who,
                expected=f"{count} labels, one for each row of probabilities",
                got=f"labels of shape {tuple(values.shape)}",
                hint="One-hot labels? Use labels.argmax(1).",
            )
        )
    if values.is_floating_point():
        _require_finite(who, "labels", values)
        if bool((values != values.round()).any()):
            raise DataError(
                describe(
                    who,
                    expected="integer labels",
                    got=f"{values.dtype} with fractions",
                    hint="Are these regression targets?",
                )
            )
    values = values.long()
    if values.min() < 0 or values.max() >= num_classes:
        raise DataError(
            describe(
                who,
                expected=f"labels in 0..{num_classes - 1}",
                got=f"labels from {int(values.min())} to {int(values.max())}",
                hint="Are the labels those of another data set?",
            )
        )
    return values


def as_scores(who: str, name: str, scores: Array) -> Tensor:
    """Return scores ``(N,)`` in float64 on the CPU, or say what is wrong.

    Raises:
        ShapeError: If the shape is not ``(N,)``.
        DataError: If there are none or they are not finite.
    """
    values = torch.as_tensor(scores).detach().to("cpu", torch.float64)
    if values.ndim != 1:
        raise ShapeError(
            describe(
                who,
                expected=f"{name} scores of shape (N,)",
                got=str(tuple(values.shape)),
                hint="Pass one number for each example, such as its predictive entropy.",
            )
        )
    _require_examples(who, f"{name} scores", values)
    _require_finite(who, f"{name} scores", values)
    return values


def _require_examples(who: str, what: str, values: Tensor) -> None:
    if values.numel() == 0:
        raise DataError(
            describe(
                who,
                expected=f"{what} of at least one example",
                got=f"none, shape {tuple(values.shape)}",
                hint="Is the data set empty?",
            )
        )


def _require_finite(who: str, what: str, values: Tensor) -> None:
    bad = ~torch.isfinite(values).reshape(values.shape[0], -1).all(1)
    if bool(bad.any()):
        raise DataError(
            describe(
                who,
                expected=f"finite {what}",
                got=f"nan or infinity in row {int(bad.nonzero()[0])}",
                hint="Did the network diverge?",
            )
        )
