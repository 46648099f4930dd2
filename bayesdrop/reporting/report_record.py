"""The record of a report: everything that was found out about a network, each number once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.compression import PerInputCost
from bayesdrop.program.inputs import tensors_of
from bayesdrop.program.network import BayesianNetwork
from bayesdrop.record import Record, plain
from bayesdrop.reporting.analysis import Analysis
from bayesdrop.reporting.costs import SizeFigures
from bayesdrop.reporting.methods import Method, methods_of
from bayesdrop.reporting.model_card import NetworkCard, versions
from bayesdrop.reporting.results import MethodResult, Pair

KEPT_WORDS = ("units", "weights")
"""What layers keep or prune, as keys of ``report.json``."""


@dataclass(frozen=True, eq=False)
class Report(Record):
    """What ``report`` and ``build_report`` found out about a network.

    Args:
        results: Method to what it makes of the test set and of OOD sets.
        size: Parameters, bytes and FLOPs before and after units are removed.
        card: The network's class and priors.
        bnn: The network.
        plain: The network without Bayesian layers that it is compared with, or None.
        test: The test inputs and targets.
        num_samples: Posterior samples of the Monte Carlo prediction.
        seed: Of the posterior samples.
        latency_batch: Examples of a timed batch.
        threads: CPU threads of the timing.
        description: What the caller says of the network, kept in ``report.json``; of it
            ``recipe``, ``data``, ``data_title``, ``network``, ``minutes`` and ``versions`` are
            shown.
        history: Stage name to the records of ``fit``.
        per_input: Units and FLOPs of one input, where masks depend on it.
        class_masks: Dropout layer to the classes' average masks, ``(C, K)``, where they do.
        compact: The smaller network; None if it could not be made.
        baselines: Title to what another network makes of the test set.
        analysis: What ``analyse`` added, or None.
    """

    results: dict[Method, MethodResult]
    size: SizeFigures
    card: NetworkCard
    bnn: BayesianNetwork = field(repr=False)
    plain: BayesianNetwork | None = field(repr=False)
    test: Pair = field(repr=False)
    num_samples: int
    seed: int
    latency_batch: int
    threads: int
    description: Mapping[str, Any] = field(default_factory=dict)
    history: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    per_input: PerInputCost | None = None
    class_masks: dict[str, Tensor] = field(default_factory=dict, repr=False)
    compact: nn.Module | None = field(default=None, repr=False)
    baselines: dict[str, MethodResult] = field(default_factory=dict)
    analysis: Analysis | None = None

    @property
    def title(self) -> str:
        """What is reported on, in a few words."""
        name = self.description.get("recipe", self.card.network)
        return f"{name} on {self.data_title}"

    @property
    def data_title(self) -> str:
        """What to call the data."""
        return str(self.description.get("data_title", "test data"))

    @property
    def methods(self) -> tuple[Method, ...]:
        """The methods that differ: one alone without Bayesian layers."""
        return tuple(m for m in methods_of(self.bnn) if not self._lacks(m))

    def _lacks(self, method: Method) -> bool:
        # What stands in for the plain network is then the mean mask: a row of its own would lie.
        return method is Method.PLAIN and self.plain is None and self.bnn.is_random

    @property
    def rows(self) -> list[MethodResult]:
        """The lines of the comparison: the first method, the baselines, the other methods."""
        first, *others = (self.results[method] for method in self.methods)
        return [first, *self.baselines.values(), *others]

    @property
    def main(self) -> MethodResult:
        """The method that single figures are about: the one that samples, if there is one."""
        return self.results[self.methods[-1]]

    @property
    def has_one_label(self) -> bool:
        """Whether each example has one label of several classes, as ``analyse`` needs it."""
        probabilities, mean = self.main.probabilities, self.main.prediction.mean
        return probabilities is not None and mean.ndim == 2 and probabilities.shape == mean.shape

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one input, of several the first."""
        return tuple(tensors_of(self.test[0])[0].shape[1:])

    @property
    def word(self) -> str:
        """What the examples are: images, or examples."""
        return "images" if len(self.example_shape) == 3 else "examples"

    def keep_probs(self) -> dict[str, Tensor]:
        """Return the keep probabilities of each dropout layer, on the CPU."""
        layers = self.bnn.named_dropout_layers()
        return {path: layer.keep_prob().detach().cpu() for path, layer in layers}

    @override
    def to_dict(self) -> dict[str, Any]:
        """Return the contents of ``report.json``."""
        kept, total = self.bnn.kept(), self.bnn.total()
        results = {m: result for m, result in self.results.items() if not self._lacks(m)}
        headlines = {method: result.headline() for method, result in results.items()}
        values: dict[str, Any] = {
            **self.card.to_dict(),
            "versions": versions(),
            "seed": self.seed,
            **self.description,
            "num_test": len(self.test[1]),
            "num_samples": self.num_samples,
            **{
                key: {method: headline[key] for method, headline in headlines.items()}
                for key in self.main.headline()
            },
            **{word: kept.get(word, []) for word in KEPT_WORDS},
            **{f"{word}_total": total.get(word, []) for word in KEPT_WORDS},
            **self.size.to_dict(),
            "per_input": self.per_input,
            "latency_ms": {m: result.latency_ms for m, result in results.items()},
            "monte_carlo_error": {m: r.monte_carlo_error for m, r in results.items()},
            "latency_batch": self.latency_batch,
            "threads": self.threads,
            "ood": self.results[Method.MONTE_CARLO].ood,
            "ood_by_method": {method: result.ood for method, result in results.items()},
        }
        if self.baselines:
            values["baselines"] = {
                title: {**result.headline(), "ood": result.ood, "latency_ms": result.latency_ms}
                for title, result in self.baselines.items()
            }
        if self.analysis is not None:
            values["analysis"] = self.analysis
        return plain(values)
