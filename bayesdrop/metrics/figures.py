"""A classifier's figures of merit, and a regression's, all from one pass over a prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesdrop.metrics.bins import ClassBins
from bayesdrop.metrics.brier import BrierDecomposition, brier_parts
from bayesdrop.metrics.calibration import adaptive_error, calibration_errors, class_errors
from bayesdrop.metrics.checks import Array, as_labels, as_mixture
from bayesdrop.metrics.coverage import (
    RegressionCalibration,
    calibration_of_pit,
    mean_width,
    pit_values,
)
from bayesdrop.metrics.crps import continuous_ranked_probability_score
from bayesdrop.metrics.examples import TINY, Examples, examples_of
from bayesdrop.metrics.options import require_bins
from bayesdrop.metrics.regression import root_mean_squared_error
from bayesdrop.metrics.selective import curve_of
from bayesdrop.metrics.uncertainty import EntropyParts, parts_of, variance_parts
from bayesdrop.record import Record

COVERAGE_LEVELS = (0.5, 0.9, 0.95)
"""Nominal probabilities of the intervals in ``RegressionFigures.coverage``."""


@dataclass(frozen=True)
class ClassifierFigures(Record, drop_none=True):
    """Figures of merit of a classifier on a test set.

    Args:
        num_examples: Test examples.
        error: Share of wrong classes, in percent.
        nll: Nats per example.
        brier: Brier score per example, summed over classes.
        ece: Expected calibration error.
        adaptive_ece: The same with bins of equal mass.
        mce: Largest gap of any of ECE's bins.
        classwise_ece: Average over classes; None if the set has one class only.
        brier_parts: The decomposition of the score of one label; None if the set has one class
            only.
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

    @classmethod
    def from_predictions(
        cls,
        predictions: Array,
        labels: Array,
        *,
        num_examples: int | None = None,
        num_bins: int = 15,
        log_likelihood: Tensor | None = None,
    ) -> ClassifierFigures:
        """Return the figures of a prediction.

        Args:
            predictions: Posterior samples ``(S, N, C)``, or probabilities ``(N, C)`` or ``(N,)``.
            labels: Integers ``(N,)``.
            num_examples: Examples that the labels belong to, such as images whose pixels are
                classified; NLL and Brier score are summed over the labels of an example. None:
                each label is one.
            num_bins: Bins of the calibration errors and of the Brier decomposition.
            log_likelihood: Log-probability of each label, of any shape, from which the NLL then
                comes: right where a probability is too small for its dtype.

        Raises:
            ConfigError: If ``num_bins`` is less than 1.
            DataError: If the values make no sense; ``ShapeError`` if the shapes do not.

        Example:
            >>> p = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
            >>> figures = ClassifierFigures.from_predictions(p, torch.tensor([0, 1]))
            >>> figures.error, figures.ece, figures.brier
            (0.0, 0.25, 0.125)
        """
        who = "ClassifierFigures"
        require_bins(who, num_bins)
        parts = parts_of(who, predictions)
        examples = examples_of(parts.mean, as_labels(who, labels, parts.mean, predictions))
        nll = examples.nll if log_likelihood is None else -log_likelihood.double()
        sums = float(nll.sum()), float(examples.brier.sum())
        return cls.from_sums(
            vectors_of(parts, examples), examples.bins(num_bins), *sums, num_examples=num_examples
        )

    @classmethod
    def from_sums(
        cls,
        vectors: Mapping[str, Tensor],
        bins: ClassBins,
        nll: float,
        brier: float,
        *,
        num_examples: int | None = None,
    ) -> ClassifierFigures:
        """Return the figures of any number of batches.

        Args:
            vectors: ``confidence``, ``correct`` and ``predictive_entropy`` of each label,
                ``(N,)``; with posterior samples also ``mutual_information``.
            bins: Sums in the bins of each class.
            nll: Sum over the labels.
            brier: Sum over the labels.
            num_examples: As in ``from_predictions``.
        """
        confidence, correct = vectors["confidence"], vectors["correct"]
        count = len(correct)
        ece, mce = calibration_errors(confidence, correct, bins.num_bins)
        curve = curve_of((~correct).double(), confidence)
        entropy = float(vectors["predictive_entropy"].mean())
        information = vectors.get("mutual_information")
        mutual = None if information is None else float(information.mean())
        several = bins.num_present > 1
        return cls(
            num_examples=num_examples or count,
            error=float((~correct).double().mean()) * 100.0,
            nll=nll / (num_examples or count) + 0.0,
            brier=brier / (num_examples or count),
            ece=ece,
            adaptive_ece=adaptive_error(confidence, correct, bins.num_bins),
            mce=mce,
            classwise_ece=float(class_errors(bins, count).mean()) if several else None,
            brier_parts=brier_parts(bins, count) if several else None,
            aurc=curve.aurc,
            excess_aurc=curve.excess_aurc,
            augrc=curve.augrc,
            predictive_entropy=entropy,
            expected_entropy=None if mutual is None else entropy - mutual,
            mutual_information=mutual,
        )


