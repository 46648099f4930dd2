"""The longer part of a report in words, tables and figures."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from bayesdrop.reporting.analysis import (
    CREDIBLE_LEVEL,
    MAX_ERROR_INCREASE,
    Analysis,
)
from bayesdrop.reporting.document import Block, Picture, Table
from bayesdrop.reporting.estimates import estimate_text, metric_title
from bayesdrop.reporting.held_out import temperature_text, threshold_text
from bayesdrop.reporting.label_pages import class_table, reliability_table, risk_blocks
from bayesdrop.reporting.plots import (
    plot_frontier,
    plot_roc,
    plot_shift,
    plot_size,
    plot_uncertain_images,
)
from bayesdrop.reporting.shift_analysis import SHIFT_SEED
from bayesdrop.reporting.tables import number

Blocks = Iterator[tuple[str, Block]]


def analysis_blocks(analysis: Analysis, word: str) -> Blocks:
    """Yield the key of a section of the report, and what belongs there.

    Args:
        analysis: What ``analyse`` found.
        word: What the examples are: images, or examples.
    """
    for named in (_metrics, _calibration, _ood, _selective):
        yield from named(analysis, word)
    for part in (_uncertainty, _shift, _size, _diagnostics):
        yield from part(analysis)


def _metrics(analysis: Analysis, word: str) -> Blocks:
    bootstrap = analysis.bootstrap
    yield (
        "metrics",
        f"{100 * bootstrap.level:g} % intervals from {bootstrap.num_resamples:,} resamples of the "
        f"test {word} (seed {bootstrap.seed}), the same for all methods, so that differences are "
        f"paired. They say how much depends on which {word} were tested, not on the seed of "
        f"training. The interval of ECE allows for its bias. What follows ± is the Monte Carlo "
        f"standard error: how much depends on which masks were drawn. All test {word} share "
        f"them, so that it is not in the intervals, and shrinks with more masks only.",
    )
    header = ["method", *map(metric_title, bootstrap.metrics)]
    cells = []
    for method, result in analysis.results.items():
        intervals = [(m, bootstrap.interval(method, m)) for m in bootstrap.metrics]
        errors = result.monte_carlo_error
        texts = [estimate_text(m, found, error=errors.get(m)) for m, found in intervals]
        cells.append([method.label, *texts])
    yield "metrics", Table(header, cells, "Each method's figures, with intervals")
    first, *others = analysis.results
    if others:
        cells = [
            [
                method.label,
                *(
                    estimate_text(m, bootstrap.difference(method, first, m), signed=True)
                    for m in bootstrap.metrics
                ),
            ]
            for method in others
        ]
        yield (
            "metrics",
            Table(
                header,
                cells,
                f"Paired differences from {first.spoken}; * if more than noise",
            ),
        )


def _calibration(analysis: Analysis, word: str) -> Blocks:
    errors = {
        "ece": "ECE",
        "adaptive_ece": "adaptive ECE",
        "classwise_ece": "classwise ECE",
        "mce": "largest gap",
    }
    parts = {"reliability": "reliability", "resolution": "resolution"}
    parts |= {"uncertainty": "uncertainty", "brier": "Brier score"}
    cells = []
    for method, found in analysis.calibration.items():
        brier = found["brier_parts"] or {}
        cells.append(
            [
                method.label,
                *(number(found[key]) for key in errors),
                *(number(brier.get(key)) for key in parts),
            ]
        )
    header = ["method", *errors.values(), *parts.values()]
    yield "calibration", Table(header, cells, "Calibration errors and the Brier score's parts")
    bootstrap, main = analysis.bootstrap, analysis.main
    yield (
        "calibration",
        f"Even a calibrated classifier has an ECE on {bootstrap.num_examples:,} {word}: with the "
        f"confidences of {main.spoken} it would stay below "
        f"{bootstrap.calibrated_ece(main):.4f} in {100 * bootstrap.level:g} % of test sets. Here "
        f"it is {bootstrap.values[main]['ece']:.4f}.",
    )
    diagram = analysis.reliability[main]
    yield "calibration", reliability_table(diagram, word, main.spoken)
    scaled = analysis.temperature
    if scaled is not None:
        yield "calibration", temperature_text(scaled, analysis.main.spoken)
    yield from _notes(analysis, "calibration", "temperature")


def _uncertainty(analysis: Analysis) -> Blocks:
    result = analysis.results[analysis.main]
    images = analysis.images
    if isinstance(images, Tensor) and images.ndim == 4 and images.shape[1] in (1, 3):
        yield (
            "uncertainty",
            Picture(
                "uncertain_images.png",
                "The test images with the highest and with the lowest predictive entropy",
                lambda: plot_uncertain_images(images, result.prediction.mean, result.labels),
            ),
        )
    title = f"Each class, by {analysis.main.spoken}; entropies in nats"
    yield "uncertainty", class_table(analysis.classes, analysis.class_names, title)


def _ood(analysis: Analysis, word: str) -> Blocks:
    result = analysis.results[analysis.main]
    if not result.outside:
        yield (
            "ood",
            "No data were given that the network was not trained on: pass --ood NAME (ood=...).",
        )
        return
    inside, outside = result.shown_scores()
    yield (
        "ood",
        Picture(
            "ood_roc.png",
            f"ROC curves: share of unknown {word} found against share of known ones flagged",
            lambda: plot_roc(inside, outside),
        ),
    )


def _shift(analysis: Analysis) -> Blocks:
    found = analysis.shift
    if not found.curves:
        yield from _notes(analysis, "shift", "shift")
        return
    first = next(iter(found.curves.values()))
    yield (
        "shift",
        f"{found.num_images:,} test images, chosen with seed {SHIFT_SEED}, corrupted in "
        f"{len(first.kinds)} ways ({', '.join(first.kinds)}) at severities 1 to "
        f"{max(first.severities)}; means over the ways. Monte Carlo with "
        f"{found.num_samples} posterior samples.",
    )
    header = ["", "severity", "accuracy (%)", "NLL (nats)", "ECE", "entropy (nats)"]
    cells = []
    for method, curves in found.curves.items():
        columns = [curves.curve(metric) for metric in ("accuracy", "nll", "ece", "entropy")]
        for severity, (accuracy, *rest) in zip(
            (0, *curves.severities), zip(*columns, strict=True), strict=True
        ):
            numbers = [f"{value:.4f}" for value in rest]
            cells.append([method.label, str(severity), f"{accuracy:.2f}", *numbers])
    yield (
        "shift",
        Picture(
            "shift.png",
            "Accuracy, NLL, ECE and predictive entropy as images are corrupted more and more",
            lambda: plot_shift({m.label: curves for m, curves in found.curves.items()}),
        ),
    )
    yield "shift", Table(header, cells, "Means over the corruptions")


def _selective(analysis: Analysis, word: str) -> Blocks:
    curves = {method.label: curve for method, curve in analysis.risk_coverage.items()}
    for block in risk_blocks(curves, word):
        yield "selective", block
    chosen = analysis.threshold
    if chosen is not None:
        yield "selective", threshold_text(chosen, word)
    yield from _notes(analysis, "selective", "threshold")


def _size(analysis: Analysis) -> Blocks:
    size, frontier = analysis.size, analysis.frontier
    if size is not None:
        rows = size.summary(CREDIBLE_LEVEL)
        cells = [
            [
                f"{row.quantity}, {row.layer}",
                f"{row.mean:,.1f}",
                f"{row.lower:,.0f} to {row.upper:,.0f}",
                f"{row.full:,}",
            ]
            for row in rows
        ]
        header = ["", "mean", f"{100 * CREDIBLE_LEVEL:g} % credible interval", "plain network"]
        yield (
            "size",
            Picture(
                "size_posterior.png",
                "Posterior over the active units, parameters and FLOPs of drawn networks",
                lambda: plot_size(size, level=CREDIBLE_LEVEL),
            ),
        )
        yield (
            "size",
            f"The size of a network drawn from the posterior, from {len(size.total('units')):,} "
            f"masks. The compact network above keeps every unit that is ever used, and is larger.",
        )
        yield "size", Table(header, cells, "Posterior over size")
    yield from _notes(analysis, "size", "size")
    if frontier is not None:
        yield (
            "frontier",
            f"On validation data, with the mean mask. The marked threshold is the one with the "
            f"fewest FLOPs among those that cost at most {MAX_ERROR_INCREASE:g} percentage points "
            f"of error; the compact network of this report uses the layers' own.",
        )
        yield (
            "frontier",
            Picture(
                "frontier.png",
                "Error, NLL and ECE on validation data against the FLOPs of the compact network",
                lambda: plot_frontier(frontier, chosen=analysis.chosen),
            ),
        )
        cells = [
            [
                f"{row.threshold:.3g}" + (" (marked)" if row.threshold == analysis.chosen else ""),
                "-".join(map(str, row.units)),
                f"{row.params:,}",
                f"{row.flops:,}",
                f"{row.error:.2f}",
                f"{row.nll:.4f}",
                f"{row.ece:.4f}",
            ]
            for row in frontier.rows
        ]
        header = ["threshold", "units", "parameters", "FLOPs", "error (%)", "NLL (nats)", "ECE"]
        yield "frontier", Table(header, cells, "The frontier, threshold by threshold")
    yield from _notes(analysis, "frontier", "validation", "frontier")


def _diagnostics(analysis: Analysis) -> Blocks:
    if analysis.diagnostic is not None:
        found = analysis.diagnostic
        yield (
            "diagnostics",
            f"{found.verdict} From {found.num_samples} draws with {found.num_masks} masks each.",
        )
    if analysis.elbo is not None:
        header = ["check", "where", "value", "expected", "tolerance", "result"]
        cells = [
            [
                row.check,
                row.where,
                *(number(v, "6g") for v in (row.value, row.expected, row.tolerance)),
                "pass" if row.passed else "FAIL",
            ]
            for row in analysis.elbo.rows
        ]
        yield "diagnostics", Table(header, cells, "Laws of the objective, checked on this network")


def _notes(analysis: Analysis, section: str, *keys: str) -> Blocks:
    for key in keys:
        if key in analysis.notes:
            yield section, analysis.notes[key]
