import numpy as np
import pytest
import torch

from bayesdrop.errors import ConfigError
from bayesdrop.evaluation import expected_calibration_error


def reference(probabilities, labels, num_bins=15):
    # Independent of the package's form: bins by digitize, accuracy and confidence of each.
    confidence, predicted = probabilities.max(1), probabilities.argmax(1)
    index = np.digitize(confidence, np.arange(1, num_bins) / num_bins)
    total = 0.0
    for b in range(num_bins):
        members = index == b
        if members.any():
            gap = (predicted[members] == labels[members]).mean() - confidence[members].mean()
            total += members.mean() * abs(gap)
    return total


@pytest.mark.parametrize("num_bins", [1, 10, 15])
@pytest.mark.parametrize("scale", [0.3, 2.0, 30.0])
def test_agrees_with_an_independent_implementation_and_torchmetrics(num_bins, scale):
    from torchmetrics.functional.classification import multiclass_calibration_error

    probabilities = (scale * torch.randn(2000, 10)).softmax(-1)
    labels = torch.randint(0, 10, (2000,))
    value = expected_calibration_error(probabilities, labels, num_bins=num_bins)
    expected = reference(probabilities.numpy(), labels.numpy(), num_bins)
    assert value == pytest.approx(expected, rel=1e-12)
    # Below 1, so that torchmetrics has no bin of its own for it; it sums in float32.
    below_one = probabilities.float().clamp(max=1.0 - 2.0**-24)
    theirs = multiclass_calibration_error(below_one, labels, 10, n_bins=num_bins)
    assert value == pytest.approx(float(theirs), abs=2000 * 2.0**-24)


def test_certainty_belongs_to_the_last_bin():
    # torchmetrics 1.9 gives 0.525.
    probabilities = torch.tensor([[0.95, 0.05], [1.0, 0.0]])
    assert expected_calibration_error(probabilities, torch.tensor([0, 1])) == pytest.approx(0.475)


@pytest.mark.parametrize(("label", "expected"), [(0, 0.0), (1, 1.0)])
def test_probabilities_of_exactly_zero_and_one(label, expected):
    labels = torch.full((3,), label)
    assert expected_calibration_error(torch.zeros(3), labels) == expected
    assert expected_calibration_error(torch.ones(3), 1 - labels) == expected


def test_calibrated_confidences_have_no_error():
    # 0.8 and right in 8 of 10.
    probabilities = torch.tensor([[0.8, 0.2]]).expand(10, 2)
    labels = torch.tensor([0] * 8 + [1] * 2)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.0, abs=1e-15)


def test_gaps_cancel_within_a_bin_and_not_between_bins():
    probabilities = torch.tensor([[0.7, 0.3], [0.7, 0.3], [0.95, 0.05]])
    labels = torch.tensor([0, 1, 1])
    expected = (2 * 0.2 + 0.95) / 3
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected)


def test_no_bins_are_refused():
    with pytest.raises(ConfigError, match="expected num_bins >= 1, got num_bins=0"):
        expected_calibration_error(torch.eye(2), torch.arange(2), num_bins=0)
