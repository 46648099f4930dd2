"""A report in words, tables and figures, and its files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from bayesdrop.compression import PerInputCost
from bayesdrop.metrics import RegressionFigures
from bayesdrop.nn.latents import named_shared
from bayesdrop.reporting import plots
from bayesdrop.reporting.analysis_pages import analysis_blocks
from bayesdrop.reporting.document import Block, Document, Picture, Section, Table, pictures_first
from bayesdrop.reporting.label_pages import label_blocks
from bayesdrop.reporting.methods import Method
from bayesdrop.reporting.model_card import PriorCard, versions
from bayesdrop.reporting.publish import publish, publish_page
from bayesdrop.reporting.report_record import KEPT_WORDS, Report
from bayesdrop.reporting.summary import report_summary
from bayesdrop.reporting.tables import number, table_cells

SECTIONS = {
    "metrics": "Metrics and their uncertainty",
    "calibration": "Calibration",
    "uncertainty": "What it is sure and unsure about",
    "ood": "Out-of-distribution detection",
    "shift": "Dataset shift",
    "selective": "Selective prediction",
    "size": "Units and size",
    "per_input": "Units and operations of one input",
    "frontier": "Accuracy, calibration and FLOPs as the threshold moves",
    "diagnostics": "Is the posterior, and the objective, what it claims to be?",
    "training": "Training",
    "model": "The model, and how it was evaluated",
}
"""Key of each section to its heading, in order."""

_OOD_METRICS = {
    "auroc": "AUROC",
    "aupr": "AUPR",
    "aupr_in": "AUPR in",
    "fpr95": "FPR95",
    "detection_error": "detection error",
}


def write_report(
    report: Report, out: str | Path, *, figures: bool = True, html: bool = False
) -> list[Path]:
    """Write ``report.json``, ``report.md`` and what is asked for; return the paths.

    Args:
        report: The report.
        out: The folder.
        figures: Whether to draw the figures, also those of the page.
        html: Whether to write ``report.html``, a page with everything inside.

    Raises:
        ImportError: If figures are asked for and matplotlib is not installed.
        CheckpointError: If a file cannot be written.
    """
    document = report_document(report)
    return publish(document, report.to_dict(), out, "report", figures=figures, html=html)


def write_page(report: Report, path: str | Path) -> Path:
    """Write a report as one HTML file, its figures inside, and return the path.

    Raises:
        ImportError: If matplotlib is not installed.
        CheckpointError: If it cannot be written.
    """
    return publish_page(report_document(report), path)


def report_document(report: Report) -> Document:
    """Return a report's document; parts that it does not have are left out."""
    found: dict[str, list[Block]] = {key: [] for key in SECTIONS}
    for key, block in _blocks(report):
        found[key].append(block)
    minutes = report.description.get("minutes")
    trained = "" if minutes is None else f"{minutes:.1f} minutes of training, "
    if not report.has_one_label:
        for key, block in label_blocks(report):
            found[key].append(block)
    if report.analysis is not None:
        for key, block in analysis_blocks(report.analysis, report.word):
            found[key].append(block)
    calibration = found["calibration"]
    first = [block for block in calibration if isinstance(block, Picture)][:1]
    found["calibration"] = [block for block in calibration if block not in first]
    lead: list[Block] = [
        *report_summary(report),
        *first,
        Table(
            *table_cells(report.rows, latency_batch=report.latency_batch),
            caption="The methods side by side",
        ),
        f"Seed {report.seed}, {trained}{report.num_samples} posterior samples, "
        f"{len(report.test[1]):,} test examples. "
        f"Latency: milliseconds for a batch of {report.latency_batch} examples on "
        f"{report.threads} CPU thread(s); Monte Carlo's is that of all its samples.",
    ]
    return Document(
        report.title,
        lead,
        [
            Section(SECTIONS[key], pictures_first(blocks))
            for key, blocks in found.items()
            if blocks
        ],
    )