def vectors_of(parts: EntropyParts, examples: Examples) -> dict[str, Tensor]:
    """Return what is needed of all examples at once, ``(N,)`` each, by name."""
    vectors = {
        "confidence": examples.confidence,
        "correct": examples.correct,
        "predictive_entropy": parts.predictive_entropy,
        "mutual_information": parts.disagreement,
    }
    return {name: values for name, values in vectors.items() if values is not None}


@dataclass(frozen=True, eq=False)
class RegressionFigures(Record, also=("coverage",), drop_none=True):
    """Figures of merit of a regression on a test set.

    Args:
        rmse: Root mean squared error, in the units of ``y``.
        nll: Negative log-likelihood of the predictive density, nats per example; None if unknown.
        crps: Continuous ranked probability score, in the units of ``y``; None without samples.
        width: Nominal probability to the average width of the central interval, in the units of
            ``y``; None without samples.
        calibration: Coverage of central intervals at all levels, and the histogram of PIT values;
            None without them.
    """

    rmse: float
    nll: float | None = None
    crps: float | None = None
    width: dict[float, float] | None = None
    calibration: RegressionCalibration | None = None

    @property
    def coverage(self) -> dict[float, float] | None:
        """Nominal probability, 0.5, 0.9 and 0.95, to the share of targets inside the interval."""
        if self.calibration is None:
            return None
        shares = zip(self.calibration.level.tolist(), self.calibration.coverage, strict=True)
        return {level: float(share) for level, share in shares if level in COVERAGE_LEVELS}

    @classmethod
    def from_samples(
        cls, means: Array, y: Array, variances: Array | float | None = None
    ) -> RegressionFigures:
        """Return all figures of posterior samples, or of the members of an ensemble.

        Args:
            means: ``(S, N)`` or ``(S, N, D)``.
            y: Targets ``(N,)`` or ``(N, D)``.
            variances: Of each sample's Gaussian noise, or what broadcasts to ``means``; None for
                samples of ``y`` itself, which have no density.

        Raises:
            DataError: If the values make no sense; ``ShapeError`` if the shapes do not.

        Example:
            >>> members = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
            >>> RegressionFigures.from_samples(members, torch.tensor([1.0, 2.0]), 1.0).rmse
            0.0
        """
        mixture, nll = as_mixture("RegressionFigures", means, y, variances), None
        if mixture.variances is not None:
            scale = mixture.variances.sqrt().clamp(min=TINY)
            each = torch.distributions.Normal(mixture.means, scale).log_prob(mixture.y).sum(2)
            nll = math.log(len(each)) - float(each.logsumexp(0).mean())
        return cls(
            rmse=root_mean_squared_error(variance_parts(means, variances).mean, y),
            nll=nll,
            crps=continuous_ranked_probability_score(means, y, variances),
            width={p: mean_width(means, p, variances) for p in COVERAGE_LEVELS},
            calibration=calibration_of_pit(pit_values(means, y, variances)),
        )

    @classmethod
    def from_predictions(
        cls,
        mean: Array,
        y: Array,
        *,
        log_likelihood: Tensor | None = None,
        pit: Tensor | None = None,
        samples: Array | None = None,
        variances: Array | float | None = None,
        crps: float | None = None,
    ) -> RegressionFigures:
        """Return the figures of a prediction, as far as what is given goes.

        Args:
            mean: Predictive mean, ``(N, D)`` or ``(N,)``.
            y: Targets of the same shape; ``(N,)`` also goes with ``(N, 1)``.
            log_likelihood: Log of the predictive density at the targets, ``(N,)``.
            pit: Predictive distribution function at the targets, of their shape.
            samples: Means of the posterior samples ``(S, N, D)``, for the CRPS and the widths of
                their mixture.
            variances: As in ``continuous_ranked_probability_score``; needed with ``samples``.
            crps: The score of samples whose laws are not normal, without ``samples``.

        Raises:
            DataError: If the values make no sense; ``ShapeError`` if the shapes do not.

        Example:
            >>> y = torch.tensor([3.0, -3.0])
            >>> figures = RegressionFigures.from_predictions(torch.zeros(2), y, pit=y.sigmoid())
            >>> figures.rmse, figures.coverage[0.95]
            (3.0, 1.0)
        """
        width = None
        if samples is not None and variances is not None:
            crps = continuous_ranked_probability_score(samples, y, variances)
            width = {p: mean_width(samples, p, variances) for p in COVERAGE_LEVELS}
        return cls(
            rmse=root_mean_squared_error(mean, y),
            nll=None if log_likelihood is None else -float(log_likelihood.double().mean()),
            crps=crps,
            width=width,
            calibration=None if pit is None else calibration_of_pit(pit),
        )
