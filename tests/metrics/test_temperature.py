import math

import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss

import bayesdrop as bd
from bayesdrop.errors import DataError, ShapeError
from bayesdrop.metrics import expected_calibration_error, negative_log_likelihood


def synthetic(temperature, rows=4000, classes=5):
    """Logits ``temperature`` times those that the labels follow."""
    true = 2 * torch.randn(rows, classes)
    return temperature * true, torch.distributions.Categorical(logits=true).sample()


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_of_synthetic_logits_is_recovered(temperature):
    logits, labels = synthetic(temperature)
    scaling = bd.metrics.fit_temperature(logits, labels, logits=True)
    # Maximum likelihood in 1 / T: its standard error is that of the Fisher information, which is
    # the variance of the logit under the prediction.
    p = (logits / temperature).softmax(1)
    variance = (p * logits.square()).sum(1) - (p * logits).sum(1).square()
    error = 1 / math.sqrt(float(variance.sum()))
    assert abs(1 / scaling.temperature - 1 / temperature) <= 4.3 * error
    # The deviation caught: no scaling at all.
    assert temperature == 1.0 or abs(1 - 1 / temperature) > 8.6 * error


def test_agrees_with_an_independent_minimiser():
    logits, labels = synthetic(2.0, rows=300)

    def nll(log_t):
        p = (logits / math.exp(log_t)).softmax(1)
        return log_loss(labels.numpy(), p.numpy())

    best = minimize_scalar(nll, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9})
    scaling = bd.metrics.fit_temperature(logits, labels, logits=True)
    # A minimum is flat: its place is known to the root of the precision of its value.
    assert scaling.temperature == pytest.approx(math.exp(best.x), rel=1e-6)
    assert scaling.nll_after == pytest.approx(best.fun, rel=1e-12)
    assert scaling.nll_before == pytest.approx(nll(0.0), rel=1e-12)


def test_probabilities_and_logits_agree():
    logits, labels = synthetic(3.0, rows=300)
    p = logits.softmax(1)
    by_logits = bd.metrics.fit_temperature(logits, labels, logits=True)
    by_probabilities = bd.metrics.fit_temperature(p.numpy(), labels.numpy())
    assert by_probabilities.temperature == pytest.approx(by_logits.temperature, rel=1e-9)
    torch.testing.assert_close(by_logits(logits, logits=True), by_logits(p))


def test_scaling_is_the_power_renormalised():
    p = torch.randn(20, 4).softmax(1)
    scaling = bd.metrics.TemperatureScaling(2.5, 0.0, 0.0, 20)
    power = p ** (1 / 2.5)
    torch.testing.assert_close(scaling(p), power / power.sum(1, keepdim=True))
    torch.testing.assert_close(bd.metrics.TemperatureScaling(1.0, 0.0, 0.0, 20)(p), p)
    assert (scaling(p).argmax(1) == p.argmax(1)).all()


def test_samples_are_averaged_before_they_are_scaled():
    logits, labels = synthetic(3.0, rows=200)
    samples = logits + torch.randn(5, 200, 5)
    mean = samples.softmax(-1).mean(0)
    scaling = bd.metrics.fit_temperature(samples, labels, logits=True)
    assert scaling == bd.metrics.fit_temperature(mean, labels)
    torch.testing.assert_close(scaling(samples.softmax(-1)), scaling(mean))


def test_scaling_mends_other_data_of_an_overconfident_network():
    logits, labels = synthetic(3.0)
    scaling = bd.metrics.fit_temperature(logits[:2000], labels[:2000], logits=True)
    before, after = logits[2000:].softmax(1), scaling(logits[2000:], logits=True)
    assert scaling.temperature > 1
    test = labels[2000:]
    assert negative_log_likelihood(after, test) < negative_log_likelihood(before, test)
    assert expected_calibration_error(after, test) < expected_calibration_error(before, test) / 2


def test_a_certain_mistake_can_be_mended():
    p = torch.tensor([[1.0, 0.0]] * 9 + [[0.0, 1.0]])
    scaling = bd.metrics.fit_temperature(p, torch.tensor([0] * 8 + [1, 1]))
    assert math.isfinite(scaling.nll_after) and scaling.nll_after < scaling.nll_before
    # Nine of ten are right, and all are equally certain.
    torch.testing.assert_close(scaling(p).amax(1), torch.full((10,), 0.9))


def test_binary_probabilities_count_both_classes():
    p = torch.rand(200)
    labels = torch.bernoulli(p).long()
    both = torch.stack([1 - p, p], 1)
    scaling = bd.metrics.fit_temperature(both, labels)
    assert bd.metrics.fit_temperature(p, labels) == scaling
    assert scaling(p).shape == (200, 2)


SURE = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
RIGHT = torch.tensor([0, 1, 0])


@pytest.mark.parametrize(
    ("p", "labels", "logits", "error", "message"),
    [
        (
            SURE,
            RIGHT,
            False,
            DataError,
            r"best temperature .* still rises, or stays, at 0.001\. Are",
        ),
        (SURE, 1 - RIGHT, False, DataError, "still rises, or stays, at 10000"),
        (torch.full((3, 3), 1 / 3), RIGHT, False, DataError, "still rises, or stays, at 10000"),
        (SURE, torch.zeros(3), False, DataError, "at least two classes, got 3 of class 0 only"),
        (SURE, RIGHT[:2], False, ShapeError, "expected 3 labels"),
        (2 * SURE, RIGHT, False, DataError, r"in \[0, 1\].*Are these logits"),
        (SURE * math.nan, RIGHT, True, DataError, "finite logits, got nan"),
        (SURE[:0], RIGHT[:0], True, DataError, "logits of at least one example, got none"),
        (SURE[:, 0], RIGHT, True, ShapeError, r"logits of shape .* got \(3,\)"),
    ],
)
def test_bad_input_is_refused(p, labels, logits, error, message):
    with pytest.raises(error, match=f"fit_temperature: .*{message}"):
        bd.metrics.fit_temperature(p, labels, logits=logits)
