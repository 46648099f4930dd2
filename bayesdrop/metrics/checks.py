"""The one gate through which all metrics take probabilities, labels and scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.metrics.arrays import Array, as_tensor, check_index
from bayesdrop.metrics.sixteen_bits import SIXTEEN_BITS, held_in, simplest_rows, simplest_shares

# Room for rounding in float32 softmax averages and in probabilities written with four digits; what
# has fewer digits gets two of its own rounding errors, and is divided by its sum.
SUM_TOLERANCE = 1e-3

ROUNDING = 1e-6
"""How far a probability or a pixel may be outside [0, 1]: float32 averages are, by less."""


def as_probabilities(who: str, probabilities: Array) -> Tensor:
    """Return class probabilities ``(N, C)`` in float64 on the CPU, or say what is wrong.

    ``(N,)`` holds P(y = 1) of a binary problem and becomes ``(N, 2)``. Numbers of 16 bits are the
    simplest shares that round to them, in a row those of one denominator, or else divided by their
    sum.

    Raises:
        ShapeError: If the shape is neither.
        DataError: If there are none, or they are not finite, outside [0, 1] or do not sum to one,
            each by more than rounding.
    """
    raw = as_tensor(who, probabilities)
    values = raw.to("cpu", torch.float64)
    if values.ndim not in (1, 2) or values.shape[-1:] == (1,) and values.ndim == 2:
        raise ShapeError(
            who,
            expected="probabilities of shape (N, classes), or (N,) for P(y = 1)",
            got=str(tuple(values.shape)),
            hint="Average posterior samples first: samples.mean(0). Binary? Use squeeze(1). "
            "Pixels or steps? bnn.likelihood.flatten_labels(p, y) makes them rows.",
        )
    require_examples(who, "probabilities", values)
    require_finite(who, "probabilities", values)
    coarse = raw.dtype if raw.dtype in SIXTEEN_BITS else None
    rounding = max(ROUNDING, _digits(coarse))
    if values.min() < -rounding or values.max() > 1.0 + rounding:
        raise DataError(
            who,
            expected="probabilities in [0, 1]",
            got=f"values from {float(values.min()):.8g} to {float(values.max()):.8g}",
            hint="Are these logits? Apply softmax first.",
        )
    values = values.clamp(0.0, 1.0)
    if values.ndim == 1:
        values = values if coarse is None else simplest_shares(values, coarse)
        return torch.stack([1.0 - values, values], dim=1)
    error = (values.sum(1) - 1.0).abs()
    if coarse is None and error.max() > SUM_TOLERANCE:
        coarse = held_in(values)  # NumPy has no bfloat16: it comes as float32.
    if error.max() > max(SUM_TOLERANCE, _digits(coarse)):
        row = int(error.argmax())
        raise DataError(
            who,
            expected="probabilities that sum to one in every row",
            got=f"a sum of {float(values[row].sum()):g} in row {row}",
            hint="Several binary outputs? Evaluate them one at a time. Rounded? Divide by the "
            "sums: p / p.sum(1, keepdims=True).",
        )
    if coarse is None:
        return values
    return simplest_rows(values, coarse)


def _digits(coarse: torch.dtype | None) -> float:
    """Return two rounding errors of numbers of 16 bits near one; 0.0 for others."""
    return 0.0 if coarse is None else 2.0 * torch.finfo(coarse).eps


def as_samples(who: str, samples: Array) -> Iterator[Tensor]:
    """Check ``(S, N, C)`` and return its ``(N, C)`` one by one, in float64 on the CPU.

    Only one posterior sample at a time is copied.

    Raises:
        ShapeError: If the shape is not ``(S, N, C)`` with at least one sample.
        DataError: As ``as_probabilities``, naming the sample.
    """
    values = as_tensor(who, samples)
    if values.ndim != 3 or len(values) == 0:
        raise ShapeError(
            who,
            expected="probabilities of shape (posterior samples, N, classes)",
            got=str(tuple(values.shape)),
            hint="One prediction only? Pass probabilities[None]. Pixels or steps? "
            "bnn.likelihood.flatten_labels(p, y) makes them rows.",
        )
    return (as_probabilities(f"{who}, sample {s}", values[s]) for s in range(len(values)))


def as_mean_probabilities(who: str, predictions: Array) -> Tensor:
    """Return ``(N, C)`` from ``(N, C)``, ``(N,)`` or, averaged over samples, ``(S, N, C)``.

    Raises:
        ShapeError: As ``as_probabilities``.
        DataError: As ``as_probabilities``.
    """
    values = as_tensor(who, predictions)
    if values.ndim != 3:
        return as_probabilities(who, values)
    samples = as_samples(who, values)
    total = next(samples).clone()
    for sample in samples:
        total += sample
    return total / len(values)


def as_labels(who: str, labels: Array, probabilities: Tensor, given: object = None) -> Tensor:
    """Return labels ``(N,)`` as int64 on the CPU, or say why they do not go with probabilities.

    Args:
        who: The function that asks.
        labels: The labels.
        probabilities: As they were checked.
        given: As they were given, with the index of their rows if they have one.

    Raises:
        ShapeError: If there is not one label for each row.
        DataError: If they are not integers in ``[0, C)``, or in another order than the rows.
    """
    check_index(who, given, labels)
    values = as_tensor(who, labels).to("cpu")
    count, num_classes = probabilities.shape
    if values.shape != (count,):
        column = values.shape == (count, 1)
        raise ShapeError(
            who,
            expected=f"{count} labels, one for each row of probabilities",
            got=f"labels of shape {tuple(values.shape)}",
            hint="A column of labels? Pass labels[:, 0]."
            if column
            else "One-hot labels? Use labels.argmax(1).",
        )
    if values.is_floating_point():
        require_finite(who, "labels", values)
        if bool((values != values.round()).any()):
            raise DataError(
                who,
                expected="integer labels",
                got=f"{values.dtype} with fractions",
                hint="Are these regression targets?",
            )
    if values.dtype == torch.bool and num_classes > 2:
        raise DataError(
            who,
            expected=f"labels in 0..{num_classes - 1}",
            got="truth values, which would be the labels 0 and 1",
            hint="Pass the labels themselves, not whether they are right.",
        )
    values = values.long()
    if values.min() < 0 or values.max() >= num_classes:
        raise DataError(
            who,
            expected=f"labels in 0..{num_classes - 1}",
            got=f"labels from {int(values.min())} to {int(values.max())}",
            hint="Are the labels those of another data set?",
        )
    return values


def as_scores(who: str, name: str, scores: Array) -> Tensor:
    """Return scores ``(N,)`` in float64 on the CPU, or say what is wrong.

    Raises:
        ShapeError: If the shape is not ``(N,)``.
        DataError: If there are none or they are not finite.
    """
    values = as_tensor(who, scores).to("cpu", torch.float64)
    if values.ndim != 1:
        raise ShapeError(
            who,
            expected=f"{name} scores of shape (N,)",
            got=str(tuple(values.shape)),
            hint="Pass one number for each example, such as its predictive entropy.",
        )
    require_examples(who, f"{name} scores", values)
    require_finite(who, f"{name} scores", values)
    return values


def as_indices(who: str, indices: Array | Sequence[int], count: int) -> list[int]:
    """Return which of ``count`` examples are meant, by their indices or a boolean mask.

    Raises:
        ConfigError: If there are none, or one is no integer in 0..count-1.
    """
    given = as_tensor(who, indices)
    if given.dtype == torch.bool and given.shape == (count,):
        given = given.nonzero()
    chosen = given.reshape(-1).tolist()
    whole = not given.is_floating_point() and given.dtype != torch.bool
    if not chosen or not whole or min(chosen) < 0 or max(chosen) >= count:
        raise ConfigError(
            who,
            expected=f"indices in 0..{count - 1}, integers",
            got=f"{min(chosen)} to {max(chosen)}" if chosen else "none",
            hint="Take them from most_uncertain or least_uncertain.",
        )
    return chosen


class Mixture(NamedTuple):
    """Checked predictions and targets of a regression, in float64 on the CPU."""

    means: Tensor
    """``(S, N, D)``"""
    variances: Tensor | None
    """``(S, N, D)``, or None if the means are plain samples of the target."""
    y: Tensor
    """``(N, D)``"""


def as_mixture(who: str, means: Array, y: Array, variances: Array | float | None) -> Mixture:
    """Return the samples' means ``(S, N, D)``, their variances and the targets ``(N, D)``.

    Without outputs, ``(S, N)`` and ``(N,)``, D = 1; of several dimensions, their product.

    Raises:
        ShapeError: If the shapes do not go together.
        DataError: If there are no examples, or values are not finite or variances negative.
    """
    mean, noise = as_components(who, means, variances)
    target = as_tensor(who, y).to("cpu", torch.float64)
    shape = as_tensor(who, means).shape[1:]
    if target.ndim == 0 or target.shape != shape and (*target.shape, 1) != tuple(shape):
        raise ShapeError(
            who,
            expected=f"targets of shape {tuple(shape)}",
            got=str(tuple(as_tensor(who, y).shape)),
            hint="Samples come first: means are (S, N) or (S, N, D), y is (N,) or (N, D).",
        )
    require_finite(who, "targets", target)
    return Mixture(mean, noise, target.reshape(mean.shape[1:]))


def as_components(
    who: str, means: Array, variances: Array | float | None
) -> tuple[Tensor, Tensor | None]:
    """Return means ``(S, N, D)`` and variances of the same shape, or say what is wrong.

    Raises:
        ShapeError: If the shapes do not go together.
        DataError: If there are no examples, or values are not finite or variances negative.
    """
    mean = as_tensor(who, means).to("cpu", torch.float64)
    if mean.ndim < 2 or len(mean) == 0:
        raise ShapeError(
            who,
            expected="samples of shape (S, N) or (S, N, outputs)",
            got=str(tuple(mean.shape)),
            hint="One prediction only? Pass means[None].",
        )
    require_examples(who, "samples", mean)
    require_finite(who, "samples", mean.transpose(0, 1))
    noise = None
    if variances is not None:
        noise = as_tensor(who, variances).to("cpu", torch.float64)
        try:
            noise = noise.broadcast_to(mean.shape)
        except RuntimeError as error:
            raise ShapeError(
                who,
                expected=f"variances that broadcast to {tuple(mean.shape)}",
                got=str(tuple(noise.shape)),
                hint="One variance for each mean, or a number for all.",
            ) from error
        require_finite(who, "variances", noise.transpose(0, 1))
        if noise.min() < 0.0:
            raise DataError(
                who,
                expected="variances >= 0",
                got=f"{float(noise.min()):g}",
                hint="Are these log-variances?",
            )
    shape = (*mean.shape[:2], -1)
    return mean.reshape(shape), None if noise is None else noise.reshape(shape)


def require_two_classes(who: str, target: Tensor) -> None:
    """Refuse a set whose labels are all the same.

    Raises:
        DataError: If only one class is present.
    """
    if bool((target == target[0]).all()):
        raise DataError(
            who,
            expected="labels of at least two classes",
            got=f"{len(target)} of class {int(target[0])} only",
            hint="Is the set sorted by class and cut? Shuffle it first.",
        )


def require_examples(who: str, what: str, values: Tensor) -> None:
    """Refuse an empty set.

    Raises:
        DataError: If there is none.
    """
    if values.numel() == 0:
        raise DataError(
            who,
            expected=f"{what} of at least one example",
            got=f"none, shape {tuple(values.shape)}",
            hint="Is the data set empty?",
        )


def require_finite(who: str, what: str, values: Tensor) -> None:
    """Refuse NaN and infinities, by the first row that has one.

    Raises:
        DataError: If a value is not finite.
    """
    bad = ~torch.isfinite(values).reshape(values.shape[0], -1).all(1)
    if bool(bad.any()):
        given = what in ("labels", "targets", "y")
        raise DataError(
            who,
            expected=f"finite {what}",
            got=f"nan or infinity in row {int(bad.nonzero()[0])}",
            hint="Leave out rows without one." if given else "Did the network diverge?",
        )
