"""What stands first in a report: the answer in plain words."""

from __future__ import annotations

from bayesdrop.metrics import Bootstrap, RegressionFigures, ReliabilityDiagram, RiskCoverage
from bayesdrop.reporting.methods import Method
from bayesdrop.reporting.report_record import Report

_RISK = 0.01


def classifier_summary(
    bootstrap: Bootstrap,
    name: str,
    curve: RiskCoverage,
    diagram: ReliabilityDiagram,
    *,
    subject: str,
    word: str,
) -> str:
    """Return how often a classifier is wrong, and whether it knows.

    Args:
        bootstrap: Its figures with intervals.
        name: Which of the bootstrap's classifiers.
        curve: Its risk-coverage curve.
        diagram: Its reliability diagram.
        subject: What the first sentence calls it.
        word: What it classifies: images, or examples.
    """
    error, gap = bootstrap.interval(name, "error"), bootstrap.interval(name, "ece")
    text = (
        f"In short, {subject}: {error.value:.2f} % of {bootstrap.num_examples:,} test {word} are "
        f"wrong ({100 * bootstrap.level:g} % interval {error.lower:.2f} to {error.upper:.2f} %). "
        f"Its confidence and its accuracy differ by {100 * gap.value:.2f} percentage points on "
        f"average (ECE), "
    )
    if gap.value <= bootstrap.calibrated_ece(name):
        text += f"which is no more than so few {word} show of a calibrated one."
    else:
        surer = float((diagram.count * (diagram.confidence - diagram.accuracy)).nansum()) > 0
        text += "which is more than chance: it is "
        text += "surer than it is right." if surer else "right more often than it is sure."
    coverage = curve.coverage_at_risk(_RISK)
    if coverage:
        text += (
            f" Of the most confident {100 * coverage:.1f} % of the {word}, "
            f"{100 * _RISK:g} % are wrong at most."
        )
    for metric in bootstrap.metrics:
        if metric.startswith("auroc "):
            roc = bootstrap.interval(name, metric)
            text += (
                f" One of {metric.removeprefix('auroc ')} has a higher entropy than one of the "
                f"test set with probability {roc.value:.3f} ({roc.lower:.3f} to {roc.upper:.3f})."
            )
    return text


def report_summary(report: Report) -> list[str]:
    """Return the paragraphs that a report begins with: how good, how sure, how small."""
    parts = [_classified(report) if report.analysis is not None else _measured(report)]
    smaller = report.size.flops_speedup
    kept, total = report.size.params, report.size.params_total
    if report.bnn.is_random and kept is not None and smaller is not None:
        if kept == total:
            parts.append("Nothing is pruned: the compact network is as large as the plain one.")
        else:
            parts.append(
                f"Cut to the units that it uses, the network has {100 * kept / total:.1f} % of "
                f"its parameters and takes {smaller:.1f}x fewer operations, with the outputs of "
                f"the mean mask."
            )
    return [part for part in parts if part]


def _classified(report: Report) -> str:
    analysis = report.analysis
    if analysis is None:
        return ""
    quoted, choice = analysis.quoted, ""
    if len(analysis.results) > 1:
        other = next(m for m in analysis.results if m not in (quoted, Method.PLAIN))
        data = "validation data" if analysis.validated else "the test set, for want of others"
        choice = f" (which has a lower NLL than {other.spoken} on {data})"
    return classifier_summary(
        analysis.bootstrap,
        quoted,
        analysis.risk_coverage[quoted],
        analysis.reliability[quoted],
        subject=f"{quoted.spoken}{choice}",
        word=report.word,
    )


def _measured(report: Report) -> str:
    """Return the main figures of the better method, by the NLL of the test set."""
    bayesian: list[Method] = [m for m in report.methods if m is not Method.PLAIN]
    bayesian = bayesian or list(report.methods)
    best = min(bayesian, key=lambda method: _nll(report, method))
    figures, choice = report.results[best].figures, ""
    if len(bayesian) > 1:
        other = next(m for m in bayesian if m is not best)
        choice = f" (which has a lower NLL than {other.spoken} on the test set)"
    count = f"{len(report.test[1]):,} test examples"
    if not isinstance(figures, RegressionFigures):
        return (
            f"In short, {best.spoken}{choice}: {figures.error:.2f} % of the labels of {count} are "
            f"wrong. Its confidence and its accuracy differ by {100 * figures.ece:.2f} percentage "
            f"points on average (ECE)."
        )
    text = (
        f"In short, {best.spoken}{choice}: on {count} its error is {figures.rmse:.4g} in the "
        f"units of the target (root mean square)."
    )
    for level, share in sorted((figures.coverage or {}).items())[-1:]:
        text += (
            f" Of its {100 * level:g} % intervals, {100 * share:.1f} % hold the target: they are "
            + ("about right." if abs(share - level) <= 0.02 else _off(share, level))
        )
    return text


def _off(share: float, level: float) -> str:
    return "too narrow." if share < level else "wider than they need be."


def _nll(report: Report, method: Method) -> float:
    value = report.results[method].figures.nll
    return float("inf") if value is None else value
