"""Laws of the metric object, against torchmetrics itself."""

import pytest
import torch

import bayesdrop as bd
from bayesdrop.errors import DataError

torchmetrics = pytest.importorskip("torchmetrics")
from bayesdrop.integrations.torchmetrics import PredictionMetric  # noqa: E402
from tests.integrations.page import run_block  # noqa: E402
from tests.integrations.test_kl_term import X, Y, network  # noqa: E402


def batches(samples=None):
    shape = (12, 3) if samples is None else (samples, 12, 3)
    p, y = torch.randn(shape).mul(2).softmax(-1), torch.arange(12) % 3
    return p, y, [(p[..., rows, :], y[rows]) for rows in (slice(0, 5), slice(5, 6), slice(6, 12))]


def test_a_figure_of_batches_is_that_of_all_examples():
    p, y, parts = batches()
    metric = PredictionMetric(bd.metrics.expected_calibration_error, options={"num_bins": 4})
    theirs = torchmetrics.CalibrationError(task="multiclass", num_classes=3, n_bins=4)
    for part in parts:
        of_batch = metric(*part)
        assert of_batch == bd.metrics.expected_calibration_error(*part, num_bins=4)
        theirs.update(*part)
    assert metric.compute() == bd.metrics.expected_calibration_error(p, y, num_bins=4)
    torch.testing.assert_close(
        metric.compute(), theirs.compute(), check_dtype=False, rtol=1e-5, atol=1e-6
    )
    metric.reset()
    with (
        pytest.warns(UserWarning, match="before the ``update``"),
        pytest.raises(DataError, match="at least one batch"),
    ):
        metric.compute()


def test_posterior_samples_keep_their_order_also_where_processes_join():
    p, y, parts = batches(samples=4)
    collection = torchmetrics.MetricCollection({"all": PredictionMetric()})
    for part in parts:
        collection.update(*part)
    figures = bd.metrics.ClassifierFigures.from_predictions(p, y)
    found = collection.compute()
    assert found["mutual_information"] == figures.mutual_information
    assert found["brier_parts/uncertainty"] == figures.brier_parts.uncertainty
    metric = collection["all"]
    # What a second process has is joined at the first dimension.
    metric.predictions = torch.cat([*metric.predictions, *metric.predictions])
    metric.labels = torch.cat([*metric.labels, *metric.labels])
    metric._computed = None
    twice = bd.metrics.ClassifierFigures.from_predictions(torch.cat([p, p], 1), torch.cat([y, y]))
    assert metric.compute()["nll"] == twice.nll


def test_predictions_of_a_regression_serve_too():
    metric = PredictionMetric(bd.metrics.root_mean_squared_error)
    metric.update(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    assert metric.compute() == pytest.approx(2**0.5)
    with pytest.raises(DataError, match="as many labels"):
        metric.update(torch.zeros(3, 2), torch.zeros(2))


def test_the_example_of_the_page_has_the_figures_of_all_examples(capsys):
    bnn = bd.BayesianNetwork(network(), bd.Categorical(), num_data=len(X))
    loader = [(X[:4], Y[:4]), (X[4:], Y[4:])]
    found = run_block("PredictionMetric", bd=bd, bnn=bnn, loader=loader)["figures"].compute()
    assert found["num_examples"] == 6 and found["mutual_information"] > 0
