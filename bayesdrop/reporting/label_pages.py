"""Figures over labels: a table of classes, and errors against the share that is answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bayesdrop.metrics import (
    ReliabilityDiagram,
    RiskCoverage,
    UncertaintyTable,
    risk_coverage,
    table_by_class,
)
from bayesdrop.reporting.analysis import TARGET_RISKS
from bayesdrop.reporting.document import Block, Picture, Table
from bayesdrop.reporting.plots import plot_risk_coverage
from bayesdrop.reporting.report_record import Report

_LEFT_OUT = (
    "Figures are over labels. What needs one label of several classes for each example is left "
    "out: confidence intervals, thresholds with a guarantee and dataset shift."
)


def label_blocks(report: Report) -> Iterator[tuple[str, Block]]:
    """Yield what can be said of labels where an example has several, or none, by section.

    Args:
        report: Of a classifier.
    """
    main = report.main
    if main.probabilities is None or main.labels is None:
        return
    yield "uncertainty", _LEFT_OUT
    table = table_by_class(main.probabilities, main.labels)
    title = f"Each class, by {report.methods[-1].spoken}; entropies in nats"
    yield "uncertainty", class_table(table, report.description.get("class_names", ()), title)
    curves = {
        row.title: risk_coverage(row.probabilities, row.labels)
        for row in report.rows
        if row.probabilities is not None and row.labels is not None
    }
    for block in risk_blocks(curves, "labels"):
        yield "selective", block


def class_table(table: UncertaintyTable, names: Sequence[str], title: str) -> Table:
    """Return a table of classes under their names.

    Args:
        table: Of ``table_by_class``.
        names: Of the classes, as far as there are any.
        title: Its caption.
    """
    cells = table.cells()
    for line, name in zip(cells, names, strict=False):
        line[0] = name if name == line[0] else f"{line[0]} ({name})"
    titles = {"error": "error (%)", "nll": "NLL (nats)"}
    return Table([titles.get(name, name) for name in table.header], cells, title)


def reliability_table(diagram: ReliabilityDiagram, word: str, spoken: str) -> Table:
    """Return the bins of a reliability diagram that are not empty.

    Args:
        diagram: Of ``reliability``.
        word: What is counted: images, or labels.
        spoken: Whose probabilities they are.
    """
    header = ["confidence from", word, "mean confidence", "accuracy"]
    cells = [
        [
            f"{float(diagram.left[b]):.2f} to {float(diagram.right[b]):.2f}",
            f"{int(diagram.count[b]):,}",
            f"{float(diagram.confidence[b]):.3f}",
            f"{float(diagram.accuracy[b]):.3f}",
            f"{float(diagram.lower[b]):.3f} to {float(diagram.upper[b]):.3f}",
        ]
        for b in diagram.count.nonzero().flatten().tolist()
    ]
    header.append(f"{100 * diagram.level:g} % band")
    return Table(header, cells, f"The reliability diagram of {spoken} as a table")


def risk_blocks(curves: Mapping[str, RiskCoverage], word: str) -> Iterator[Block]:
    """Yield what is gained by answering the most confident only.

    Args:
        curves: Title of a method to its curve.
        word: What is answered: images, or labels.
    """
    yield f"Answering the most confident {word} only, and leaving the others to someone."
    yield Picture(
        "risk_coverage.png",
        f"Errors among the {word} that are answered, against how many are",
        lambda: plot_risk_coverage(dict(curves)),
    )
    header = ["method", "AURC", "excess AURC"]
    header += [f"answered at {100 * risk:g} % errors" for risk in TARGET_RISKS]
    cells = [
        [
            title,
            f"{curve.aurc:.5f}",
            f"{curve.excess_aurc:.5f}",
            *(f"{100 * curve.coverage_at_risk(risk):.1f} %" for risk in TARGET_RISKS),
        ]
        for title, curve in curves.items()
    ]
    caption = "Area under the curve, and the largest share answered with so many errors"
    yield Table(header, cells, caption)
