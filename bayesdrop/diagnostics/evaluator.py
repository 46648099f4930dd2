"""Every figure of merit of a network on a test set, from one prediction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from bayesdrop.errors import ConfigError, DataError
from bayesdrop.inference.batches import Data
from bayesdrop.inference.predict import predict_in_groups, warn_of_order
from bayesdrop.metrics.coverage import width_error
from bayesdrop.metrics.figures import COVERAGE_LEVELS, ClassifierFigures, RegressionFigures
from bayesdrop.metrics.monte_carlo import SampleGroups, jackknife_error, monte_carlo_errors
from bayesdrop.metrics.ood import OODMetrics, by_example, compare_ood, ood_metrics
from bayesdrop.metrics.prediction import Prediction
from bayesdrop.program.checks import check_program
from bayesdrop.program.program import Program
from bayesdrop.record import Record, plain
from bayesdrop.typing import SharedBy

_KINDS = (ClassifierFigures, RegressionFigures)
_WITH_ERROR = (
    *("error", "nll", "brier", "ece", "adaptive_ece", "mce", "classwise_ece"),
    *("aurc", "excess_aurc", "augrc", "predictive_entropy", "rmse"),
)
_SHOWN = ("error", "rmse", "nll", "brier", "crps", "ece", "aurc", "predictive_entropy")
_MOST_SETS = 4
_RESAMPLES = 25
_FOLDS = 8
"""Groups of samples that are left out in turns for the error of the CRPS."""
_NAMES = {"coverage", *(item.name for kind in _KINDS for item in fields(kind))}


@dataclass(frozen=True, eq=False)
class Evaluation(Record):
    """What ``evaluate`` returns.

    The figures are read off it directly, as in ``result.error`` or ``result.coverage``; those of
    the other kind, such as the ``rmse`` of a classifier, are None.

    Args:
        figures: ``ClassifierFigures`` or ``RegressionFigures``; the NLL is that of the averaged
            probabilities, or of the mixture of the samples' densities.
        prediction: The prediction of the test set.
        ood: Data set name to score name to AUROC, AUPR and FPR95, OOD being positive.
        monte_carlo_error: Figure to the standard error that comes from which posterior samples
            were drawn, see ``monte_carlo_errors`` of ``bayesdrop.metrics``; ``auroc NAME``,
            ``fpr95 NAME`` and so on are those of the entropy's metrics for an OOD set, and
            ``width 0.9`` that of an average width. Of a figure that is not in it, it is not known.
            Empty for a mean mask, for fewer than eight samples, and if the means of 16 groups of
            samples do not fit in ``memory_limit``.
    """

    figures: ClassifierFigures | RegressionFigures
    prediction: Prediction
    ood: dict[str, dict[str, OODMetrics]] = field(default_factory=dict)
    monte_carlo_error: dict[str, float] = field(default_factory=dict)

    @property
    def num_samples(self) -> int:
        """Posterior samples behind the figures; 1 for a mean mask."""
        return self.prediction.num_samples

    def __getattr__(self, name: str) -> Any:
        if name in _NAMES:
            return getattr(self.figures, name, None)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @override
    def __repr__(self) -> str:
        lines = [f"Evaluation of {len(self.prediction.mean)} examples, {self._sampled()}:"]
        for name in _SHOWN:
            value = getattr(self, name)
            if isinstance(value, float):
                lines.append(f"  {name}: {_with_error(value, self.monte_carlo_error.get(name))}")
        for level, share in (self.coverage or {}).items():
            error = self.monte_carlo_error.get(f"coverage {level:g}")
            lines.append(f"  coverage of {level:g} intervals: {_with_error(share, error)}")
        aurocs = [
            f"{name} "
            + _with_error(scores["entropy"]["auroc"], self.monte_carlo_error.get(f"auroc {name}"))
            for name, scores in self.ood.items()
        ]
        if aurocs:
            lines.append(f"  AUROC of the entropy: {', '.join(aurocs[:_MOST_SETS])}")
        if self.monte_carlo_error:
            lines.append("  (± Monte Carlo standard error: which posterior samples were drawn)")
        return "\n".join(lines)

    def _sampled(self) -> str:
        number = self.num_samples
        return "one pass" if number == 1 else f"{number} posterior samples"

    @override
    def __dir__(self) -> Iterable[str]:
        return {*super().__dir__(), *_NAMES}

    @override
    def to_dict(self) -> dict[str, Any]:
        """Return the figures that apply, as plain numbers, without the prediction."""
        return self.figures.to_dict() | plain(
            {
                "ood": self.ood,
                "num_samples": self.num_samples,
                "monte_carlo_error": self.monte_carlo_error,
            }
        )


def _with_error(value: float, error: float | None) -> str:
    """Return a figure in four digits, with its Monte Carlo standard error, if there is one."""
    return f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.2g}"


def evaluate(
    bnn: Program,
    data: Data,
    *,
    ood: Mapping[str, Data] | None = None,
    num_samples: int = 64,
    sample: bool = True,
    shared_by: SharedBy = "batch",
    batch_size: int | None = None,
    memory_limit: int = 2**30,
    keep_samples: bool = False,
    seed: int | None = None,
    progress: bool = True,
) -> Evaluation:
    """Evaluate a network on a test set and, optionally, on out-of-distribution inputs.

    A likelihood with several labels an example (Bernoulli outputs, classes of pixels) is evaluated
    as that many problems: error and ECE are taken over all of them, NLL and Brier score are summed
    over the labels of an example; calibration and selection take each for an example. Missing
    labels are left out. The mutual-information
    score is left out where there is one posterior sample.

    Args:
        bnn: The Bayesian network.
        data: ``(x, y)``, a Dataset or a DataLoader.
        ood: Name to inputs the network was not trained for; their targets are not looked at.
            Classifiers only.
        num_samples: Posterior samples.
        sample: Whether to sample; False runs once with the mean masks.
        shared_by: As in ``predict``.
        batch_size: As in ``predict``.
        memory_limit: As in ``predict``, in bytes.
        keep_samples: Whether ``prediction`` keeps each posterior sample; for regression then also
            the CRPS, if the likelihood has one (all of bayesdrop's have).
        seed: Makes the draw reproducible; the OOD sets then meet the same posterior samples.
        progress: Whether to show a bar on a terminal, after a second, unless another is shown.

    Raises:
        DataError: If the data has no targets, or they do not fit the likelihood.
        ConfigError: For bad options, or OOD sets with a regression or without names.

    Example:
        >>> import torch, bayesdrop as bd
        >>> net = torch.nn.Sequential(bd.BetaBernoulliDropout(4), torch.nn.Linear(4, 3))
        >>> bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=100)
        >>> test = torch.zeros(5, 4), torch.arange(5) % 3
        >>> result = evaluate(bnn, test, ood={"ones": torch.ones(6, 4)}, num_samples=8)
        >>> {"aurc", "brier", "ece", "error", "nll", "ood"} <= result.to_dict().keys()
        True
    """
    check_program("evaluate", bnn)
    _check_ood(bnn, ood)
    options: dict[str, Any] = {
        "num_samples": num_samples,
        "sample": sample,
        "shared_by": shared_by,
        "batch_size": batch_size,
        "memory_limit": memory_limit,
        "seed": seed,
    }
    prediction, groups = predict_in_groups(
        bnn, data, keep_samples=keep_samples, bar="evaluate" if progress else "", **options
    )
    warn_of_order("evaluate", data, len(prediction.mean), prediction.y)
    figures = figures_of(bnn, prediction)
    outside, groups_outside = {}, {}
    for name, x in (ood or {}).items():
        outside[name], groups_outside[name] = predict_in_groups(
            bnn, x, keep_samples=False, bar=f"evaluate {name}" if progress else "", **options
        )
    errors = monte_carlo_error_of(bnn, prediction, groups)
    errors |= ood_errors(bnn, groups, groups_outside, same_samples=seed is not None)
    metrics = compare_ood(prediction, outside).metrics if outside else {}
    return Evaluation(figures, prediction, metrics, errors)


def _check_ood(bnn: Program, ood: Mapping[str, Data] | None) -> None:
    if ood is None:
        return
    if not isinstance(ood, Mapping):
        raise ConfigError(
            "evaluate",
            expected="OOD sets by name",
            got=f"ood of type {type(ood).__name__}",
            hint='Name them: ood={"noise": x}.',
        )
    if ood and isinstance(bnn, Program) and not bnn.likelihood.is_classifier:
        raise ConfigError(
            "evaluate",
            expected="a classifier for ood=...",
            got=f"likelihood {type(bnn.likelihood).__name__}",
            hint="For regression score predict(...).epistemic_variance with ood_metrics.",
        )


def monte_carlo_error_of(
    bnn: Program, prediction: Prediction, groups: SampleGroups | None
) -> dict[str, float]:
    """Return the standard error of each figure that which samples were drawn accounts for.

    Args:
        bnn: The network that predicted.
        prediction: Of data with targets.
        groups: What ``predict_in_groups`` returned with it; without them there is none.
    """
    if groups is None or groups.log_likelihood is None:
        return {}

    def figures(one: SampleGroups) -> dict[str, float]:
        pit = None if one.pit is None else one.pit[0]
        found = figures_of(
            bnn,
            replace(
                prediction,
                mean=one.mean[0],
                log_likelihood=None if one.log_likelihood is None else one.log_likelihood[0],
                pit=pit,
                samples=None,
            ),
        )
        values = {name: getattr(found, name, None) for name in _WITH_ERROR}
        if isinstance(found, RegressionFigures) and found.coverage is not None:
            values |= {f"coverage {level:g}": share for level, share in found.coverage.items()}
        return {name: value for name, value in values.items() if value is not None}

    return monte_carlo_errors(groups, figures) | _errors_of_samples(bnn, prediction)


def _errors_of_samples(bnn: Program, prediction: Prediction) -> dict[str, float]:
    samples, variances, y = prediction.samples, prediction.sample_variances, prediction.y
    if samples is None or variances is None or y is None:
        return {}
    errors = {}
    if bnn.likelihood.has_normal_noise and bool((variances > 0).all()):
        for level in COVERAGE_LEVELS:
            errors[f"width {level:g}"] = width_error(samples, variances, level)
    fold = torch.arange(len(samples)) % _FOLDS
    target, scores = y.reshape(samples.shape[1:]), []
    for left_out in range(_FOLDS):
        rest = fold != left_out
        each = bnn.likelihood.crps(samples[rest], variances[rest], target)
        if each is None:
            return errors
        scores.append(float(each.mean()))
    return errors | {"crps": jackknife_error(scores)}


def ood_errors(
    bnn: Program,
    inside: SampleGroups | None,
    outside: Mapping[str, SampleGroups | None],
    *,
    same_samples: bool,
) -> dict[str, float]:
    """Return the Monte Carlo standard errors of the entropy's ``ood_metrics`` for each OOD set.

    Args:
        bnn: The network that predicted; a classifier.
        inside: What ``predict_in_groups`` returned for the test set.
        outside: OOD set's name to the same.
        same_samples: Whether all sets met the same posterior samples, which then are drawn again
            for both sets at once.
    """
    errors: dict[str, float] = {}
    for name, groups in outside.items():
        if inside is not None and groups is not None:
            found = _separation_errors(bnn, inside, groups, same_samples)
            errors |= {f"{metric} {name}": value for metric, value in found.items()}
    return errors


def _separation_errors(
    bnn: Program, inside: SampleGroups, outside: SampleGroups, same_samples: bool
) -> dict[str, float]:
    size = inside.mean.shape[1]
    both = SampleGroups(inside.sizes, torch.cat([inside.mean, outside.mean], 1))

    def entropy(one: SampleGroups) -> Tensor:
        return by_example(bnn.likelihood.entropy(one.mean[0])).cpu()

    def metrics(mine: Tensor, theirs: Tensor) -> dict[str, float]:
        return dict(ood_metrics(mine[:size], theirs[size:]))  # type: ignore[arg-type]

    errors = partial(monte_carlo_errors, both, num_resamples=_RESAMPLES)
    if same_samples:
        return errors(lambda one: metrics(*[entropy(one)] * 2))
    whole = entropy(both.weighted(both.sizes / both.sizes.sum()))
    first = errors(lambda one: metrics(entropy(one), whole))
    second = errors(lambda one: metrics(whole, entropy(one)))
    return {name: math.hypot(first[name], second[name]) for name in first}


def figures_of(bnn: Program, prediction: Prediction) -> ClassifierFigures | RegressionFigures:
    """Return the figures of merit of a prediction that came with targets.

    Args:
        bnn: The network that made it.
        prediction: What ``predict`` returned for data with targets.

    Raises:
        DataError: If it has no targets, or all labels are missing.
    """
    y = prediction.y
    if y is None:
        raise DataError(
            "evaluate",
            expected="data with targets",
            got="inputs alone",
            hint="Pass (x, y), or use predict for inputs without targets.",
        )
    if not bnn.likelihood.is_classifier:
        return _regression_figures(bnn, prediction, y)
    probabilities, labels = bnn.likelihood.flatten_labels(prediction.mean, y)
    if len(labels) == 0:
        raise DataError(
            "evaluate",
            expected="at least one label",
            got=f"{len(prediction.mean)} examples, all labels missing",
            hint="Use predict for inputs without targets.",
        )
    return ClassifierFigures.from_predictions(
        probabilities,
        labels,
        num_examples=len(prediction.mean),
        log_likelihood=prediction.log_likelihood,
    )


def _regression_figures(bnn: Program, prediction: Prediction, y: Tensor) -> RegressionFigures:
    likelihood, score = bnn.likelihood, None
    samples, variances = prediction.samples, prediction.sample_variances
    if not likelihood.has_normal_noise and samples is not None and variances is not None:
        each = likelihood.crps(samples, variances, y.reshape(samples.shape[1:]))
        score, samples = None if each is None else float(each.mean()), None
    return RegressionFigures.from_predictions(
        prediction.mean,
        y,
        log_likelihood=prediction.log_likelihood,
        pit=prediction.pit,
        samples=samples,
        variances=variances,
        crps=score,
    )
