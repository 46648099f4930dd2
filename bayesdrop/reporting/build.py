"""Reports of networks: evaluated three ways, with the size, and on request all the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bayesdrop.diagnostics.class_masks import class_averaged_masks
from bayesdrop.errors import ConfigError
from bayesdrop.inference.arrays import arrays_of
from bayesdrop.inference.batches import in_memory
from bayesdrop.inference.predict import warn_of_order
from bayesdrop.metrics.options import require_names
from bayesdrop.nn.mode import evaluation_mode
from bayesdrop.program.inputs import as_inputs, joined_inputs, positional_inputs
from bayesdrop.program.network import BayesianNetwork
from bayesdrop.reporting.analysis import analyse
from bayesdrop.reporting.costs import (
    LATENCY_BATCH,
    compact_figures,
    latency_figures,
    pass_latency,
    per_input_figures,
)
from bayesdrop.reporting.methods import Method
from bayesdrop.reporting.model_card import describe_network
from bayesdrop.reporting.report_pages import write_page
from bayesdrop.reporting.report_record import Report
from bayesdrop.reporting.results import (
    GivenPair,
    MethodResult,
    Pair,
    check_pair,
    measure_method,
)


def report(
    bnn: BayesianNetwork,
    test: GivenPair,
    *,
    plain: BayesianNetwork | None = None,
    validation: GivenPair | None = None,
    train: GivenPair | None = None,
    ood: Mapping[str, Any] | None = None,
    class_names: Sequence[str] = (),
    title: str | None = None,
    html: str | Path | None = None,
    num_samples: int = 64,
    shift: bool | None = None,
    seed: int = 0,
) -> Report:
    """Find out, and on request write on a page, whether to trust a network of one's own.

    A classifier's report has figures of merit with confidence intervals, calibration, uncertainty
    by class, out-of-distribution detection, dataset shift of images, selective prediction, the
    size before and after pruning with its posterior, and the frontier of accuracy and size. A
    regression's has RMSE, NLL, CRPS and the coverage of its intervals, and the size. Where an
    example has several labels, such as one a pixel, figures are over all of them, without what
    would take them for independent: intervals, thresholds, shift. What was not
    given (validation data, OOD data, a plain network) is left out, and the page says so.

    Args:
        bnn: The network; it is not changed. It may have no Bayesian layers.
        test: Test inputs and targets, which nothing was chosen on; of a network with several
            inputs ``((x1, x2), y)``, or ``({"name": x1, ...}, y)``. A Dataset or DataLoader, also
            as ``validation`` and ``train``, is read into memory.
        plain: A network without Bayesian layers to compare it with.
        validation: Inputs and targets that thresholds may be chosen on; those of a classifier.
        train: The training data, to check the ELBO and the guide by, which is slow; those of a
            classifier.
        ood: Name to inputs that the network was not trained for, ``((x1, x2), None)`` where there
            are several; those of a classifier.
        class_names: One name for each class.
        title: What to call the data; None says "test data".
        html: File for the page, with its figures inside. ``write_report`` of ``bd.reporting``
            writes a folder with JSON and Markdown as well.
        num_samples: Posterior samples.
        shift: Whether to corrupt test images; None does so as far as it takes a minute or two.
        seed: Of the posterior samples.

    Returns:
        All numbers and predictions; ``to_dict()`` has the numbers, for JSON.

    Raises:
        ConfigError: If it is no ``BayesianNetwork``, or there are OOD sets, validation or training
            data with a regression, or the latter two where an example has several labels, or
            ``class_names`` are not as many as classes.
        DataError: If data are no pair, or targets are missing or do not fit the likelihood.
        ImportError: If ``html`` is given without matplotlib, or ``train`` without ArviZ.
        CheckpointError: If the page cannot be written.

    Example:
        >>> import bayesdrop as bd
        >>> net = torch.nn.Sequential(bd.BetaBernoulliDropout(4), torch.nn.Linear(4, 3))
        >>> bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=100)
        >>> test = torch.randn(60, 4), torch.arange(60) % 3
        >>> found = bd.report(bnn, test, num_samples=4)
        >>> found.results["mean_mask"].figures.error == found.to_dict()["error"]["mean_mask"]
        True
    """
    if not isinstance(bnn, BayesianNetwork):
        raise ConfigError(
            "report",
            expected="a BayesianNetwork",
            got=type(bnn).__name__,
            hint="Wrap a module with bd.BayesianNetwork. Of any other model report the "
            "probabilities: bd.reporting.report_predictions(p, y). An auto-encoder: bd.evaluate.",
        )
    if plain is not None and not isinstance(plain, BayesianNetwork):
        raise ConfigError(
            "report",
            expected="plain to be a BayesianNetwork too",
            got=type(plain).__name__,
            hint="Wrap it: bd.BayesianNetwork(network, likelihood, num_data).",
        )
    require_names("report", "ood", ood, "OOD set")
    if not bnn.likelihood.is_classifier:
        given = {"validation": validation, "train": train, "ood": ood}
        bad = [name for name, value in given.items() if value]
        if bad:
            raise ConfigError(
                "report",
                expected="a classifier for " + ", ".join(f"{name}=..." for name in bad),
                got=f"likelihood {type(bnn.likelihood).__name__}",
                hint="For regression pass bnn, test and plain. Unknown inputs are scored by "
                "predict(...).epistemic_variance with bd.metrics.ood_metrics.",
            )
    test, validation, train = (
        _positional(bnn, "test", test),
        None if validation is None else _positional(bnn, "validation", validation),
        None if train is None else _positional(bnn, "train", train),
    )
    with evaluation_mode(*(network for network in (bnn, plain) if network is not None)):
        found = build_report(
            bnn,
            plain,
            test,
            description={} if title is None else {"data_title": title},
            ood=ood,
            num_samples=num_samples,
            seed=seed,
        )
        mean = found.main.prediction.mean
        if class_names and (mean.dim() < 2 or len(class_names) != mean.shape[1]):
            raise ConfigError(
                "report",
                expected=f"one name for each class of predictions of shape {tuple(mean.shape)}",
                got=f"{len(class_names)} of class_names",
                hint="Name them in the order of the network's outputs.",
            )
        if not found.has_one_label:
            found = _with_many_labels(found, class_names, validation=validation, train=train)
        else:
            found = add_analysis(
                found,
                validation=validation,
                train=train,
                class_names=tuple(class_names),
                shift=shift,
            )
    if html is not None:
        write_page(found, html)
    return found


def _positional(bnn: BayesianNetwork, name: str, given: GivenPair) -> Pair:
    """Return inputs as positional arguments, which the compact network takes too."""
    if not isinstance(given, DataLoader | Dataset):
        check_pair("report", name, given)
        given = given[0], given[1]
    x, y = cast(Any, (*in_memory(arrays_of("report", bnn, given)), None)[:2])
    warn_of_order("report", given, len(x), y, stacklevel=4)
    return joined_inputs(positional_inputs("report", bnn.network, as_inputs("report", x))), y


def _with_many_labels(report: Report, class_names: Sequence[str], **given: Pair | None) -> Report:
    """Return the report with the names of its classes, or say what it cannot use.

    Raises:
        ConfigError: If there are validation or training data, whose labels would count as
            independent.
    """
    bad = [name for name, value in given.items() if value is not None]
    if bad:
        raise ConfigError(
            "report",
            expected="one label of several classes for each example for "
            + ", ".join(f"{name}=..." for name in bad),
            got=f"predictions of shape {tuple(report.main.prediction.mean.shape)}",
            hint="Leave them out; bnn.likelihood.flatten_labels(p, y) makes rows of labels for "
            "bd.metrics.fit_temperature and select_threshold.",
        )
    if not class_names:
        return report
    description = {**report.description, "class_names": list(class_names)}
    return dataclasses.replace(report, description=description)


def build_report(
    bnn: BayesianNetwork,
    plain: BayesianNetwork | None,
    test: Pair,
    *,
    description: Mapping[str, Any] | None = None,
    ood: Mapping[str, Tensor] | None = None,
    num_samples: int = 64,
    seed: int = 0,
    history: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> Report:
    """Evaluate a network three ways: plain, with the mean mask, and by Monte Carlo.

    Args:
        bnn: The Bayesian network, in evaluation mode.
        plain: The network without Bayesian dropout to compare it with; None takes ``bnn``.
        test: Test inputs and targets.
        description: What is known of the run, to be kept in ``report.json``; see ``Report``.
        ood: Data-set name to inputs that the network was not trained for.
        num_samples: Posterior samples of the Monte Carlo prediction.
        seed: Of the posterior samples.
        history: Stage name to the records of ``fit``.
    """
    results = {
        method: measure_method(
            method.label,
            method.network(bnn, plain),
            test,
            ood or {},
            sample=method.samples,
            num_samples=num_samples,
            seed=seed,
        )
        for method in Method
    }
    size, small = compact_figures(bnn, test[0])
    latency = latency_figures(bnn if plain is None else plain, bnn, small, test[0], num_samples)
    kept, total = bnn.units(), bnn.units_total()
    costs = {
        Method.PLAIN: (total, size.params_total, size.flops_total),
        Method.MEAN_MASK: (kept, size.params, size.flops),
        Method.MONTE_CARLO: (kept, size.params_total, size.flops_total * num_samples),
    }
    looks = any(layer.input_dependent for _, layer in bnn.named_dropout_layers())
    labelled = looks and results[Method.PLAIN].labels is not None and test[1].ndim == 1
    return Report(
        results={
            method: dataclasses.replace(
                result,
                units=costs[method][0],
                params=costs[method][1],
                flops=costs[method][2],
                latency_ms=latency[method],
            )
            for method, result in results.items()
        },
        size=size,
        card=describe_network(bnn),
        bnn=bnn,
        plain=plain,
        test=test,
        num_samples=num_samples,
        seed=seed,
        latency_batch=min(LATENCY_BATCH, len(test[1])),
        threads=torch.get_num_threads(),
        description=description or {},
        history=history or {},
        per_input=per_input_figures(bnn, test[0]),
        class_masks=class_averaged_masks(bnn, test) if labelled else {},
        compact=small,
    )


def add_analysis(
    report: Report,
    *,
    validation: Pair | None = None,
    train: Pair | None = None,
    class_names: tuple[str, ...] = (),
    shift: bool | None = None,
) -> Report:
    """Return a classifier's report with ``analysis``: what ``analyse`` finds, in minutes.

    Args:
        report: The report; not changed.
        validation: As in ``analyse``.
        train: As in ``analyse``.
        class_names: As in ``analyse``.
        shift: As in ``analyse``.
    """
    found = analyse(
        {method: report.results[method] for method in report.methods},
        report.bnn,
        report.plain,
        report.test,
        num_samples=report.num_samples,
        seed=report.seed,
        validation=validation,
        train=train,
        class_names=class_names,
        shift=shift,
    )
    return dataclasses.replace(report, analysis=found)


def add_baseline(
    report: Report,
    title: str,
    network: BayesianNetwork,
    ood: Mapping[str, Tensor] | None = None,
) -> Report:
    """Return the report with another network's row, and its figures under ``baselines``.

    Args:
        report: The report; not changed.
        title: What to call the network.
        network: A network without Bayesian dropout of the same architecture as the plain one.
        ood: The out-of-distribution images of the report.
    """
    first = report.results[Method.PLAIN]
    result: MethodResult = dataclasses.replace(
        measure_method(title, network, report.test, ood or {}),
        units=first.units,
        params=first.params,
        flops=first.flops,
        latency_ms=pass_latency(network, report.test[0]),
    )
    return dataclasses.replace(report, baselines={**report.baselines, title: result})
