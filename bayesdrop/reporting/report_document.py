"""A report in words, tables and figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from bayesdrop.nn import StickBreakingDropout
from bayesdrop.reporting import plots
from bayesdrop.reporting.analysis_document import analysis_blocks
from bayesdrop.reporting.document import Block, Document, Picture, Section, Table
from bayesdrop.reporting.tables import table_cells

if TYPE_CHECKING:
    from bayesdrop.reporting.report import Report

METHODS = {
    "plain": "plain network",
    "mean_mask": "mean mask",
    "monte_carlo": "Monte Carlo",
}
"""Key in ``report.json`` to title."""

SECTIONS = {
    "model": "The model",
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
}
"""Key of each section to its heading, in order."""

_OOD_METRICS = {
    "auroc": "AUROC",
    "aupr": "AUPR",
    "aupr_in": "AUPR in",
    "fpr95": "FPR95",
    "detection_error": "detection error",
}


def report_document(report: Report) -> Document:
    """Return a report's document; parts that it does not have are left out."""
    values = report.values
    found: dict[str, list[Block]] = {key: [] for key in SECTIONS}
    for key, block in _blocks(report):
        found[key].append(block)
    lead: list[Block] = [
        f"Seed {values['seed']}, {values['minutes']:.1f} minutes of training, "
        f"{values['num_samples']} posterior samples, {len(report.labels):,} test images. "
        f"Latency: milliseconds for a batch of {values['latency_batch']} images on "
        f"{values['threads']} CPU thread(s); Monte Carlo's is that of all its samples.",
        Table(
            *table_cells(report.rows, latency_batch=values["latency_batch"]),
            caption="The methods side by side",
        ),
    ]
    if report.analysis is not None:
        for key, block in analysis_blocks(report.analysis, report.methods):
            if key == "lead":
                lead.insert(0, block)
            else:
                found[key].append(block)
    return Document(
        f"{values['recipe']} on {values['data_title']}",
        lead,
        [Section(SECTIONS[key], blocks) for key, blocks in found.items() if blocks],
    )


def _blocks(report: Report) -> Iterator[tuple[str, Block]]:
    values = report.values
    stages = [f"{name} {len(records)} epochs" for name, records in report.history.items()]
    yield "model", _model_table(values, ", then ".join(stages))
    if values["priors"]:
        yield "model", _prior_table(values["priors"])
    curves = {METHODS.get(name, name): value for name, value in report.probabilities.items()}
    yield (
        "calibration",
        Picture(
            "reliability.png",
            "Reliability: accuracy against confidence, and how many images have which confidence",
            lambda: plots.plot_reliability(curves, report.labels),
        ),
    )
    if values["ood"]:
        yield from _ood(report)
    if report.bnn.is_random:
        yield from _size(report)
    if values["per_input"] is not None:
        yield from _per_input(values["per_input"])
    if report.class_masks:
        yield from _class_masks(report)
    yield (
        "training",
        Picture(
            "history.png",
            "Training: loss, validation error and units kept over the epochs",
            lambda: plots.plot_history(report.history),
        ),
    )


def _model_table(values: dict[str, Any], stages: str) -> Table:
    used = ", ".join(f"{name} {number}" for name, number in values["versions"].items())
    cells = [
        ["recipe", str(values["recipe"])],
        ["data", f"{values['data']}: {values['num_test']:,} test images"],
        ["network", f"{values['network']}, {values['params_total']:,} parameters"],
        ["seed", str(values["seed"])],
        ["training", f"{values['minutes']:.1f} minutes" + (f": {stages}" if stages else "")],
        ["evaluated with", used],
    ]
    return Table(["", "value"], cells, "What was trained, on what, and how it was evaluated")


def _prior_table(priors: dict[str, dict[str, Any]]) -> Table:
    cells = [
        [
            path,
            prior["kind"],
            prior["prior"] + (f"; KL x {prior['kl_scale']:g}" if prior["kl_scale"] != 1 else ""),
            "–" if prior["units"] is None else f"{prior['units']:,}",
        ]
        for path, prior in priors.items()
    ]
    return Table(["layer", "dropout", "prior", "units"], cells, "Prior of each dropout layer")


