"""What validation data allow to choose for a classifier, and what it then does on the test set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bayesdrop.errors import DataError
from bayesdrop.metrics import (
    ClassifierFigures,
    SelectiveThreshold,
    fit_temperature,
    select_threshold,
)
from bayesdrop.metrics.arrays import Array

_TARGET_RISK, _FAILURE_PROBABILITY = 0.01, 0.05


def temperature_effect(
    held_out: Array, held_out_labels: Array, probabilities: Tensor, labels: Tensor
) -> dict[str, float]:
    """Fit a temperature, and return NLL and ECE of the test set before and after.

    Args:
        held_out: Probabilities of validation data.
        held_out_labels: Their labels.
        probabilities: Those of the test set, ``(N, C)``.
        labels: The labels of the test set.

    Raises:
        DataError: If no temperature can be fitted.
    """
    scaling = fit_temperature(held_out, held_out_labels)
    before, after = (
        ClassifierFigures.from_predictions(p, labels)
        for p in (probabilities, scaling(probabilities))
    )
    return {
        "temperature": scaling.temperature,
        "nll_before": before.nll,
        "nll_after": after.nll,
        "ece_before": before.ece,
        "ece_after": after.ece,
    }


def threshold_effect(
    held_out: Array, held_out_labels: Array, probabilities: Tensor, labels: Tensor
) -> dict[str, Any]:
    """Choose a threshold of confidence, and return what it does on the test set.

    It has a guarantee where there are examples enough.

    Args:
        held_out: As in ``temperature_effect``.
        held_out_labels: As there.
        probabilities: As there.
        labels: As there.

    Raises:
        DataError: If none can be chosen.
    """
    try:
        chosen = _threshold(held_out, held_out_labels, _FAILURE_PROBABILITY)
    except DataError:
        chosen = _threshold(held_out, held_out_labels, None)
    answered = chosen.accept(probabilities)
    wrong = probabilities.argmax(1) != labels
    return chosen.to_dict() | {
        "test_coverage": float(answered.double().mean()),
        "test_risk": float(wrong[answered].double().mean()) if answered.any() else None,
    }


def _threshold(p: Array, labels: Array, failure: float | None) -> SelectiveThreshold:
    return select_threshold(p, labels, target_risk=_TARGET_RISK, failure_probability=failure)


def temperature_text(scaled: Mapping[str, float], spoken: str) -> str:
    """Return what a temperature would change, in a sentence.

    Args:
        scaled: Of ``temperature_effect``.
        spoken: What the sentence calls the classifier.
    """
    return (
        f"A temperature of {scaled['temperature']:.3f}, fitted on validation data, would "
        f"change the NLL of {spoken} from {scaled['nll_before']:.4f} to "
        f"{scaled['nll_after']:.4f}, and its ECE from {scaled['ece_before']:.4f} to "
        f"{scaled['ece_after']:.4f}. Nothing else on this page uses it."
    )


def threshold_text(chosen: Mapping[str, Any], word: str) -> str:
    """Return what a threshold of confidence does, in sentences.

    Args:
        chosen: Of ``threshold_effect``.
        word: What is answered: images, or examples.
    """
    confidence = (
        "any confidence" if chosen["threshold"] is None else f"more than {chosen['threshold']:.4f}"
    )
    promise = (
        f"without a guarantee, for which there are too few validation {word}"
        if chosen["failure_probability"] is None
        else f"which holds with {100 * (1 - chosen['failure_probability']):g} % confidence"
    )
    result = f"{100 * chosen['test_coverage']:.1f} % of the test {word} are then answered"
    if chosen["test_risk"] is not None:
        result += f", and {100 * chosen['test_risk']:.2f} % of those are wrong"
    return (
        f"The shares above are read off the test set itself. Chosen on validation data for at "
        f"most {100 * chosen['target_risk']:g} % errors, {promise}: answer at {confidence}. "
        f"{result}."
    )
