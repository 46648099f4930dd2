import json

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve

import bayesdrop as bd
from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.metrics import adaptive_calibration_error, expected_calibration_error


def example(rows=600, classes=3):
    return (2 * torch.randn(rows, classes)).softmax(-1), torch.randint(0, classes, (rows,))


def test_bins_agree_with_sklearn():
    probabilities, labels = example()
    confidence, predicted = probabilities.max(1)
    accuracy, mean = calibration_curve((predicted == labels).numpy(), confidence, n_bins=15)
    diagram = bd.metrics.reliability(probabilities, labels)
    filled = diagram.count > 0
    np.testing.assert_allclose(diagram.accuracy[filled], accuracy)
    np.testing.assert_allclose(diagram.confidence[filled], mean)
    np.testing.assert_array_equal(
        diagram.count, np.histogram(confidence, np.linspace(0, 1, 16))[0]
    )


@pytest.mark.parametrize(
    ("strategy", "metric"),
    [("width", expected_calibration_error), ("mass", adaptive_calibration_error)],
)
def test_the_diagram_shows_the_error_of_its_bins(strategy, metric):
    probabilities, labels = example()
    probabilities[:60] = torch.tensor([1.0, 0.0, 0.0])  # ties, at the very end
    diagram = bd.metrics.reliability(probabilities, labels, strategy=strategy)
    assert diagram.ece == pytest.approx(metric(probabilities, labels))
    assert int(diagram.count.sum()) == 600


@pytest.mark.parametrize(
    ("interval", "name"), [("wilson", "wilson"), ("clopper-pearson", "exact")]
)
def test_bands_are_those_of_the_bins_accuracy(interval, name):
    probabilities, labels = example()
    diagram = bd.metrics.reliability(probabilities, labels, level=0.9, interval=interval)
    for b in range(15):
        count = int(diagram.count[b])
        if count == 0:
            assert (float(diagram.lower[b]), float(diagram.upper[b])) == (0.0, 1.0)
            continue
        test = binomtest(round(float(diagram.accuracy[b]) * count), count)
        theirs = test.proportion_ci(0.9, method=name)
        assert float(diagram.lower[b]) == pytest.approx(theirs.low, abs=1e-9)
        assert float(diagram.upper[b]) == pytest.approx(theirs.high, abs=1e-9)


def test_equal_mass_bins_hold_equal_numbers_within_their_edges():
    probabilities, labels = example()
    diagram = bd.metrics.reliability(probabilities, labels, num_bins=7, strategy="mass")
    assert int(diagram.count.max() - diagram.count.min()) <= 1
    assert (diagram.left <= diagram.confidence).all()
    assert (diagram.confidence <= diagram.right).all()
    assert (diagram.right[:-1] < diagram.left[1:]).all()


def test_samples_are_averaged_as_probabilities():
    samples = torch.randn(6, 50, 3).softmax(-1)
    labels = torch.randint(0, 3, (50,))
    ours = bd.metrics.reliability(samples, labels)
    assert ours.to_dict() == bd.metrics.reliability(samples.mean(0), labels).to_dict()


def test_result_as_a_dictionary_is_plain_json_with_empty_bins_marked():
    diagram = bd.metrics.reliability(torch.tensor([1.0, 1.0]), torch.tensor([1, 0]), num_bins=4)
    values = json.loads(json.dumps(diagram.to_dict(), allow_nan=False))
    assert values["count"] == [0, 0, 0, 2]
    assert values["accuracy"] == [None, None, None, 0.5]
    assert values["ece"] == 0.5


def test_bad_input_is_refused():
    probabilities, labels = example(10)
    with pytest.raises(
        ConfigError, match="unknown binning strategy 'widht'. Did you mean 'width'"
    ):
        bd.metrics.reliability(probabilities, labels, strategy="widht")
    with pytest.raises(ConfigError, match="expected 0 < level < 1, got level=95"):
        bd.metrics.reliability(probabilities, labels, level=95)
    with pytest.raises(ConfigError, match="reliability: expected num_bins >= 1"):
        bd.metrics.reliability(probabilities, labels, num_bins=0)
    with pytest.raises(ShapeError, match="reliability: expected 10 labels"):
        bd.metrics.reliability(probabilities, labels[:3])
    with pytest.raises(DataError, match="reliability, sample 1: .*sum to one"):
        bd.metrics.reliability(torch.stack([probabilities, 2 * probabilities / 3]), labels)