def _blocks(report: Report) -> Iterator[tuple[str, Block]]:
    yield "model", _model_table(report)
    if report.card.priors:
        yield "model", _prior_table(report.card.priors)
    yield from _calibration(report)
    if report.main.ood:
        yield from _ood(report)
    if report.bnn.is_random:
        yield from _size(report)
    if report.per_input is not None:
        yield from _per_input(report.per_input)
    if report.class_masks:
        yield from _class_masks(report)
    if report.history and report.card.privacy is None:  # whose losses are no part of the promise
        yield (
            "training",
            Picture(
                "history.png",
                "Training: loss, validation error and units kept over the epochs",
                lambda: plots.plot_history(report.history),
            ),
        )


def _model_table(report: Report) -> Table:
    about = report.description
    stages = [f"{name} {len(records)} epochs" for name, records in report.history.items()]
    training = [] if "minutes" not in about else [f"{about['minutes']:.1f} minutes"]
    training += [", then ".join(stages)] if stages else []
    used = about.get("versions", versions())
    network = about.get("network", report.card.network)
    lines = {
        "recipe": about.get("recipe"),
        "data": f"{about.get('data', report.data_title)}: {len(report.test[1]):,} test examples",
        "network": f"{network}, {report.size.params_total:,} parameters",
        "seed": report.seed,
        "training": ": ".join(training) or None,
        "privacy": report.card.privacy,
        "evaluated with": ", ".join(f"{name} {version}" for name, version in used.items()),
    }
    cells = [[name, str(value)] for name, value in lines.items() if value is not None]
    return Table(["", "value"], cells, "What was trained, on what, and how it was evaluated")


def _prior_table(priors: dict[str, PriorCard]) -> Table:
    cells = [
        [
            path,
            prior.kind,
            prior.prior + (f"; KL x {prior.kl_scale:g}" if prior.kl_scale != 1 else ""),
            number(prior.units, ","),
        ]
        for path, prior in priors.items()
    ]
    return Table(["layer", "dropout", "prior", "units"], cells, "Prior of each dropout layer")


def _calibration(report: Report) -> Iterator[tuple[str, Block]]:
    labels = report.main.labels
    if labels is not None:
        curves = {row.title: row.probabilities for row in report.rows}
        known = {title: value for title, value in curves.items() if value is not None}
        yield (
            "calibration",
            Picture(
                "reliability.png",
                f"Reliability: accuracy against confidence, and how many {report.word} have which "
                "confidence",
                lambda: plots.plot_reliability(known, labels),
            ),
        )
        return
    figures = {row.title: row.figures for row in report.rows}
    regressions = {
        title: value.calibration
        for title, value in figures.items()
        if isinstance(value, RegressionFigures) and value.calibration is not None
    }
    if regressions:
        yield (
            "calibration",
            Picture(
                "coverage.png",
                "Share of the targets inside central intervals, and the histogram of PIT values",
                lambda: plots.plot_coverage(regressions),
            ),
        )
        header = ["method", "interval", "targets inside (%)", "95 % band (%)"]
        cells = [
            [
                title,
                f"{100 * level:g} %",
                f"{100 * inside:.1f}",
                f"{100 * lower:.1f} to {100 * upper:.1f}",
            ]
            for title, found in regressions.items()
            for level, inside, lower, upper in zip(
                *(
                    value.tolist()
                    for value in (found.level, found.coverage, found.lower, found.upper)
                ),
                strict=True,
            )
        ]
        yield "calibration", Table(header, cells, "Coverage of central intervals")


def _ood(report: Report) -> Iterator[tuple[str, Block]]:
    yield (
        "ood",
        f"Out-of-distribution {report.word} are the positive class; a higher score means more "
        "uncertain.",
    )
    lines = [
        [name, method.label, score, *(f"{value:.3f}" for value in metrics.values())]
        for method in report.methods
        for name, scores in report.results[method].ood.items()
        for score, metrics in scores.items()
    ]
    caption = f"How well each score tells unknown {report.word} from known ones"
    header = ["data", "method", "score", *_OOD_METRICS.values()]
    yield "ood", Table(header, lines, caption)
    inside, outside = report.main.shown_scores()
    yield (
        "ood",
        Picture(
            "ood_scores.png",
            f"Scores of known and unknown {report.word} by {report.methods[-1].spoken}",
            lambda: plots.plot_scores(inside, outside),
        ),
    )


