"""A run's figures of merit: ``report.json``, ``report.md`` and the figures."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from bayesdrop.bayesian import BayesianNetwork
from bayesdrop.compression import compact, count_bytes, count_flops, count_params
from bayesdrop.convert import to_deterministic
from bayesdrop.errors import CompactionError
from bayesdrop.evaluation import (
    brier_score,
    error_percent,
    expected_calibration_error,
    negative_log_likelihood,
    ood_metrics,
    uncertainty_scores,
)
from bayesdrop.inference.predict import Prediction, predict
from bayesdrop.reporting import plots
from bayesdrop.reporting.files import write_json, write_text
from bayesdrop.reporting.tables import Row, markdown_table, table_cells

METHODS = {
    "plain": "plain network",
    "mean_mask": "mean mask",
    "monte_carlo": "Monte Carlo",
}
"""Key in ``report.json`` to title."""

_LATENCY_BATCH = 100
_LATENCY_REPEATS = 15


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

    def write(self, out: str | Path, *, figures: bool = True) -> list[Path]:
        """Write ``report.json``, ``report.md`` and, if asked for, the figures; return the paths.

        Raises:
            ImportError: If figures are asked for and matplotlib is not installed.
            CheckpointError: If a file cannot be written.
        """
        out = Path(out)
        drawn = self._figures() if figures else {}
        paths = [plots.save_figure(figure, out / name) for name, figure in drawn.items()]
        report = write_json(out / "report.json", self.values)
        return [report, write_text(out / "report.md", self.markdown(list(drawn))), *paths]

    def markdown(self, figures: Sequence[str] = ()) -> str:
        """Return the report as Markdown, with links to figures beside it."""
        values = self.values
        parts = [
            f"# {values['recipe']} on {values['data_title']}",
            f"Seed {values['seed']}, {values['minutes']:.1f} minutes of training, "
            f"{values['num_samples']} posterior samples, {len(self.labels):,} test images. "
            f"Latency: milliseconds for a batch of {values['latency_batch']} images on "
            f"{values['threads']} CPU thread(s); Monte Carlo's is that of all its samples.",
            markdown_table(*table_cells(self.rows, latency_batch=values["latency_batch"])),
        ]
        if self.keep_probs:
            parts += ["## Units and size", self._size_table(), self._size_note()]
        if values["ood"]:
            parts += [
                "## Out-of-distribution detection",
                "Out-of-distribution images are the positive class; a higher score means more "
                "uncertain.",
                self._ood_table(),
            ]
        parts += [f"![{Path(name).stem.replace('_', ' ')}]({name})" for name in figures]
        return "\n\n".join(parts) + "\n"

    def _size_table(self) -> str:
        values = self.values
        lines = [
            [name, f"{total:,}", f"{kept:,}", f"{100 * kept / total:.1f} %"]
            for name, kept, total in zip(
                self.keep_probs, values["units"], values["units_total"], strict=True
            )
        ]
        if values["params"] is not None:
            for key, title in (("params", "parameters"), ("bytes", "bytes"), ("flops", "FLOPs")):
                kept, total = values[key], values[f"{key}_total"]
                lines.append([title, f"{total:,}", f"{kept:,}", f"{100 * kept / total:.1f} %"])
        return markdown_table(["", "plain", "compact", "kept"], lines)

    def _size_note(self) -> str:
        difference = self.values["compact_max_abs_diff"]
        if difference is None:
            return f"No compact network: {self.values['compact_error']}"
        return (
            f"The compact network takes {self.values['flops_speedup']:.1f}x fewer operations; its "
            f"outputs differ from the masked network's by at most {difference:.1e}."
        )

    def _ood_table(self) -> str:
        lines = [
            [name, METHODS[method], score, *(f"{value:.3f}" for value in metrics.values())]
            for method, sets in self.values["ood_by_method"].items()
            for name, scores in sets.items()
            for score, metrics in scores.items()
        ]
        return markdown_table(["data", "method", "score", "AUROC", "AUPR", "FPR95"], lines)

    def _figures(self) -> dict[str, Any]:
        curves = {METHODS.get(name, name): value for name, value in self.probabilities.items()}
        drawn = {
            "reliability.png": plots.reliability_diagram(curves, self.labels),
            "history.png": plots.training_history(self.history),
        }
        if self.keep_probs:
            drawn["keep_probabilities.png"] = plots.keep_probability_curves(self.keep_probs)
            first = next(iter(self.keep_probs.values()))
            if len(first) == torch.Size(self.image_shape).numel():
                drawn["input_keep_probabilities.png"] = plots.input_keep_image(
                    first, self.image_shape
                )
        if len(self.scores) > 1:
            (name, inside), *others = self.scores.items()
            drawn["ood_scores.png"] = plots.ood_histogram(inside, dict(others), name=name)
        return drawn


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
    """Evaluate a classifier three ways, prune it, and measure both.

    Args:
        bnn: The trained network.
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
        "plain": (plain, {"mean_mask": True}),
        "mean_mask": (bnn, {"mean_mask": True}),
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
    size, small = _size(bnn, test[0])
    latency = _latency(plain, bnn, small, test[0], num_samples)
    values: dict[str, Any] = {
        **description,
        "num_samples": num_samples,
        **{
            key: {method: metrics[method][key] for method in passes}
            for key in ("error", "nll", "brier", "ece")
        },
        "units": bnn.units(),
        "units_total": bnn.units_total(),
        **size,
        "latency_ms": latency,
        "latency_batch": min(_LATENCY_BATCH, len(test[1])),
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
    )


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
    inside = predict(network, test, mean_mask=True, keep_samples=False)
    outside = {
        name: predict(network, images, mean_mask=True, keep_samples=False)
        for name, images in (ood or {}).items()
    }
    detection = _detection(inside, outside)
    figures: dict[str, Any] = {**_metrics(inside, test[1]), "ood": detection}
    latency = _time({"": _evaluation(network, test[0])})[""]
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
    return {
        "error": error_percent(prediction.mean, labels),
        "nll": negative_log_likelihood(prediction.mean, labels),
        "brier": brier_score(prediction.mean, labels),
        "ece": expected_calibration_error(prediction.mean, labels),
    }


