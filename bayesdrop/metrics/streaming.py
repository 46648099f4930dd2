"""All figures of a classifier from batches, in memory that does not grow with the samples."""

from __future__ import annotations

import torch
from torch import Tensor

from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.metrics.bins import ClassBins
from bayesdrop.metrics.checks import Array, as_labels
from bayesdrop.metrics.examples import examples_of
from bayesdrop.metrics.figures import ClassifierFigures, vectors_of
from bayesdrop.metrics.options import require_bins
from bayesdrop.metrics.uncertainty import parts_of


class ClassificationMetrics:
    """Figures of merit of a classifier, batch by batch.

    Sums are kept where they suffice, and four numbers an example where all examples are needed
    at once: confidence, right or wrong, and two entropies, 33 bytes. The figures equal those of
    ``ClassifierFigures.from_predictions`` of the whole set.

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
        self._first = (0, 0)  # Classes and posterior samples of the first batch.
        self._nll = 0.0
        self._brier = 0.0
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
        parts = parts_of(who, predictions)
        self._require_same(who, parts.mean.shape[1], parts.num_samples)
        examples = examples_of(parts.mean, as_labels(who, labels, parts.mean, predictions))
        if self._bins is None:
            self._first = parts.mean.shape[1], parts.num_samples
            self._bins = ClassBins(parts.mean.shape[1], self.num_bins)
        self._nll += float(examples.nll.sum())
        self._brier += float(examples.brier.sum())
        self._bins.add(examples.probabilities, examples.labels)
        for name, vector in vectors_of(parts, examples).items():
            self._vectors.setdefault(name, []).append(vector)
        self.num_examples += len(examples.labels)

    def vectors(self) -> dict[str, Tensor]:
        """Return what is kept of each example, ``(N,)`` each, in the order of the batches.

        ``confidence``, ``correct`` and ``predictive_entropy``; with posterior samples also
        ``mutual_information``. They serve ``risk_coverage_of_losses`` and ``ood_metrics``.

        Raises:
            DataError: If there was no batch.
        """
        self._filled()
        for name, parts in self._vectors.items():
            self._vectors[name] = [torch.cat(parts)]
        return {name: parts[0] for name, parts in self._vectors.items()}

    def compute(self) -> ClassifierFigures:
        """Return the figures of all batches so far; more may follow.

        Raises:
            DataError: If there was no batch.
        """
        bins = self._filled()
        return ClassifierFigures.from_sums(self.vectors(), bins, self._nll, self._brier)

    def _filled(self) -> ClassBins:
        if self._bins is None:
            raise DataError(
                "ClassificationMetrics",
                expected="at least one batch",
                got="none",
                hint="Call update(predictions, labels) first.",
            )
        return self._bins

    def _require_same(self, who: str, num_classes: int, num_samples: int) -> None:
        if self._bins is None:
            return
        if num_classes != self._first[0]:
            raise ShapeError(
                who,
                expected=f"{self._first[0]} classes, as in the first batch",
                got=f"{num_classes}",
                hint="Use one ClassificationMetrics for each network.",
            )
        if num_samples != self._first[1]:
            raise ConfigError(
                who,
                expected=f"{self._first[1]} posterior samples, as in the first batch",
                got=f"{num_samples}",
                hint="Probabilities (N, C) count as one sample.",
            )
