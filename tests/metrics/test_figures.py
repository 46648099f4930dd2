import json

import pytest
import torch

from bayesdrop import metrics
from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.metrics import ClassificationMetrics, ClassifierFigures, RegressionFigures


def example(samples=6, rows=301, classes=4):
    values = (2 * torch.randn(samples, rows, classes)).softmax(-1)
    return values, torch.randint(0, classes, (rows,))


def test_figures_are_those_of_the_functions_to_the_last_digit():
    samples, labels = example()
    mean = samples.double().mean(0)
    figures = ClassifierFigures.from_predictions(mean, labels)
    assert figures.error == metrics.error_percent(mean, labels)
    assert figures.nll == metrics.negative_log_likelihood(mean, labels)
    assert figures.brier == metrics.brier_score(mean, labels)
    assert figures.ece == metrics.expected_calibration_error(mean, labels)
    assert figures.adaptive_ece == metrics.adaptive_calibration_error(mean, labels)
    assert figures.mce == metrics.maximum_calibration_error(mean, labels)
    assert figures.classwise_ece == metrics.classwise_calibration_error(mean, labels)
    assert figures.brier_parts == metrics.brier_decomposition(mean, labels)
    assert figures.aurc == metrics.risk_coverage(mean, labels).aurc
    assert figures.expected_entropy is None and figures.mutual_information is None


def test_one_batch_gives_the_same_record():
    samples, labels = example()
    stream = ClassificationMetrics()
    stream.update(samples, labels)
    assert stream.compute() == ClassifierFigures.from_predictions(samples, labels)


def test_labels_of_an_example_are_summed_where_they_are_a_likelihood_and_averaged_elsewhere():
    samples, labels = example(rows=300)
    each = ClassifierFigures.from_predictions(samples, labels)
    images = ClassifierFigures.from_predictions(samples, labels, num_examples=20)
    assert images.num_examples == 20
    assert images.nll == pytest.approx(15 * each.nll)
    assert images.brier == pytest.approx(15 * each.brier)
    assert (images.error, images.ece, images.aurc) == (each.error, each.ece, each.aurc)
    assert images.brier_parts == each.brier_parts


def test_bad_predictions_are_refused():
    samples, labels = example()
    with pytest.raises(ConfigError, match="ClassifierFigures: expected num_bins >= 1"):
        ClassifierFigures.from_predictions(samples, labels, num_bins=0)
    with pytest.raises(ShapeError, match="ClassifierFigures: expected 301 labels"):
        ClassifierFigures.from_predictions(samples, labels[:3])
    with pytest.raises(DataError, match="ClassifierFigures: expected probabilities in"):
        ClassifierFigures.from_predictions(3 * samples[0], labels)


def test_a_regression_has_what_is_known_of_it():
    samples, y = torch.randn(7, 50, 1).double(), torch.randn(50, 1).double()
    bare = RegressionFigures.from_predictions(samples.mean(0), y)
    assert bare.to_dict() == {"rmse": metrics.root_mean_squared_error(samples.mean(0), y)}
    pit = metrics.pit_values(samples, y, 0.5)
    figures = RegressionFigures.from_predictions(
        samples.mean(0), y, pit=pit, samples=samples, variances=0.5
    )
    expected = metrics.regression_calibration(samples, y, 0.5, levels=(0.5, 0.9, 0.95))
    assert list(figures.coverage.values()) == pytest.approx(expected.coverage.tolist())
    assert list(figures.width.values()) == pytest.approx(expected.width.tolist())
    assert figures.crps == expected.crps
    values = json.loads(json.dumps(figures.to_dict(), allow_nan=False))
    assert sorted(values["coverage"]) == sorted(values["width"]) == ["0.5", "0.9", "0.95"]
    assert values["calibration"]["num_targets"] == 50 and "crps" not in values["calibration"]


def test_figures_of_samples_are_those_of_the_mixture():
    means, y = torch.randn(7, 50).double(), torch.randn(50).double()
    variances = 0.1 + torch.rand(7, 50).double()
    figures = RegressionFigures.from_samples(means, y, variances)
    components = torch.distributions.Normal(means.T, variances.T.sqrt())
    uniform = torch.distributions.Categorical(torch.ones(50, 7))
    mixture = torch.distributions.MixtureSameFamily(uniform, components)
    assert figures.nll == pytest.approx(-float(mixture.log_prob(y).mean()))
    assert figures.rmse == metrics.root_mean_squared_error(means.mean(0), y)
    expected = metrics.regression_calibration(means, y, variances)
    torch.testing.assert_close(figures.calibration.coverage, expected.coverage)
    assert figures.crps == expected.crps
    samples = RegressionFigures.from_samples(means, y)
    assert samples.nll is None
    expected = metrics.regression_calibration(means, y, levels=(0.5, 0.9, 0.95))
    assert list(samples.width.values()) == pytest.approx(expected.width.tolist())
    assert samples.crps == expected.crps


def test_the_density_of_an_example_is_that_of_all_its_targets_together():
    means, y = torch.randn(7, 50, 2), torch.randn(50, 2)
    normal = torch.distributions.Normal(means.transpose(0, 1), 0.5**0.5)
    uniform = torch.distributions.Categorical(torch.ones(50, 7))
    components = torch.distributions.Independent(normal, 1)
    mixture = torch.distributions.MixtureSameFamily(uniform, components)
    figures = RegressionFigures.from_samples(means, y, 0.5)
    assert figures.nll == pytest.approx(-float(mixture.log_prob(y).mean()))