def _ood(report: Report) -> Iterator[tuple[str, Block]]:
    yield (
        "ood",
        "Out-of-distribution images are the positive class; a higher score means more uncertain.",
    )
    lines = [
        [name, METHODS[method], score, *(f"{metrics[key]:.3f}" for key in _OOD_METRICS)]
        for method, sets in report.values["ood_by_method"].items()
        for name, scores in sets.items()
        for score, metrics in scores.items()
        if method in report.methods
    ]
    header = ["data", "method", "score", *_OOD_METRICS.values()]
    yield "ood", Table(header, lines, "How well each score tells unknown images from known ones")
    (name, inside), *others = report.scores.items()
    score = "entropy"
    yield (
        "ood",
        Picture(
            "ood_scores.png",
            "Predictive entropy of known and unknown images",
            lambda: plots.plot_scores(
                {score: inside}, {key: {score: value} for key, value in others}, name=name
            ),
        ),
    )


def _size(report: Report) -> Iterator[tuple[str, Block]]:
    values = report.values
    layers = [layer for _, layer in report.bnn.named_dropout_layers()]
    lines = [
        [name, f"{total:,}", f"{kept:,}", f"{100 * kept / total:.1f} %"]
        for name, kept, total in zip(
            report.keep_probs, values["units"], values["units_total"], strict=True
        )
    ]
    names = [f"{path}, weights" for path, _ in report.bnn.named_weight_layers()]
    lines += [
        [name, f"{total:,}", f"{kept:,}", f"{100 * kept / total:.1f} %"]
        for name, kept, total in zip(
            names, values["weights"], values["weights_total"], strict=True
        )
    ]
    if values.get("sparsity") is not None:
        kept, total = (values["sparsity"][key] for key in ("file_bytes", "file_bytes_dense"))
        title = "bytes on disk, stored sparsely"
        lines.append([title, f"{total:,}", f"{kept:,}", f"{100 * kept / total:.1f} %"])
    if values["params"] is not None:
        for key, title in (("params", "parameters"), ("bytes", "bytes"), ("flops", "FLOPs")):
            kept, total = values[key], values[f"{key}_total"]
            lines.append([title, f"{total:,}", f"{kept:,}", f"{100 * kept / total:.1f} %"])
    yield "size", Table(["", "plain", "compact", "kept"], lines, "What pruning leaves")
    difference = values["compact_max_abs_diff"]
    if difference is None:
        yield "size", f"No compact network: {values['compact_error']}"
    else:
        yield (
            "size",
            f"The compact network takes {values['flops_speedup']:.1f}x fewer operations; its "
            f"outputs differ from the masked network's by at most {difference:.1e}.",
        )
    if not layers:
        return
    yield (
        "size",
        Picture(
            "keep_probabilities.png",
            "Keep probabilities of each layer's units, from the largest to the smallest",
            lambda: plots.plot_keep_probabilities(
                report.keep_probs, threshold=layers[0].threshold
            ),
        ),
    )
    if any(isinstance(layer, StickBreakingDropout) for layer in layers):
        title = "Learned sticks, and the keep probabilities that are made of them"
        yield "size", Picture("sticks.png", title, lambda: plots.plot_sticks(report.bnn))
    first = next(iter(report.keep_probs.values()))
    if len(first) == torch.Size(report.image_shape).numel():
        yield (
            "size",
            Picture(
                "input_keep_probabilities.png",
                "Keep probability of each input pixel",
                lambda: plots.plot_input_keep_probabilities(first, report.image_shape),
            ),
        )


def _per_input(cost: dict[str, Any]) -> Iterator[tuple[str, Block]]:
    lines = [
        [name, f"{total:,}", f"{cost['units'][name]:,.1f}"]
        for name, total in cost["units_total"].items()
    ]
    header = ["", "plain", "active on average"]
    yield "per_input", Table(header, lines, "Units that are active for one image")
    yield (
        "per_input",
        f"Averages over {cost['num_examples']:,} test images. Counted by active inputs and "
        f"outputs, as in the literature, an image takes {cost['speedup']:.1f}x fewer "
        f"operations than with the plain network; since a unit has to be computed before its "
        f"mask is known, {cost['speedup_needed']:.1f}x fewer are really needed.",
    )


def _class_masks(report: Report) -> Iterator[tuple[str, Block]]:
    masks = report.class_masks
    first = next(iter(masks.values()))
    if first.shape[1] == torch.Size(report.image_shape).numel():
        yield (
            "per_input",
            Picture(
                "class_masks.png",
                "Mean mask of each input pixel, averaged over the images of each class",
                lambda: plots.plot_class_masks(first, report.image_shape),
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
