"""Dataset shift: images corrupted at five severities, and what becomes of a classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from typing_extensions import override

from bayesdrop.diagnostics.evaluator import figures_of
from bayesdrop.errors import ConfigError, DataError, unknown_name
from bayesdrop.inference.arrays import arrays_of
from bayesdrop.inference.batches import Data, batches
from bayesdrop.inference.predict import predict
from bayesdrop.metrics.checks import Array, as_mean_probabilities
from bayesdrop.metrics.corruption import SEVERITIES, corrupt, corruptions
from bayesdrop.metrics.figures import ClassifierFigures
from bayesdrop.metrics.options import as_several
from bayesdrop.program.program import Program
from bayesdrop.record import TableRecord, plain

Classifier: TypeAlias = "Program | Callable[[Tensor], Array]"
"""A Bayesian network, or a function from images to class probabilities ``(N, C)``, P(y = 1) of
shape ``(N,)``, or those of members ``(S, N, C)``, which are averaged."""

METRICS = ("accuracy", "nll", "ece", "entropy")
"""What is measured at each severity."""

_ROWS = 1000


@dataclass(frozen=True)
class ShiftRow:
    """One corruption at one severity; severity 0 holds the images as they are.

    Args:
        kind: Name of the corruption, ``"clean"`` at severity 0.
        severity: 0 to 5.
        accuracy: Share of right classes, in percent.
        nll: Negative log-likelihood of the averaged probabilities, nats per example.
        ece: Expected calibration error with 15 bins.
        entropy: Average predictive entropy, in nats.
    """

    kind: str
    severity: int
    accuracy: float
    nll: float
    ece: float
    entropy: float


@dataclass(frozen=True)
class ShiftCurves(TableRecord):
    """What ``measure_shift`` returns.

    Args:
        rows: One for the clean images, then one for each kind and severity.
        kinds: The corruptions.
        severities: The severities, without 0.
    """

    rows: tuple[ShiftRow, ...]
    kinds: tuple[str, ...]
    severities: tuple[int, ...]

    def curve(self, metric: str, kind: str | None = None) -> list[float]:
        """Return a metric at severity 0 and then at all of ``severities``.

        Args:
            metric: ``"accuracy"``, ``"nll"``, ``"ece"`` or ``"entropy"``.
            kind: A corruption; None is the mean over all kinds.

        Raises:
            ConfigError: If the metric or the kind is unknown.
        """
        if metric not in METRICS:
            raise unknown_name("shift metric", metric, METRICS)
        if kind is not None and kind not in self.kinds:
            raise unknown_name("corruption of these curves", kind, self.kinds)
        wanted = self.kinds if kind is None else (kind,)
        values = [getattr(self.rows[0], metric)]
        for severity in self.severities:
            at = [
                getattr(row, metric)
                for row in self.rows
                if row.severity == severity and row.kind in wanted
            ]
            values.append(sum(at) / len(at))
        return values

    @override
    def to_dict(self) -> dict[str, Any]:
        """Return the rows and the means over kinds as plain numbers, ready for JSON."""
        return {
            "severities": [0, *self.severities],
            "mean": {metric: self.curve(metric) for metric in METRICS},
            "rows": plain(self.rows),
        }

    @override
    def table(self) -> tuple[list[str], list[list[str]]]:
        columns = zip(*(self.curve(metric) for metric in METRICS), strict=True)
        cells = [
            [f"{severity}", f"{accuracy:.2f}", *(f"{value:.4f}" for value in rest)]
            for severity, (accuracy, *rest) in zip((0, *self.severities), columns, strict=True)
        ]
        return ["severity", "accuracy %", "NLL", "ECE", "entropy"], cells


def measure_shift(
    model: Classifier,
    data: Data,
    *,
    kinds: Sequence[str] | None = None,
    severities: Sequence[int] = SEVERITIES,
    num_samples: int = 64,
    seed: int = 0,
    predict_options: Mapping[str, Any] | None = None,
) -> ShiftCurves:
    """Return accuracy, NLL, ECE and predictive entropy as a test set is corrupted more and more.

    Args:
        model: A Bayesian network, or a function from images ``(N, C, H, W)`` to class
            probabilities ``(N, classes)``, P(y = 1) of shape ``(N,)``, or those of an ensemble's
            members ``(S, N, classes)``; it gets at most 1000 images at a time.
        data: Images ``(N, C, H, W)`` in [0, 1] and labels: ``(x, y)``, a Dataset, a DataLoader.
        kinds: Names from ``corruptions``; None takes all.
        severities: Which of 1 to 5.
        num_samples: Posterior samples of a Bayesian network.
        seed: Of the corruptions, so that all models see the same images, and of the posterior
            samples, which are the same at every severity.
        predict_options: Passed on to ``predict``, such as ``{"sample": False}``.

    Raises:
        ConfigError: If a kind or severity is unknown, or the network is not a classifier.
        DataError: If the data has no labels, or the images cannot be corrupted.

    References:
        Ovadia et al. (2019), https://arxiv.org/abs/1906.02530.

    Example:
        >>> def uniform(x): return torch.full((len(x), 10), 0.1)
        >>> data = torch.rand(8, 1, 8, 8), torch.arange(8)
        >>> curves = measure_shift(uniform, data, kinds=["rotation"], severities=[1, 5])
        >>> len(curves.rows), len(curves.curve("entropy"))
        (3, 3)
    """
    who = "measure_shift"
    kinds = list(corruptions) if kinds is None else kinds
    kinds = tuple(as_several(who, "kinds", kinds, '["rotation"]'))
    severities = tuple(as_several(who, "severities", severities, "[1, 3, 5]"))
    if isinstance(model, Program) and not model.likelihood.is_classifier:
        raise ConfigError(
            "measure_shift",
            expected="a classifier",
            got=f"likelihood {type(model.likelihood).__name__}",
            hint="For regression corrupt the inputs and call evaluate on each.",
        )
    if not callable(model):
        raise ConfigError(
            "measure_shift",
            expected="a BayesianNetwork, or a function from images to probabilities",
            got=f"a {type(model).__name__}",
            hint="For example lambda x: network(x).softmax(-1), of a network in evaluation mode.",
        )
    x, y = _tensors(
        arrays_of("measure_shift", model, data) if isinstance(model, Program) else data
    )
    options = {"num_samples": num_samples, "seed": seed, "keep_samples": False}
    options |= predict_options or {}

    def measure(kind: str, severity: int, images: Tensor) -> ShiftRow:
        if isinstance(model, Program):
            prediction = predict(model, (images, y), **cast(Any, options))
            figures: Any = figures_of(model, prediction)
        else:
            figures = ClassifierFigures.from_predictions(_probabilities(model, images), y)
        return ShiftRow(
            kind,
            severity,
            accuracy=100.0 - figures.error,
            nll=figures.nll,
            ece=figures.ece,
            entropy=figures.predictive_entropy,
        )

    rows = [measure("clean", 0, x)]
    for kind in kinds:
        for severity in severities:
            rows.append(measure(kind, severity, corrupt(x, kind, severity, seed=seed)))
    return ShiftCurves(tuple(rows), kinds, severities)


def _tensors(data: Data) -> tuple[Tensor, Tensor]:
    images, labels = [], []
    for x, y in batches(data, _ROWS):
        if y is None:
            raise DataError(
                "measure_shift",
                expected="images with labels",
                got="images alone",
                hint="Pass (x, y).",
            )
        if not isinstance(x, Tensor):
            raise DataError(
                "measure_shift",
                expected="one tensor of images",
                got=repr(x),
                hint="Corrupt the images yourself, with bd.metrics.corrupt, and call evaluate.",
            )
        images.append(x)
        labels.append(y)
    return torch.cat(images), torch.cat(labels)


def _probabilities(model: Callable[[Tensor], Array], x: Tensor) -> Tensor:
    with torch.no_grad():
        found = (model(part) for part in x.split(_ROWS))
        return torch.cat([as_mean_probabilities("measure_shift", part) for part in found])
