"""A run's figures of merit: ``report.json``, ``report.md``, the figures and ``report.html``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bayesdrop.diagnostics.class_masks import class_averaged_masks
from bayesdrop.inference.predict import predict
from bayesdrop.metrics import (
    ClassifierFigures,
    compare_ood,
)
from bayesdrop.metrics.prediction import Prediction
from bayesdrop.program.network import BayesianNetwork
from bayesdrop.record import plain
from bayesdrop.reporting.costs import (
    LATENCY_BATCH,
    compact_figures,
    latency_figures,
    pass_latency,
    per_input_figures,
)
from bayesdrop.reporting.document import Document
from bayesdrop.reporting.model_card import describe_network, versions
from bayesdrop.reporting.publish import publish
from bayesdrop.reporting.report_document import METHODS, report_document
from bayesdrop.reporting.tables import Row

if TYPE_CHECKING:
    from bayesdrop.reporting.analysis import Analysis


@dataclass(frozen=True, eq=False)
class Report:
    """What ``build_report`` found out about a run.

    Args:
        values: The contents of ``report.json``.
        rows: The comparison, one row for each method.
        probabilities: Method to averaged class probabilities of the test set.
        labels: The test set's labels.
        scores: Data-set title to predictive entropies, the test set first.
        history: Stage name to the records of ``fit``.
        keep_probs: Dropout layer to keep probabilities.
        image_shape: Shape of one image.
        compact: The smaller network; None if it could not be made.
        inside: Method (plain, mean mask, Monte Carlo) to its prediction of the test set.
        outside: The same of each out-of-distribution set.
        bnn: The network.
        class_masks: Dropout layer to the classes' average masks, ``(C, K)``, where masks depend on
            the input.
        analysis: What ``analyse`` added, or None.
    """

    values: dict[str, Any]
    rows: list[Row]
    probabilities: dict[str, Tensor]
    labels: Tensor
    scores: dict[str, Tensor]
    history: Mapping[str, Sequence[Mapping[str, Any]]]
    keep_probs: dict[str, Tensor]
    image_shape: tuple[int, ...]
    compact: nn.Module | None = field(repr=False)
    inside: dict[str, Prediction] = field(repr=False)
    outside: dict[str, dict[str, Prediction]] = field(repr=False)
    bnn: BayesianNetwork = field(repr=False)
    class_masks: dict[str, Tensor] = field(default_factory=dict, repr=False)
    analysis: Analysis | None = field(default=None, repr=False)

    @property
    def methods(self) -> dict[str, str]:
        """The methods that differ, key to title: one alone without Bayesian dropout."""
        return METHODS if self.bnn.is_random else {"plain": METHODS["plain"]}

    def document(self) -> Document:
        """Return the report's text, tables and figures."""
        return report_document(self)

    def write(self, out: str | Path, *, figures: bool = True, html: bool = False) -> list[Path]:
        """Write ``report.json``, ``report.md`` and what is asked for; return the paths.

        Args:
            out: The folder.
            figures: Whether to draw the figures, also those of the page.
            html: Whether to write ``report.html``, a page with everything inside.

        Raises:
            ImportError: If figures are asked for and matplotlib is not installed.
            CheckpointError: If a file cannot be written.
        """
        return publish(
            self.document(), self.values, Path(out), "report", figures=figures, html=html
        )

    def markdown(self, *, figures: bool = False) -> str:
        """Return the report as Markdown, on request with links to figures beside it."""
        return self.document().to_markdown(pictures=figures)