def _size(report: Report) -> Iterator[tuple[str, Block]]:
    size, bnn = report.size, report.bnn
    shared = {owner for _, owner in named_shared(bnn.network)}
    counted: list[tuple[str, int, int]] = []
    for word in KEPT_WORDS:
        for path, owner in bnn.named_owners():
            if owner not in shared and owner.unit_word == word:
                name = path if word == "units" else f"{path}, {word}"
                counted.append((name, owner.total(), int(owner.kept().sum())))
    if size.sparsity is not None:
        title = "bytes on disk, stored sparsely"
        counted.append((title, size.sparsity.file_bytes_dense, size.sparsity.file_bytes))
    for key, title in (("params", "parameters"), ("bytes", "bytes"), ("flops", "FLOPs")):
        if getattr(size, key) is not None:
            counted.append((title, getattr(size, f"{key}_total"), getattr(size, key)))
    lines = [
        [name, f"{total:,}", f"{kept:,}", f"{100 * kept / total:.1f} %"]
        for name, total, kept in counted
    ]
    yield "size", Table(["", "plain", "compact", "kept"], lines, "What pruning leaves")
    if size.compact_max_abs_diff is None:
        yield "size", f"No compact network: {size.compact_error}"
    else:
        yield (
            "size",
            f"The compact network takes {number(size.flops_speedup, '.1f')}x fewer operations"
            f"{_less_time(report)}; "
            f"its outputs differ from the masked network's by at most "
            f"{size.compact_max_abs_diff:.1e}.",
        )
    yield from _keep_probabilities(report)


def _less_time(report: Report) -> str:
    times = [report.results.get(method) for method in (Method.PLAIN, Method.MEAN_MASK)]
    plain, small = (None if result is None else result.latency_ms for result in times)
    if not plain or not small:
        return ""
    return f" and, measured in batches of {report.latency_batch}, {plain / small:.1f}x less time"


def _keep_probabilities(report: Report) -> Iterator[tuple[str, Block]]:
    keep_probs = report.keep_probs()
    if not keep_probs:
        return
    layers = [layer for _, layer in report.bnn.named_dropout_layers()]
    yield (
        "size",
        Picture(
            "keep_probabilities.png",
            "Keep probabilities of each layer's units, from the largest to the smallest",
            lambda: plots.plot_keep_probabilities(keep_probs, threshold=layers[0].threshold),
        ),
    )
    if any(layer.order_curves() for layer in layers):
        title = "Learned sticks, and the keep probabilities that are made of them"
        yield "size", Picture("sticks.png", title, lambda: plots.plot_sticks(report.bnn))
    first = next(iter(keep_probs.values()))
    if _are_pixels(first, report):
        yield (
            "size",
            Picture(
                "input_keep_probabilities.png",
                "Keep probability of each input pixel",
                lambda: plots.plot_input_keep_probabilities(first, report.example_shape),
            ),
        )


def _are_pixels(values: torch.Tensor, report: Report) -> bool:
    shape = torch.Size(report.example_shape)
    return len(shape) == 3 and values.shape[-1] == shape.numel()


def _per_input(cost: PerInputCost) -> Iterator[tuple[str, Block]]:
    lines = [
        [name, f"{total:,}", f"{cost.units[name]:,.1f}"]
        for name, total in cost.units_total.items()
    ]
    header = ["", "plain", "kept on average"]
    yield "per_input", Table(header, lines, "Units that are kept for one input")
    yield (
        "per_input",
        f"Averages over {cost.num_examples:,} test examples. Counted by kept inputs and "
        f"outputs, as in the literature, an example takes {cost.speedup:.1f}x fewer "
        f"operations than with the plain network; since a unit has to be computed before its "
        f"mask is known, {cost.speedup_needed:.1f}x fewer are really needed.",
    )


def _class_masks(report: Report) -> Iterator[tuple[str, Block]]:
    masks = report.class_masks
    first = next(iter(masks.values()))
    if _are_pixels(first, report):
        yield (
            "per_input",
            Picture(
                "class_masks.png",
                "Mean mask of each input pixel, averaged over the images of each class",
                lambda: plots.plot_class_masks(first, report.example_shape),
            ),
        )
    yield (
        "per_input",
        Picture(
            "class_correlations.png",
            "Correlation between the classes' average masks, layer by layer",
            lambda: plots.plot_class_correlations(masks),
        ),
    )