def _detection(
    inside: Prediction, outside: Mapping[str, Prediction]
) -> dict[str, dict[str, dict[str, float]]]:
    own = uncertainty_scores(inside)
    return {
        name: {
            score: cast(dict[str, float], ood_metrics(own[score], values))
            for score, values in uncertainty_scores(prediction).items()
        }
        for name, prediction in outside.items()
    }


@torch.no_grad()
def _size(bnn: BayesianNetwork, images: Tensor) -> tuple[dict[str, Any], nn.Module | None]:
    original = to_deterministic(bnn).eval()
    example = images[:1]
    totals = {
        "params_total": count_params(original),
        "bytes_total": count_bytes(original),
        "flops_total": count_flops(original, example),
    }
    try:
        small = compact(bnn, example)
    except CompactionError as error:
        nothing = dict.fromkeys(
            ("flops_speedup", "params", "bytes", "flops", "compact_max_abs_diff")
        )
        return {**nothing, **totals, "compact_error": str(error)}, None
    some = images[:1000]
    bnn.eval()
    flops = count_flops(small, example)
    return {
        "flops_speedup": totals["flops_total"] / max(1, flops),
        "params": count_params(small),
        "bytes": count_bytes(small),
        "flops": flops,
        "compact_max_abs_diff": float((small(some) - bnn(some)).abs().max()),
        **totals,
    }, small


def _latency(
    plain: BayesianNetwork,
    bnn: BayesianNetwork,
    small: nn.Module | None,
    images: Tensor,
    num_samples: int,
) -> dict[str, float]:
    batch = images[:_LATENCY_BATCH]
    return _time(
        {
            "plain": _evaluation(plain, images),
            "mean_mask": _evaluation(bnn if small is None else small, images),
            "monte_carlo": lambda: predict(
                bnn, batch, num_samples=num_samples, keep_samples=False
            ),
        }
    )


def _evaluation(network: nn.Module, images: Tensor) -> Callable[[], object]:
    # A BayesianNetwork without Bayesian dropout is timed as the plain module it holds.
    network = network.network if isinstance(network, BayesianNetwork) else network
    network = network.eval()
    return lambda: network(images[:_LATENCY_BATCH])


@torch.no_grad()
def _time(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return median milliseconds per call, the calls made in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with torch.random.fork_rng():
        for repeat in range(_LATENCY_REPEATS + 2):
            for name, call in calls.items():
                started = time.perf_counter()
                call()
                if repeat >= 2:
                    seconds[name].append(time.perf_counter() - started)
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}


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
        if widths or method == "plain"
    ]
