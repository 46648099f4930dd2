"""All figures of a classifier from batches, in memory that does not grow with the samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.metrics.bins import ClassBins
from bayesdrop.metrics.brier import BrierDecomposition, brier_parts
from bayesdrop.metrics.calibration import adaptive_error, calibration_errors, class_errors
from bayesdrop.metrics.checks import Array, as_labels, as_probabilities, require_bins
from bayesdrop.metrics.selective import curve_of
from bayesdrop.metrics.uncertainty import entropy_parts
from bayesdrop.record import Record


@dataclass(frozen=True)
class ClassifierFigures(Record, drop_none=True):
    """What ``ClassificationMetrics.compute`` returns.

    Args:
        num_examples: Test examples.
        error: Share of wrong classes, in percent.
        nll: Nats per example.
        brier: Brier score, summed over classes.
        ece: Expected calibration error.
        adaptive_ece: The same with bins of equal mass.
        mce: Largest gap of any bin.
        classwise_ece: Average over classes; None if the set has one class only.
        brier_parts: The score's decomposition; None if the set has one class only.
        aurc: Area under the risk-coverage curve.
        excess_aurc: The same less that of the best order.
        augrc: Area under the generalised risk-coverage curve.
        predictive_entropy: Average, in nats.
        expected_entropy: Average, in nats; None without posterior samples.
        mutual_information: Average, in nats; None without posterior samples.
    """

    num_examples: int
    error: float
    nll: float
    brier: float
    ece: float
    adaptive_ece: float
    mce: float
    classwise_ece: float | None
    brier_parts: BrierDecomposition | None
    aurc: float
    excess_aurc: float
    augrc: float
    predictive_entropy: float
    expected_entropy: float | None
    mutual_information: float | None


class ClassificationMetrics:
    """Figures of merit of a classifier, batch by batch.

    Sums are kept where they suffice, and four numbers an example where all examples are needed
    at once: confidence, right or wrong, and two entropies, 33 bytes. The figures equal those of
    the functions that take the whole set.

    Args:
        num_bins: Bins of the calibration errors and of the Brier decomposition.

    Raises:
        ConfigError: If ``num_bins`` is less than 1.

    Example:
        >>> metrics = ClassificationMetrics()
        >>> for _ in range(3):
        ...     samples = torch.randn(8, 5, 4).softmax(-1)
        ...     metrics.update(samples, torch.arange(5) % 4)
        >>> metrics.num_examples, metrics.compute().mutual_information > 0
        (15, True)
    """

    def __init__(self, *, num_bins: int = 15) -> None:
        require_bins("ClassificationMetrics", num_bins)
        self.num_bins = num_bins
        self.num_examples = 0
        self._bins: ClassBins | None = None
        self._num_classes = 0
        self._num_samples: int | None = None
        self._nll = 0.0
        self._brier = 0.0
        self._labels: Tensor = torch.zeros(0)
        self._vectors: dict[str, list[Tensor]] = {}

    def update(self, predictions: Array, labels: Array) -> None:
        """Add a batch.

        Args:
            predictions: Posterior samples ``(S, N, C)``, or probabilities ``(N, C)`` or ``(N,)``.
            labels: Integers ``(N,)``.

        Raises:
            ConfigError: If the number of posterior samples differs from earlier batches.
            DataError: If the values make no sense; ``ShapeError`` if the shapes do not, or the
                number of classes changes.
        """
        who = "ClassificationMetrics.update"
        values, entropies, num_samples = _read(who, predictions)
        self._require_same(who, values.shape[1], num_samples)
        target = as_labels(who, labels, values)
        if self._bins is None:
            self._num_classes, self._num_samples = values.shape[1], num_samples
            self._bins = ClassBins(self._num_classes, self.num_bins)
            self._labels = torch.zeros(self._num_classes, dtype=torch.int64)
        confidence, predicted = values.max(1)
        chosen = values.gather(1, target[:, None]).clamp(min=torch.finfo(torch.float64).tiny)
        one_hot = torch.nn.functional.one_hot(target, self._num_classes)
        self._nll -= float(chosen.log().sum())
        self._brier += float((values - one_hot).square().sum())
        self._labels += torch.bincount(target, minlength=self._num_classes)
        self._bins.add(values, target)
        vectors = {"confidence": confidence, "correct": predicted == target, **entropies}
        for name, vector in vectors.items():
            self._vectors.setdefault(name, []).append(vector)
        self.num_examples += len(target)

    def vectors(self) -> dict[str, Tensor]:
        """Return what is kept of each example, ``(N,)`` each, in the order of the batches.

        ``confidence``, ``correct`` and ``predictive_entropy``; with posterior samples also
        ``mutual_information``. They serve ``risk_coverage_of_losses`` and ``ood_metrics``.

        Raises:
            DataError: If there was no batch.
        """
        if not self.num_examples:
            raise DataError(
                "ClassificationMetrics",
                expected="at least one batch",
                got="none",
                hint="Call update(predictions, labels) first.",
            )
        for name, parts in self._vectors.items():
            self._vectors[name] = [torch.cat(parts)]
        return {name: parts[0] for name, parts in self._vectors.items()}

    def compute(self) -> ClassifierFigures:
        """Return the figures of all batches so far; more may follow.

        Raises:
            DataError: If there was no batch.
        """
        vectors, count = self.vectors(), self.num_examples
        confidence, correct = vectors["confidence"], vectors["correct"]
        ece, mce = calibration_errors(confidence, correct, self.num_bins)
        curve = curve_of((~correct).double(), confidence)
        entropy = float(vectors["predictive_entropy"].mean())
        information = vectors.get("mutual_information")
        mutual = None if information is None else float(information.mean())
        bins = self._bins if int((self._labels > 0).sum()) > 1 else None
        return ClassifierFigures(
            num_examples=count,
            error=float((~correct).double().mean()) * 100.0,
            nll=self._nll / count + 0.0,
            brier=self._brier / count,
            ece=ece,
            adaptive_ece=adaptive_error(confidence, correct, self.num_bins),
            mce=mce,
            classwise_ece=None if bins is None else float(class_errors(bins, count).mean()),
            brier_parts=None if bins is None else brier_parts(bins, count),
            aurc=curve.aurc,
            excess_aurc=curve.excess_aurc,
            augrc=curve.augrc,
            predictive_entropy=entropy,
            expected_entropy=None if mutual is None else entropy - mutual,
            mutual_information=mutual,
        )

    def _require_same(self, who: str, num_classes: int, num_samples: int) -> None:
        if self._bins is None:
            return
        if num_classes != self._num_classes:
            raise ShapeError(
                who,
                expected=f"{self._num_classes} classes, as in the first batch",
                got=f"{num_classes}",
                hint="Use one ClassificationMetrics for each network.",
            )
        if num_samples != self._num_samples:
            raise ConfigError(
                who,
                expected=f"{self._num_samples} posterior samples, as in the first batch",
                got=f"{num_samples}",
                hint="Probabilities (N, C) count as one sample.",
            )


def _read(who: str, predictions: Array) -> tuple[Tensor, dict[str, Tensor], int]:
    raw = torch.as_tensor(predictions)
    values = raw if raw.ndim == 3 else as_probabilities(who, raw)[None]
    parts = entropy_parts(values)
    entropies = {"predictive_entropy": parts.predictive_entropy}
    if parts.num_samples > 1:
        entropies["mutual_information"] = parts.mutual_information
    return parts.mean, entropies, parts.num_samples
