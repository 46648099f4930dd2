"""A report of probabilities in words, pictures and tables, and its files."""

from __future__ import annotations

from pathlib import Path

from bayesdrop.reporting.comparison_pages import difference_blocks, estimate_blocks
from bayesdrop.reporting.document import Block, Document, Picture, Section, Table
from bayesdrop.reporting.held_out import temperature_text, threshold_text
from bayesdrop.reporting.label_pages import class_table, reliability_table, risk_blocks
from bayesdrop.reporting.plots import plot_reliability, plot_scores
from bayesdrop.reporting.prediction_record import PredictionReport
from bayesdrop.reporting.publish import publish
from bayesdrop.reporting.summary import classifier_summary

_SCORES = {
    "auroc": "AUROC",
    "aupr": "AUPR",
    "fpr95": "FPR95",
    "detection_error": "detection error",
}
_WORD = "examples"


def write_predictions(
    report: PredictionReport, out: str | Path, *, figures: bool = True, html: bool = True
) -> list[Path]:
    """Write ``report.json``, ``report.md``, the figures and the page; return the paths.

    Args:
        report: What ``report_predictions`` returned.
        out: The folder.
        figures: Whether to draw the figures, also those of the page.
        html: Whether to write ``report.html``, with everything inside.

    Raises:
        ImportError: If figures are asked for and matplotlib is not installed.
        CheckpointError: If a file cannot be written.
    """
    document = predictions_document(report)
    return publish(document, report.to_dict(), out, "report", figures=figures, html=html)


def predictions_document(report: PredictionReport) -> Document:
    """Return the report's document: the summary, then pictures before tables."""
    comparison = report.comparison
    lead: list[Block] = [
        classifier_summary(
            comparison.bootstrap,
            name,
            report.risk_coverage[name],
            report.reliability[name],
            subject=name,
            word=_WORD,
        )
        for name in report.names
    ]
    lead += [_reliability(report), Table(*comparison.table(), caption="Figures of the test set")]
    sections = [
        Section("Metrics and their uncertainty", estimate_blocks(comparison, _WORD)),
        Section("Calibration", _calibration(report)),
        Section("What it is sure and unsure about", _classes(report)),
        Section("Selective prediction", _selective(report)),
    ]
    if len(report.names) > 1:
        sections.insert(1, Section("Paired differences", difference_blocks(comparison, _WORD)))
    if report.ood:
        sections.append(Section("Out-of-distribution detection", _ood(report)))
    return Document(comparison.title, lead, sections)


def _reliability(report: PredictionReport) -> Picture:
    caption = "Reliability: accuracy against confidence, and how many examples have which"
    return Picture(
        "reliability.png",
        f"{caption} confidence",
        lambda: plot_reliability(report.probabilities, report.labels),
    )


def _calibration(report: PredictionReport) -> list[Block]:
    bootstrap = report.comparison.bootstrap
    blocks: list[Block] = [
        f"Even a calibrated classifier has an ECE on {bootstrap.num_examples:,} examples: with "
        f"the confidences of {name} it would stay below {bootstrap.calibrated_ece(name):.4f} in "
        f"{100 * bootstrap.level:g} % of test sets. Here it is "
        f"{bootstrap.values[name]['ece']:.4f}."
        for name in report.names
    ]
    for name, scaled in report.temperature.items():
        blocks.append(temperature_text(scaled, name))
    for name, diagram in report.reliability.items():
        blocks.append(reliability_table(diagram, _WORD, name))
    return blocks


def _classes(report: PredictionReport) -> list[Block]:
    return [
        class_table(table, report.class_names, f"Each class, by {name}; entropies in nats")
        for name, table in report.classes.items()
    ]


def _selective(report: PredictionReport) -> list[Block]:
    blocks = list(risk_blocks(report.risk_coverage, _WORD))
    for name, chosen in report.threshold.items():
        own = threshold_text(chosen, _WORD)
        blocks.append(own if len(report.names) == 1 else f"{name}: {own}")
    return [*blocks, *report.notes]


def _ood(report: PredictionReport) -> list[Block]:
    blocks: list[Block] = [
        "Examples from elsewhere are the positive class; a higher score means more uncertain."
    ]
    for index, (name, (inside, outside)) in enumerate(report.scores.items()):
        blocks.append(
            Picture(
                f"ood_scores{index or ''}.png",
                f"Scores of known and unknown examples by {name}",
                lambda inside=inside, outside=outside: plot_scores(inside, outside),  # type: ignore[misc]
            )
        )
    cells = [
        [data, name, score, *(f"{dict(metrics)[key]:.3f}" for key in _SCORES)]
        for name, sets in report.ood.items()
        for data, scores in sets.items()
        for score, metrics in scores.items()
    ]
    header = ["data", "classifier", "score", *_SCORES.values()]
    return [*blocks, Table(header, cells, "How well each score tells unknown from known examples")]
