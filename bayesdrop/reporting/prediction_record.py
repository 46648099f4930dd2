"""The record of a report on a classifier's probabilities."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from typing_extensions import override

from bayesdrop.metrics import ReliabilityDiagram, RiskCoverage, UncertaintyTable
from bayesdrop.metrics.ood import OODMetrics
from bayesdrop.record import Record, plain
from bayesdrop.reporting.compare import Comparison


@dataclass(frozen=True, eq=False)
class PredictionReport(Record):
    """What ``report_predictions`` found out.

    Args:
        comparison: Figures of every classifier with intervals, and paired differences.
        probabilities: Classifier to its probabilities ``(N, C)``, averaged over samples.
        labels: The labels ``(N,)``.
        reliability: Classifier to its reliability diagram.
        risk_coverage: Classifier to its risk-coverage curve.
        classes: Classifier to error, likelihood and uncertainty of each class.
        scores: Classifier to OOD scores of the test set, and of each OOD set.
        ood: Classifier to OOD set to how well each score tells it from the test set.
        temperature: Classifier to what a temperature fitted on validation data would do.
        threshold: Classifier to the confidence chosen on validation data, and what it did here.
        notes: Why something is not there.
        class_names: One name for each class, or none.
    """

    comparison: Comparison
    probabilities: dict[str, Tensor] = field(repr=False)
    labels: Tensor = field(repr=False)
    reliability: dict[str, ReliabilityDiagram] = field(repr=False)
    risk_coverage: dict[str, RiskCoverage] = field(repr=False)
    classes: dict[str, UncertaintyTable] = field(repr=False)
    scores: dict[str, tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]] = field(repr=False)
    ood: dict[str, dict[str, dict[str, OODMetrics]]]
    temperature: dict[str, dict[str, float]]
    threshold: dict[str, dict[str, Any]]
    notes: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The classifiers."""
        return list(self.probabilities)

    @override
    def to_dict(self) -> dict[str, Any]:
        """Return all numbers, ready for JSON."""
        return plain(
            {
                "title": self.comparison.title,
                **self.comparison.to_dict(),
                "class_names": list(self.class_names),
                "reliability": self.reliability,
                "selective": self.risk_coverage,
                "classes": {name: table.to_dict() for name, table in self.classes.items()},
                "ood": self.ood,
                "temperature_scaling": self.temperature,
                "selective_threshold": self.threshold,
                "notes": list(self.notes),
            }
        )
