"""Which part of an uncertainty is noise, which is doubt about the network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from bayesdrop.errors import ConfigError
from bayesdrop.metrics.arrays import as_tensor
from bayesdrop.metrics.calibration import class_errors
from bayesdrop.metrics.checks import (
    Array,
    as_components,
    as_indices,
    as_labels,
    as_probabilities,
    as_samples,
    as_scores,
)
from bayesdrop.metrics.examples import entropy_of, examples_of, nll_of, one_for_each
from bayesdrop.metrics.options import require_bins, require_count
from bayesdrop.record import Record


@dataclass(frozen=True, eq=False)
class EntropyParts:
    """What ``entropy_parts`` returns, in nats, float64.

    Args:
        mean: Probabilities averaged over posterior samples, ``(N, C)``.
        predictive_entropy: Entropy of ``mean``, ``(N,)``.
        expected_entropy: Average entropy of a sample, ``(N,)``.
        mutual_information: Their difference, >= 0, ``(N,)``, times :math:`S / (S - 1)` if
            unbiased; 0 with one sample.
        num_samples: Posterior samples :math:`S`.
    """

    mean: Tensor
    predictive_entropy: Tensor
    expected_entropy: Tensor
    mutual_information: Tensor
    num_samples: int

    @property
    def disagreement(self) -> Tensor | None:
        """The mutual information, if there were several samples to disagree."""
        return self.mutual_information if self.num_samples > 1 else None


def entropy_parts(samples: Array, *, unbiased: bool = False) -> EntropyParts:
    r"""Split the entropy of a classifier's prediction.

    .. math::
        \underbrace{H\big[\tfrac1S \textstyle\sum_s p_{ns}\big]}_{\text{predictive}} =
        \underbrace{\tfrac1S \textstyle\sum_s H[p_{ns}]}_{\text{expected}} +
        \underbrace{I_n}_{\text{mutual information}}

    Expected entropy is high where classes overlap, mutual information (BALD) where the posterior's
    networks disagree. One sample at a time is copied.

    The split is exact for the mixture of the samples. As an estimate for the posterior they are
    drawn from, the mutual information is too small, by :math:`1 - 1/S` to leading order.

    Args:
        samples: Probabilities of each posterior sample, ``(S, N, C)``.
        unbiased: Whether mutual information is multiplied by :math:`S / (S - 1)`, so that numbers
            of different :math:`S` can be compared. It may then exceed the predictive entropy.

    Raises:
        ConfigError: If ``unbiased`` is asked of one sample.
        DataError: If the values make no sense; ``ShapeError`` if the shapes do not.

    References:
        Houlsby et al. (2011), https://arxiv.org/abs/1112.5745; Depeweg et al. (2018),
        https://arxiv.org/abs/1710.07283.

    Example:
        >>> opposed = torch.eye(2)[:, None]  # two networks, each certain of another class
        >>> parts = entropy_parts(opposed)
        >>> bool(torch.equal(parts.mutual_information, parts.predictive_entropy))
        True
    """
    parts = _parts(as_samples("entropy_parts", samples))
    factor = _correction("entropy_parts", parts.num_samples, unbiased)
    return replace(parts, mutual_information=parts.mutual_information * factor)


def _correction(who: str, count: int, unbiased: bool) -> float:
    if unbiased and count < 2:
        raise ConfigError(
            who,
            expected="at least two samples for unbiased=True",
            got="one",
            hint="One sample does not tell how much samples differ.",
        )
    return count / (count - 1) if unbiased else 1.0


def parts_of(who: str, predictions: Array) -> EntropyParts:
    """Return the same, also of probabilities ``(N, C)`` or ``(N,)``, which count as one sample."""
    raw = as_tensor(who, predictions)
    return _parts(as_samples(who, raw) if raw.ndim > 2 else [as_probabilities(who, raw)])


def _parts(samples: Iterable[Tensor]) -> EntropyParts:
    total, entropy, count = torch.zeros(()), torch.zeros(()), 0
    for sample in samples:
        total, entropy = total + sample, entropy + entropy_of(sample)
        count += 1
    mean, expected = total / count, entropy / count
    predictive = entropy_of(mean)
    # >= 0 by Jensen's inequality, but for rounding.
    information = (predictive - expected).clamp(min=0.0)
    return EntropyParts(mean, predictive, expected, information, count)


@dataclass(frozen=True, eq=False)
class VarianceParts:
    """What ``variance_parts`` returns, in the squared units of ``y``, float64.

    Args:
        mean: Predictive mean, ``(N, D)`` (or ``(N,)``).
        variance: ``aleatoric_variance + epistemic_variance``, of the same shape.
        aleatoric_variance: Average variance of the noise.
        epistemic_variance: Variance of the samples' means.
        num_samples: Posterior samples :math:`S`.
    """

    mean: Tensor
    variance: Tensor
    aleatoric_variance: Tensor
    epistemic_variance: Tensor
    num_samples: int


def variance_parts(
    means: Array, variances: Array | float | None = None, *, unbiased: bool = False
) -> VarianceParts:
    r"""Split the variance of a regression's prediction: the law of total variance.

    .. math::
        \mathrm{Var}[y_n] =
        \underbrace{\tfrac1S \textstyle\sum_s \sigma^2_{ns}}_{\text{aleatoric}} +
        \underbrace{\tfrac1S \textstyle\sum_s (\mu_{ns} - \bar\mu_n)^2}_{\text{epistemic}}

    It is exact for the mixture of the samples' distributions, whatever their form, which is why
    the second term is divided by :math:`S` and not by :math:`S - 1`. As an estimate for the
    posterior that the samples are drawn from it is too small by that factor.

    Args:
        means: Mean of each posterior sample, ``(S, N)`` or ``(S, N, D)``.
        variances: Variance of each, or what broadcasts to it; None for no noise.
        unbiased: Whether to divide by :math:`S - 1`, so that numbers of different :math:`S` can be
            compared.

    Raises:
        ConfigError: If ``unbiased`` is asked of one sample.
        DataError: If the values make no sense; ``ShapeError`` if the shapes do not.

    Example:
        >>> parts = variance_parts(torch.tensor([[1.0], [3.0]]), 0.5)
        >>> parts.mean.tolist(), parts.epistemic_variance.tolist(), parts.variance.tolist()
        ([2.0], [1.0], [1.5])
    """
    values, noise = as_components("variance_parts", means, variances)
    factor = _correction("variance_parts", len(values), unbiased)
    epistemic = values.var(0, correction=0) * factor
    aleatoric = torch.zeros_like(epistemic) if noise is None else noise.mean(0)
    shape = as_tensor("variance_parts", means).shape[1:]
    return VarianceParts(
        mean=values.mean(0).reshape(shape),
        variance=(aleatoric + epistemic).reshape(shape),
        aleatoric_variance=aleatoric.reshape(shape),
        epistemic_variance=epistemic.reshape(shape),
        num_samples=len(values),
    )


def most_uncertain(scores: Array, k: int = 16) -> Tensor:
    """Return the indices of the ``k`` highest scores, the highest first.

    Of equal scores the first example counts; all are returned if there are fewer than ``k``.

    Args:
        scores: One uncertainty for each example, ``(N,)``.
        k: How many.

    Raises:
        ConfigError: If ``k`` is less than 1.
        DataError: If a score is not finite; ``ShapeError`` if they are not ``(N,)``.

    Example:
        >>> most_uncertain(torch.tensor([0.1, 0.7, 0.3]), k=2).tolist()
        [1, 2]
    """
    return _ranked("most_uncertain", scores, k, descending=True)


def least_uncertain(scores: Array, k: int = 16) -> Tensor:
    """Return the indices of the ``k`` lowest scores, the lowest first; else as ``most_uncertain``.

    Raises:
        ConfigError: If ``k`` is less than 1.
        DataError: If a score is not finite; ``ShapeError`` if they are not ``(N,)``.

    Example:
        >>> least_uncertain(torch.tensor([0.1, 0.7, 0.3]), k=2).tolist()
        [0, 2]
    """
    return _ranked("least_uncertain", scores, k, descending=False)


@dataclass(frozen=True)
class ClassRow(Record):
    """One class of ``table_by_class``; None where the test set has no such example.

    Args:
        label: The class.
        count: Test examples of this class.
        error: Share of them that are given another class, in percent.
        nll: Nats per example of this class.
        confidence: Average probability of the most probable class.
        predictive_entropy: Average, in nats.
        mutual_information: Average, in nats; None without posterior samples.
        calibration_error: That of this class's probability, over the whole set, 15 bins.
    """

    label: int
    count: int
    error: float | None
    nll: float | None
    confidence: float | None
    predictive_entropy: float | None
    mutual_information: float | None
    calibration_error: float


@dataclass(frozen=True)
class ExampleRow(Record):
    """One example of ``example_table``.

    Args:
        index: Its place in the test set.
        label: Its class; None without labels.
        predicted: The most probable class.
        confidence: Probability of that class.
        label_probability: Probability of its label; None without labels.
        predictive_entropy: In nats.
        mutual_information: In nats; None without posterior samples.
    """

    index: int
    label: int | None
    predicted: int
    confidence: float
    label_probability: float | None
    predictive_entropy: float
    mutual_information: float | None


@dataclass(frozen=True)
class UncertaintyTable:
    """Rows of one kind, as plain numbers or as text."""

    rows: tuple[ClassRow, ...] | tuple[ExampleRow, ...]

    def to_dict(self) -> list[dict[str, Any]]:
        """Return each row as a dictionary."""
        return [row.to_dict() for row in self.rows]

    @property
    def header(self) -> list[str]:
        """The names of the columns."""
        return [item.name.replace("_", " ") for item in fields(self.rows[0])]

    def cells(self) -> list[list[str]]:
        """Return the text of each row, with dashes for what is missing."""
        return [[_text(value) for value in row.to_dict().values()] for row in self.rows]


def table_by_class(
    predictions: Array,
    labels: Array,
    *,
    mutual_information: Array | None = None,
    log_likelihood: Array | None = None,
    num_bins: int = 15,
) -> UncertaintyTable:
    """Return error, likelihood, uncertainty and calibration of each class.

    Args:
        predictions: Posterior samples ``(S, N, C)``, or probabilities ``(N, C)`` or ``(N,)``.
        labels: Integers ``(N,)``.
        mutual_information: Goes with averaged probabilities: what their samples had, ``(N,)``.
        log_likelihood: Likewise, the log-probability of each label, ``(N,)`` in nats.
        num_bins: Equal-width bins of the calibration error.

    Raises:
        ConfigError: If ``num_bins`` is less than 1.
        DataError: If the values make no sense; ``ShapeError`` if the shapes do not.

    Example:
        >>> table = table_by_class(torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 1]))
        >>> [(row.label, row.count, row.error) for row in table.rows]
        [(0, 1, 0.0), (1, 1, 100.0)]
    """
    who = "table_by_class"
    require_bins(who, num_bins)
    parts = parts_of(who, predictions)
    target = as_labels(who, labels, parts.mean, predictions)
    examples = examples_of(parts.mean, target)
    information, num_classes = parts.disagreement, parts.mean.shape[1]
    if mutual_information is not None:
        information = one_for_each(who, "mutual information", mutual_information, len(target))
    calibration = class_errors(examples.bins(num_bins), len(target)).tolist()
    count = torch.bincount(target, minlength=num_classes)

    def by_class(value: Tensor | None) -> list[float | None]:
        if value is None:
            return [None] * num_classes
        mean = torch.bincount(target, value, minlength=num_classes) / count
        return [None if size == 0 else m for m, size in zip(mean.tolist(), count, strict=True)]

    columns = zip(
        range(num_classes),
        count.tolist(),
        by_class(100.0 * (~examples.correct).double()),
        by_class(nll_of(who, examples, log_likelihood)),
        by_class(examples.confidence),
        by_class(parts.predictive_entropy),
        by_class(information),
        calibration,
        strict=True,
    )
    return UncertaintyTable(tuple(ClassRow(*row) for row in columns))


def example_table(
    predictions: Array, labels: Array | None = None, *, indices: Array | Sequence[int]
) -> UncertaintyTable:
    """Return prediction and uncertainty of some examples, such as ``most_uncertain``'s.

    Args:
        predictions: Posterior samples ``(S, N, C)``, or probabilities ``(N, C)`` or ``(N,)``.
        labels: Integers ``(N,)``, if known.
        indices: Which examples, in the order of the rows, or a boolean mask ``(N,)``.

    Raises:
        ConfigError: If there are no indices, or one is no integer in 0..N-1.
        DataError: If the values make no sense; ``ShapeError`` if the shapes do not.

    Example:
        >>> p = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
        >>> example_table(p, torch.tensor([0, 1]), indices=[1]).rows[0].predicted
        0
    """
    parts = parts_of("example_table", predictions)
    values, entropy, information = parts.mean, parts.predictive_entropy, parts.disagreement
    target = None if labels is None else as_labels("example_table", labels, values, predictions)
    chosen = as_indices("example_table", indices, len(values))
    confidence, predicted = values.max(1)
    rows = []
    for index in chosen:
        label = None if target is None else int(target[index])
        rows.append(
            ExampleRow(
                index=index,
                label=label,
                predicted=int(predicted[index]),
                confidence=float(confidence[index]),
                label_probability=None if label is None else float(values[index, label]),
                predictive_entropy=float(entropy[index]),
                mutual_information=None if information is None else float(information[index]),
            )
        )
    return UncertaintyTable(tuple(rows))


def _ranked(who: str, scores: Array, k: int, *, descending: bool) -> Tensor:
    require_count(who, "k", k, "It is the number of examples.")
    values = as_scores(who, "uncertainty", scores)
    return values.argsort(descending=descending, stable=True)[:k]


def _text(value: float | int | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
