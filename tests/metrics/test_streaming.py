import json

import pytest
import torch

import bayesdrop as bd
from bayesdrop import metrics as ev
from bayesdrop.errors import ConfigError, DataError, ShapeError


def example(samples=6, rows=301, classes=4):
    values = (2 * torch.randn(samples, rows, classes)).softmax(-1)
    values[:, :40] = values[:, :1]  # ties
    return values, torch.randint(0, classes, (rows,))


def streamed(samples, labels, size):
    metrics = bd.metrics.ClassificationMetrics()
    dim = samples.ndim - 2
    for batch, y in zip(samples.split(size, dim), labels.split(size), strict=True):
        metrics.update(batch, y)
    return metrics


@pytest.mark.parametrize("size", [1, 50, 301])
def test_batches_give_the_figures_of_the_whole_set(size):
    samples, labels = example()
    metrics = streamed(samples, labels, size)
    figures, mean, parts = metrics.compute(), samples.mean(0), bd.metrics.entropy_parts(samples)
    curve = bd.metrics.risk_coverage(samples, labels)
    expected = {
        "error": ev.error_percent(mean, labels),
        "nll": ev.negative_log_likelihood(mean, labels),
        "brier": ev.brier_score(mean, labels),
        "ece": ev.expected_calibration_error(mean, labels),
        "adaptive_ece": ev.adaptive_calibration_error(mean, labels),
        "mce": ev.maximum_calibration_error(mean, labels),
        "classwise_ece": ev.classwise_calibration_error(mean, labels),
        "aurc": curve.aurc,
        "excess_aurc": curve.excess_aurc,
        "augrc": curve.augrc,
        "predictive_entropy": float(parts.predictive_entropy.mean()),
        "expected_entropy": float(parts.expected_entropy.mean()),
        "mutual_information": float(parts.mutual_information.mean()),
    }
    for name, value in expected.items():
        assert getattr(figures, name) == pytest.approx(value, rel=1e-11), name
    whole = ev.brier_decomposition(mean, labels).to_dict()
    assert figures.brier_parts.to_dict() == pytest.approx(whole, rel=1e-9)
    assert figures.num_examples == 301
    torch.testing.assert_close(metrics.vectors()["mutual_information"], parts.mutual_information)


@pytest.mark.parametrize("num_samples", [1, 6])
def test_nothing_grows_with_the_samples(num_samples):
    metrics = streamed(*example(samples=num_samples), size=50)
    held = sum(vector.nbytes for vector in metrics.vectors().values())
    assert held <= 301 * 33


def test_probabilities_count_as_one_sample():
    samples, labels = example()
    mean = samples.mean(0)
    figures = streamed(mean, labels, 50).compute()
    assert figures.mutual_information is None
    assert "expected_entropy" not in figures.to_dict()
    assert figures.nll == pytest.approx(streamed(samples, labels, 50).compute().nll)


def test_more_batches_may_follow_a_result():
    samples, labels = example()
    metrics = streamed(samples[:, :100], labels[:100], 100)
    first = metrics.compute()
    assert metrics.compute() == first
    metrics.update(samples[:, 100:].numpy(), labels[100:].numpy())
    assert metrics.compute().nll == pytest.approx(streamed(samples, labels, 301).compute().nll)


def test_figures_are_plain_json():
    values = json.loads(json.dumps(streamed(*example(), size=50).compute().to_dict()))
    assert values["brier_parts"]["brier"] == pytest.approx(values["brier"])


def test_one_class_alone_leaves_out_what_needs_two():
    samples, labels = example()
    figures = streamed(samples, torch.zeros_like(labels), 50).compute()
    assert figures.classwise_ece is None and figures.brier_parts is None
    assert {"classwise_ece", "brier_parts"}.isdisjoint(figures.to_dict())


def test_bad_batches_are_refused_and_leave_no_trace():
    samples, labels = example()
    metrics = bd.metrics.ClassificationMetrics()
    with pytest.raises(DataError, match="ClassificationMetrics: expected at least one batch"):
        metrics.compute()
    metrics.update(samples, labels)
    before = metrics.compute()
    with pytest.raises(ShapeError, match="expected 4 classes, as in the first batch, got 3"):
        metrics.update(torch.full((6, 2, 3), 1 / 3), labels[:2])
    with pytest.raises(ConfigError, match="expected 6 posterior samples, .* got 1. Prob"):
        metrics.update(samples[0], labels)
    with pytest.raises(DataError, match="sample 0: .*sum to one in every row"):
        metrics.update(0.5 * samples, labels)
    with pytest.raises(ShapeError, match="ClassificationMetrics.update: expected 301 labels"):
        metrics.update(samples, labels[:5])
    with pytest.raises(DataError, match=r"labels in 0..3, got labels from"):
        metrics.update(samples, labels + 3)
    assert metrics.compute() == before
    with pytest.raises(ConfigError, match="ClassificationMetrics: expected num_bins >= 1"):
        bd.metrics.ClassificationMetrics(num_bins=0)
