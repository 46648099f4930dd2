"""A report of any classifier, from nothing but its probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.metrics import (
    compare_ood,
    entropy_parts,
    reliability,
    risk_coverage,
    table_by_class,
    uncertainty_scores,
)
from bayesdrop.metrics.arrays import Array, as_tensor
from bayesdrop.metrics.checks import as_probabilities, as_samples
from bayesdrop.metrics.options import require_names
from bayesdrop.reporting.compare import compare_predictions
from bayesdrop.reporting.held_out import temperature_effect, threshold_effect
from bayesdrop.reporting.prediction_pages import predictions_document
from bayesdrop.reporting.prediction_record import PredictionReport
from bayesdrop.reporting.publish import publish_page
from bayesdrop.reporting.results import check_pair

_WHO = "report_predictions"
_ONLY = "the classifier"


def report_predictions(
    probabilities: Array | Mapping[str, Array],
    labels: Array,
    *,
    validation: tuple[Array | Mapping[str, Array], Array] | None = None,
    ood: Mapping[str, Array | Mapping[str, Array]] | None = None,
    class_names: Sequence[str] = (),
    title: str = "Predictions",
    html: str | Path | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> PredictionReport:
    """Find out, and on request write on a page, whether to trust any classifier's probabilities.

    Nothing of this package need have made them: arrays of scikit-learn, of boosted trees or of
    another framework will do. The page begins with a summary in words; it has intervals,
    calibration, uncertainty by class, selective prediction and, as far as they are given, OOD
    detection and what validation data allow to choose.

    Args:
        probabilities: Those of the test set, ``(N, C)``, P(y = 1) of shape ``(N,)``, or posterior
            samples or ensemble members ``(S, N, C)``; of several classifiers, by name.
        labels: Integers ``(N,)``.
        validation: Probabilities and labels, of other examples, that a temperature and a threshold
            of confidence may be chosen on.
        ood: Name to probabilities of examples that the classifier was not made for.
        class_names: One name for each class.
        title: Heading of the page.
        html: File for the page. ``write_predictions`` writes a folder with JSON and Markdown too.
        num_resamples: Resamples of the bootstrap.
        seed: Of the resampling.

    Raises:
        ConfigError: If a set lacks one of several classifiers, or the names do not fit.
        DataError: If the values make no sense; ``ShapeError`` if the shapes do not.
        ImportError: If ``html`` is given without matplotlib.
        CheckpointError: If the page cannot be written.

    Example:
        >>> import torch
        >>> labels = torch.arange(300) % 3
        >>> logits = 2.0 * torch.eye(3)[labels] + torch.randn(300, 3)
        >>> found = report_predictions(logits.softmax(1), labels)
        >>> sorted(found.comparison.bootstrap.metrics)
        ['aurc', 'brier', 'ece', 'error', 'nll']
    """
    require_names(_WHO, "ood", ood, "OOD set")
    if validation is not None:
        check_pair(_WHO, "validation", validation)
    given = _by_name(probabilities)
    outside = {name: _like(given, f"OOD set {name!r}", value) for name, value in _items(ood)}
    means = {name: _mean(values) for name, values in given.items()}
    comparison = compare_predictions(
        given, labels, ood=outside or None, title=title, num_resamples=num_resamples, seed=seed
    )
    classes = next(iter(means.values())).shape[1]
    if class_names and len(class_names) != classes:
        raise ConfigError(
            _WHO,
            expected=f"{classes} names of classes, one for each column",
            got=f"{len(class_names)}",
            hint="Name them in the order of the columns.",
        )
    y = as_tensor(_WHO, labels).cpu().long()
    scores = {
        name: (
            uncertainty_scores(_samples(values)),
            {key: uncertainty_scores(_samples(own[name])) for key, own in outside.items()},
        )
        for name, values in given.items()
    }
    temperature, threshold, notes = _chosen(given, means, y, validation)
    report = PredictionReport(
        comparison=comparison,
        probabilities=means,
        labels=y,
        reliability={name: reliability(mean, y) for name, mean in means.items()},
        risk_coverage={name: risk_coverage(mean, y) for name, mean in means.items()},
        classes={
            name: table_by_class(mean, y, mutual_information=_information(given[name]))
            for name, mean in means.items()
        },
        scores=scores,
        ood={
            name: dict(compare_ood(inside, sets).metrics)
            for name, (inside, sets) in scores.items()
            if sets
        },
        temperature=temperature,
        threshold=threshold,
        notes=notes,
        class_names=tuple(class_names),
    )
    if html is not None:
        publish_page(predictions_document(report), html)
    return report


def _by_name(probabilities: Array | Mapping[str, Array]) -> dict[str, Array]:
    return dict(probabilities) if isinstance(probabilities, Mapping) else {_ONLY: probabilities}


def _items(ood: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    return list((ood or {}).items())


def _like(given: Mapping[str, Array], what: str, value: Any) -> dict[str, Array]:
    """Return the probabilities of a further set for each classifier.

    Raises:
        ConfigError: If they are not of the same classifiers.
    """
    own = _by_name(value)
    if set(own) != set(given):
        raise ConfigError(
            _WHO,
            expected=f"{what} of the classifiers {sorted(given)}",
            got=f"those of {sorted(own)}",
            hint="Pass a dict with the same names as the probabilities.",
        )
    for name, values in given.items():
        classes, others = _num_classes(values), _num_classes(own[name])
        if classes != others:
            raise ShapeError(
                _WHO,
                expected=f"{what} with probabilities of {classes} classes",
                got=f"those of {others}",
                hint="Are they another classifier's?",
            )
    return {name: own[name] for name in given}


def _num_classes(values: Array) -> int:
    shape = as_tensor(_WHO, values).shape
    return shape[-1] if len(shape) > 1 else 2  # P(y = 1)


def _mean(values: Array) -> Tensor:
    """Return probabilities ``(N, C)``, averaged over samples."""
    samples = as_tensor(_WHO, values)
    if samples.ndim != 3:
        return as_probabilities(_WHO, samples)
    total, count = None, 0
    for one in as_samples(_WHO, samples):
        total, count = one.clone() if total is None else total + one, count + 1
    if total is None:
        raise DataError(_WHO, expected="at least one sample", got="none", hint="Draw some.")
    return total / count


def _samples(values: Array) -> Tensor:
    """Return probabilities with one column a class, of samples as they are."""
    return as_tensor(_WHO, values) if as_tensor(_WHO, values).ndim == 3 else _mean(values)


def _information(values: Array) -> Tensor | None:
    samples = as_tensor(_WHO, values)
    several = samples.ndim == 3 and len(samples) > 1
    return entropy_parts(samples).mutual_information if several else None


def _chosen(
    given: Mapping[str, Array],
    means: Mapping[str, Tensor],
    y: Tensor,
    validation: tuple[Array | Mapping[str, Array], Array] | None,
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, Any]], tuple[str, ...]]:
    """Return temperatures, thresholds, and notes on those that could not be chosen."""
    if validation is None:
        note = "No validation data were given, so nothing was chosen: no temperature, no threshold"
        return {}, {}, (f"{note} of confidence.",)
    held_out, labels = _like(given, "validation data", validation[0]), validation[1]
    temperature: dict[str, dict[str, float]] = {}
    threshold: dict[str, dict[str, Any]] = {}
    notes = []
    for name, mean in means.items():
        own = _mean(held_out[name])
        try:
            temperature[name] = temperature_effect(own, labels, mean, y)
        except DataError as error:
            notes.append(f"No temperature for {name}. {error}")
        try:
            threshold[name] = threshold_effect(own, labels, mean, y)
        except DataError as error:
            notes.append(f"No threshold of confidence for {name}. {error}")
    return temperature, threshold, tuple(notes)