def build_report(
    bnn: BayesianNetwork,
    plain: BayesianNetwork | None,
    test: tuple[Tensor, Tensor],
    *,
    description: Mapping[str, Any],
    ood: Mapping[str, Tensor] | None = None,
    num_samples: int = 64,
    history: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> Report:
    """Evaluate a network three ways: plain, with the mean mask, and by Monte Carlo.

    Args:
        bnn: The Bayesian network.
        plain: The network without Bayesian dropout to compare it with; None takes ``bnn``.
        test: Test images and labels.
        description: ``recipe``, ``data``, ``data_title``, ``seed`` and ``minutes``, and anything
            else to be kept in ``report.json``.
        ood: Data-set name to images that the network was not trained for.
        num_samples: Posterior samples of the Monte Carlo prediction.
        history: Stage name to the records of ``fit``.
    """
    plain = bnn if plain is None else plain
    seed = int(description["seed"])
    passes: dict[str, tuple[BayesianNetwork, dict[str, Any]]] = {
        "plain": (plain, {"sample": False}),
        "mean_mask": (bnn, {"sample": False}),
        "monte_carlo": (bnn, {"num_samples": num_samples, "seed": seed}),
    }
    inside: dict[str, Prediction] = {}
    outside: dict[str, dict[str, Prediction]] = {}
    for method, (network, options) in passes.items():
        inside[method] = predict(network, test, keep_samples=False, **options)
        outside[method] = {
            name: predict(network, images, keep_samples=False, **options)
            for name, images in (ood or {}).items()
        }
    metrics = {method: _metrics(prediction, test[1]) for method, prediction in inside.items()}
    detection = {method: _detection(inside[method], outside[method]) for method in passes}
    size, small = compact_figures(bnn, test[0])
    latency = latency_figures(plain, bnn, small, test[0], num_samples)
    kept, total = bnn.kept(), bnn.total()
    values: dict[str, Any] = {
        **describe_network(bnn),
        "versions": versions(),
        **description,
        "num_test": len(test[1]),
        "num_samples": num_samples,
        **{
            key: {method: metrics[method][key] for method in passes}
            for key in ("error", "nll", "brier", "ece")
        },
        **{word: kept.get(word, []) for word in ("units", "weights")},
        **{f"{word}_total": total.get(word, []) for word in ("units", "weights")},
        **size,
        "per_input": per_input_figures(bnn, test[0]),
        "latency_ms": latency,
        "latency_batch": min(LATENCY_BATCH, len(test[1])),
        "threads": torch.get_num_threads(),
        "ood": detection["monte_carlo"],
        "ood_by_method": detection,
    }
    entropy = "predictive_entropy"
    scores = {"test set": getattr(inside["monte_carlo"], entropy)}
    scores |= {name: getattr(value, entropy) for name, value in outside["monte_carlo"].items()}
    layers = bnn.named_dropout_layers()
    return Report(
        values=values,
        rows=_rows(values),
        probabilities={method: prediction.mean for method, prediction in inside.items()},
        labels=test[1],
        scores=scores,
        history=history or {},
        keep_probs={path: layer.keep_prob().detach().cpu() for path, layer in layers},
        image_shape=tuple(test[0].shape[1:]),
        compact=small,
        inside=inside,
        outside=outside,
        bnn=bnn,
        class_masks=class_averaged_masks(bnn, test) if _looks_at_inputs(bnn) else {},
    )


def _looks_at_inputs(bnn: BayesianNetwork) -> bool:
    return any(layer.input_dependent for _, layer in bnn.named_dropout_layers())


def add_baseline(
    report: Report,
    title: str,
    network: BayesianNetwork,
    test: tuple[Tensor, Tensor],
    ood: Mapping[str, Tensor] | None = None,
    *,
    after: int = 0,
) -> Report:
    """Return the report with another network's row, and its figures under ``baselines``.

    Args:
        report: The report; not changed.
        title: What to call the network.
        network: A network without Bayesian dropout of the same architecture as the plain one.
        test: The test set of the report.
        ood: The out-of-distribution images of the report.
        after: Index of the row after which the new one is put.
    """
    inside = predict(network, test, sample=False, keep_samples=False)
    outside = {
        name: predict(network, images, sample=False, keep_samples=False)
        for name, images in (ood or {}).items()
    }
    detection = _detection(inside, outside)
    figures: dict[str, Any] = {**_metrics(inside, test[1]), "ood": detection}
    latency = pass_latency(network, test[0])
    row = dataclasses.replace(
        report.rows[0],
        method=title,
        auroc={name: scores["entropy"]["auroc"] for name, scores in detection.items()},
        latency_ms=latency,
        **{key: figures[key] for key in ("error", "nll", "brier", "ece")},
    )
    rows = [*report.rows[: after + 1], row, *report.rows[after + 1 :]]
    baselines = {**report.values.get("baselines", {}), title: {**figures, "latency_ms": latency}}
    values = {**report.values, "baselines": baselines}
    probabilities = {**report.probabilities, title: inside.mean}
    return dataclasses.replace(report, rows=rows, values=values, probabilities=probabilities)


def _metrics(prediction: Prediction, labels: Tensor) -> dict[str, float]:
    figures = ClassifierFigures.from_predictions(prediction.mean, labels)
    return {name: getattr(figures, name) for name in ("error", "nll", "brier", "ece")}


def _detection(inside: Prediction, outside: Mapping[str, Prediction]) -> dict[str, Any]:
    return plain(compare_ood(inside, outside).metrics) if outside else {}


def _rows(values: Mapping[str, Any]) -> list[Row]:
    widths = values["units_total"]
    total, small = values["flops_total"], values["flops"]
    sizes = {
        "plain": (widths, values["params_total"], total),
        "mean_mask": (values["units"], values["params"], small),
        "monte_carlo": (values["units"], values["params_total"], total * values["num_samples"]),
    }
    return [
        Row(
            method=title,
            **{key: values[key][method] for key in ("error", "nll", "brier", "ece")},
            auroc={
                name: scores["entropy"]["auroc"]
                for name, scores in values["ood_by_method"][method].items()
            },
            units=sizes[method][0],
            params=sizes[method][1],
            flops=sizes[method][2],
            latency_ms=values["latency_ms"][method],
        )
        for method, title in METHODS.items()
        if widths or values["weights_total"] or method == "plain"
    ]
