import math

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss

from bayesdrop.errors import DataError, ShapeError
from bayesdrop.metrics import (
    brier_score,
    error_percent,
    expected_calibration_error,
    negative_log_likelihood,
    root_mean_squared_error,
)

METRICS = [error_percent, negative_log_likelihood, brier_score, expected_calibration_error]
by_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)


def example(rows=500, classes=10):
    logits = 2 * torch.randn(rows, classes)
    return logits.softmax(-1), torch.randint(0, classes, (rows,))


def test_metrics_agree_with_an_independent_implementation():
    probabilities, labels = (value.numpy() for value in example())
    rows = np.arange(len(labels))
    error = 100 * np.mean(np.argmax(probabilities, 1) != labels)
    one_hot = np.eye(10)[labels]
    assert error_percent(probabilities, labels) == pytest.approx(error)
    assert negative_log_likelihood(probabilities, labels) == pytest.approx(
        -np.log(probabilities[rows, labels]).mean()
    )
    assert negative_log_likelihood(probabilities, labels) == pytest.approx(
        log_loss(labels, probabilities)
    )
    brier = np.mean(np.sum((probabilities - one_hot) ** 2, axis=1))
    assert brier_score(probabilities, labels) == pytest.approx(brier)


def test_binary_brier_score_counts_both_classes():
    probabilities, labels = torch.rand(50), torch.randint(0, 2, (50,))
    one_class = brier_score_loss(labels.numpy(), probabilities.numpy())
    assert brier_score(probabilities, labels) == pytest.approx(2 * one_class)


@by_metric
def test_perfect_certainty_scores_zero(metric):
    assert metric(torch.eye(4), torch.arange(4)) == 0.0
    assert metric(torch.tensor([0.0, 1.0]), torch.tensor([0, 1])) == 0.0


def test_certain_and_wrong_scores_the_worst():
    probabilities, labels = torch.eye(3), torch.tensor([1, 2, 0])
    assert error_percent(probabilities, labels) == 100.0
    assert brier_score(probabilities, labels) == 2.0
    assert expected_calibration_error(probabilities, labels) == 1.0
    bound = -math.log(np.finfo(np.float64).tiny)
    assert negative_log_likelihood(probabilities, labels) == pytest.approx(bound)


@by_metric
def test_numpy_torch_float32_and_binary_forms_agree(metric):
    probabilities, labels = example(classes=2)
    value = metric(probabilities, labels)
    assert metric(probabilities.numpy(), labels.numpy()) == value
    assert metric(probabilities[:, 1], labels) == pytest.approx(value)
    assert metric(probabilities.float(), labels.int()) == pytest.approx(value, rel=1e-5)
    assert isinstance(value, float)


@by_metric
def test_order_of_examples_does_not_matter(metric):
    probabilities, labels = example()
    order = torch.randperm(len(labels))
    assert metric(probabilities[order], labels[order]) == pytest.approx(
        metric(probabilities, labels)
    )


P = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
Y = torch.tensor([0, 1, 1])


@by_metric
@pytest.mark.parametrize(
    ("probabilities", "labels", "error", "message"),
    [
        (P * 0.9, Y, DataError, "sum to one in every row, got a sum of 0.9 in row"),
        (P.logit(), Y, DataError, r"in \[0, 1\], got values from .* Are these logits"),
        (P + torch.tensor([[0], [math.nan], [0]]), Y, DataError, "finite .* nan .* in row 1"),
        (P[:2], Y, ShapeError, r"2 labels, one for each row.* got labels of shape \(3,\)"),
        (P, torch.eye(3)[:, :2], ShapeError, "One-hot labels"),
        (P, Y[:, None], ShapeError, r"A column of labels\? Pass labels\[:, 0\]"),
        (P, torch.tensor([0, 1, 2]), DataError, r"labels in 0..1, got labels from 0 to 2"),
        (P, torch.tensor([0, -1, 1]), DataError, r"labels in 0..1, got labels from -1 to 1"),
        (P, torch.tensor([0, 0.5, 1]), DataError, "integer labels, got .* with fractions"),
        (P, torch.tensor([0, math.nan, 1]), DataError, "finite labels, got nan"),
        (torch.full((3, 3), 1 / 3), Y == 1, DataError, r"labels in 0..2, got truth values"),
        (P[:0], Y[:0], DataError, "at least one example, got none"),
        (P[:, :1], Y, ShapeError, r"got \(3, 1\)"),
        (P[None], Y, ShapeError, r"got \(1, 3, 2\)\. Average posterior samples first"),
    ],
)
def test_bad_input_is_refused_by_name(metric, probabilities, labels, error, message):
    with pytest.raises(error, match=f"{metric.__name__}: .*{message}"):
        metric(probabilities, labels)


def test_one_rounding_error_outside_of_the_unit_interval_is_no_error():
    p = torch.tensor([[1.0 + 1e-7, -1e-7]], dtype=torch.float64)
    assert error_percent(p, torch.tensor([0])) == brier_score(p, torch.tensor([0])) == 0.0
    with pytest.raises(DataError, match="Are these logits"):
        error_percent(p + torch.tensor([1e-5, -1e-5]), torch.tensor([0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_softmax_in_sixteen_bits_is_taken_and_sums_to_one(dtype):
    logits, labels = 3 * torch.randn(256, 100), torch.randint(100, (256,))
    coarse = logits.to(dtype).softmax(-1)
    exact = coarse.double() / coarse.double().sum(1, keepdim=True)
    assert brier_score(coarse, labels) == pytest.approx(brier_score(exact, labels), rel=1e-3)


def test_a_softmax_in_bfloat16_that_became_float32_is_taken_and_sums_to_one():
    # NumPy has no bfloat16.
    logits, labels = 3 * torch.randn(256, 10), torch.randint(10, (256,))
    coarse = logits.bfloat16().softmax(-1)
    assert (coarse.double().sum(1) - 1).abs().max() > 1e-3
    assert brier_score(coarse.float().numpy(), labels) == brier_score(coarse, labels)
    with pytest.raises(DataError, match="a sum of 0.75 in row 0"):
        brier_score(torch.tensor([[0.5, 0.25]]), labels[:1])


def test_a_missing_label_is_not_blamed_on_the_network():
    with pytest.raises(DataError, match="finite labels.*row 1. Leave out rows without one"):
        error_percent(torch.full((2, 2), 0.5), torch.tensor([0.0, torch.nan]))
    with pytest.raises(DataError, match="finite targets.*row 1. Leave out rows without one"):
        root_mean_squared_error(torch.zeros(2), torch.tensor([0.0, torch.nan]))
