import math

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve

from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.metrics import (
    ClassificationMetrics,
    adaptive_calibration_error,
    classwise_calibration_error,
    expected_calibration_error,
    maximum_calibration_error,
    reliability,
)
from bayesdrop.metrics.bins import width_bins
from bayesdrop.metrics.sixteen_bits import simplest_rows, simplest_shares

ERRORS = [
    expected_calibration_error,
    adaptive_calibration_error,
    maximum_calibration_error,
    classwise_calibration_error,
]
by_error = pytest.mark.parametrize("metric", ERRORS, ids=lambda metric: metric.__name__)


def example(rows=500, classes=10, scale=2.0):
    return (scale * torch.randn(rows, classes)).softmax(-1), torch.randint(0, classes, (rows,))


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


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_the_largest_gap_agrees_with_torchmetrics(num_bins):
    from torchmetrics.functional.classification import multiclass_calibration_error

    probabilities, labels = example(2000)
    theirs = multiclass_calibration_error(
        probabilities.float().clamp(max=1.0 - 2.0**-24), labels, 10, n_bins=num_bins, norm="max"
    )
    value = maximum_calibration_error(probabilities, labels, num_bins=num_bins)
    assert value == pytest.approx(float(theirs), abs=2000 * 2.0**-24)


@pytest.mark.parametrize("num_bins", [1, 7, 15, 1000])
def test_adaptive_bins_are_those_of_a_sorted_split(num_bins):
    # Bins of equal size, so that every convention of splitting agrees.
    probabilities, labels = example(num_bins * 3)
    confidence, predicted = probabilities.max(1)
    order = np.argsort(confidence.numpy())
    gaps = ((predicted == labels).double() - confidence).numpy()[order]
    expected = sum(abs(part.sum()) for part in np.split(gaps, num_bins)) / len(labels)
    value = adaptive_calibration_error(probabilities, labels, num_bins=num_bins)
    assert value == pytest.approx(expected, rel=1e-12)


def test_adaptive_bins_hold_ties_together():
    # A network that is always certain has one bin, whatever the number asked for.
    labels = torch.tensor([0, 1, 0, 1])
    assert adaptive_calibration_error(torch.tensor([[1.0, 0.0]] * 4), labels) == 0.5
    # Two values, two bins: 0.7 is right in 2 of 4, 0.9 in 4 of 4.
    p = torch.tensor([[0.7, 0.3]] * 4 + [[0.9, 0.1]] * 4)
    labels = torch.tensor([0, 0, 1, 1, 0, 0, 0, 0])
    expected = (4 * 0.2 + 4 * 0.1) / 8
    assert adaptive_calibration_error(p, labels) == pytest.approx(expected)


def test_classwise_error_is_the_average_of_one_class_against_the_rest():
    probabilities, labels = example(2000, 4)
    total = 0.0
    for c in range(4):
        hit, p = (labels == c).numpy(), probabilities[:, c].numpy()
        frequency, mean = calibration_curve(hit, p, n_bins=15)
        # sklearn's bins are closed on the right; no value lies on an edge.
        share = np.histogram(p, bins=np.linspace(0, 1, 16))[0] / len(p)
        total += (share[share > 0] * np.abs(frequency - mean)).sum()
    value = classwise_calibration_error(probabilities, labels)
    assert value == pytest.approx(total / 4, rel=1e-12)


def test_classwise_error_of_two_classes_is_that_of_one():
    probabilities, labels = example(500, 2)
    value = classwise_calibration_error(probabilities, labels)
    p, hit = probabilities[:, 1], (labels == 1).double()
    bins = (p * 15).long()
    sums = torch.zeros(15).index_add(0, bins, hit - p)
    # The other class's bins mirror these, up to values on an edge, of which there are none.
    assert value == pytest.approx(float(sums.abs().sum() / 500))


def test_errors_keep_their_order():
    probabilities, labels = example()
    ece = expected_calibration_error(probabilities, labels)
    overall = abs(
        float((probabilities.argmax(1) == labels).double().mean() - probabilities.amax(1).mean())
    )
    rounding = 1e-12  # where no two bins have gaps of different sign, they are equal
    assert overall <= ece + rounding
    assert ece <= maximum_calibration_error(probabilities, labels) + rounding
    assert overall <= adaptive_calibration_error(probabilities, labels) + rounding
    # One bin leaves nothing but the overall gap.
    for metric in ERRORS[:3]:
        assert metric(probabilities, labels, num_bins=1) == pytest.approx(overall)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_confidence_on_an_edge_is_in_the_bin_above(dtype):
    # k / 15, right, and (k + 1/2) / 15, wrong, in one bin: their gaps cancel but for a remainder.
    for k in range(8, 15):
        confidence = torch.tensor([k / 15, (k + 0.5) / 15], dtype=dtype)
        p, labels = torch.stack([confidence, 1 - confidence], 1), torch.tensor([0, 1])
        gap = abs(1 - (2 * k + 0.5) / 15)
        assert expected_calibration_error(p, labels) == pytest.approx(gap / 2, abs=1e-6)
        assert maximum_calibration_error(p, labels) == pytest.approx(gap / 2, abs=1e-6)
        bins = reliability(p, labels)
        assert bins.count.nonzero().flatten().tolist() == [k] and bins.count[k] == 2
        streamed = ClassificationMetrics()
        streamed.update(p, labels)
        assert streamed.compute().ece == pytest.approx(gap / 2, abs=1e-6)


@by_error
def test_edges_are_valid_confidences(metric):
    # 0 and 1 exactly: no bin of their own, no index outside.
    p = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])
    labels = torch.tensor([0, 1, 0, 0])
    # Only the last example has a gap, of one half.
    expected = 0.5 if metric is maximum_calibration_error else 0.125
    assert metric(p, labels) == pytest.approx(expected)
    assert metric(p[:, 1], labels) == pytest.approx(expected)


def test_shares_that_were_summed_in_float32_are_in_the_bins_that_they_have():
    votes = torch.arange(50, 101)[:, None] > torch.arange(100)  # of a hundred members
    share = torch.zeros(51, dtype=torch.float32)
    for member in votes.T:
        share += torch.tensor(0.01, dtype=torch.float32) * member
    assert width_bins(share.double(), 20).tolist() == [min(k // 5, 19) for k in range(50, 101)]


@by_error
def test_order_type_and_precision_do_not_matter(metric):
    probabilities, labels = example(300, 3)
    probabilities[50:100] = probabilities[50]  # ties
    order = torch.randperm(300)
    value = metric(probabilities, labels)
    assert metric(probabilities[order], labels[order]) == pytest.approx(value, rel=1e-12)
    assert metric(probabilities.numpy(), labels.numpy()) == value
    assert 0.0 < value < 1.0


P = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
Y = torch.tensor([0, 1, 1])


@by_error
@pytest.mark.parametrize(
    ("probabilities", "labels", "error", "message"),
    [
        (P * 0.9, Y, DataError, "sum to one in every row, got a sum of 0.9 in row"),
        (P + torch.tensor([[0], [math.nan], [0]]), Y, DataError, "finite .* nan .* in row 1"),
        (P, Y[:2], ShapeError, r"3 labels, one for each row.* got labels of shape \(2,\)"),
        (P[:0], Y[:0], DataError, "at least one example, got none"),
    ],
)
def test_bad_input_is_refused_by_name(metric, probabilities, labels, error, message):
    with pytest.raises(error, match=f"{metric.__name__}: .*{message}"):
        metric(probabilities, labels)


@by_error
def test_no_bins_are_refused(metric):
    with pytest.raises(ConfigError, match=f"{metric.__name__}: expected num_bins >= 1, a whole"):
        metric(torch.eye(2), torch.arange(2), num_bins=0)


def test_one_class_alone_has_no_classwise_error():
    with pytest.raises(DataError, match="at least two classes, got 3 of class 1 only. Is the set"):
        classwise_calibration_error(P, torch.ones(3))


@pytest.mark.parametrize("num_bins", [10, 15, 20, 25, 50, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_confidence_on_an_edge_is_in_the_bin_above_in_any_precision(num_bins, dtype):
    steps = torch.arange(num_bins + 1)
    values = (steps.double() / num_bins).to(dtype)
    expected = steps.clamp(max=num_bins - 1)
    torch.testing.assert_close(width_bins(values.double(), num_bins), expected)


def test_precision_does_not_move_votes_between_bins():
    votes = torch.randint(5, 11, (2000,)) / 10
    labels = torch.randint(0, 2, (2000,))
    p = torch.stack([votes, 1 - votes], 1)
    value = expected_calibration_error(p, labels, num_bins=10)
    wide = (votes * 10).round().double() / 10
    wide = torch.stack([wide, 1 - wide], 1)
    assert expected_calibration_error(wide, labels, num_bins=10) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("num_bins", [10, 12, 15, 20, 25, 30, 50])
def test_shares_in_sixteen_bits_are_in_the_bins_that_they_are_edges_of(num_bins, dtype):
    shares = torch.arange(num_bins // 2 + 1, num_bins, dtype=torch.float64) / num_bins
    p = torch.stack([shares, 1 - shares], 1).to(dtype)
    for given in (p, p[:, 0]):
        diagram = reliability(given, torch.zeros(len(shares)), num_bins=num_bins)
        assert diagram.count.nonzero().flatten().tolist() == [*range(num_bins // 2 + 1, num_bins)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_votes_have_the_calibration_error_in_sixteen_bits_that_they_have_in_64(dtype):
    votes = torch.randint(5, 11, (2000,)).double() / 10
    p, labels = torch.stack([votes, 1 - votes], 1), (torch.rand(2000) > votes).long()
    for metric in (expected_calibration_error, classwise_calibration_error):
        expected = metric(p, labels, num_bins=10)
        assert metric(p.to(dtype), labels, num_bins=10) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_number_of_sixteen_bits_stands_for_one_that_rounds_to_it(dtype):
    numbers = torch.linspace(0, 1, 100_000).to(dtype).unique()
    meant = simplest_shares(numbers, dtype)
    assert torch.equal(meant.to(dtype), numbers)


def test_shares_of_256_in_32_bits_are_themselves():
    # All of them are numbers of bfloat16, but the sums say that nothing was rounded.
    shares = torch.arange(129, 256, dtype=torch.float32) / 256
    p = torch.stack([shares, 1 - shares], 1)
    diagram = reliability(p, torch.zeros(127), num_bins=128)
    assert torch.equal(diagram.count[64:].cumsum(0), torch.arange(1, 128, 2))
    assert float(diagram.confidence[-1]) == 254.5 / 256


@pytest.mark.parametrize(
    ("members", "dtype"),
    [
        *((members, torch.float16) for members in (3, 7, 10, 16, 25, 32, 40, 50, 64, 100)),
        *((members, torch.bfloat16) for members in (3, 7, 10, 16, 20, 32, 64)),  # more are one
    ],
)
@pytest.mark.parametrize("classes", [2, 5])
def test_votes_of_members_are_shares_of_their_number(members, classes, dtype):
    choices = torch.randint(classes, (300, members))
    shares = torch.nn.functional.one_hot(choices, classes).double().mean(1)
    found = simplest_rows(shares.to(dtype).double(), dtype)
    torch.testing.assert_close(found, shares, rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rows_that_are_no_votes_are_divided_by_their_sum(dtype):
    numbers = torch.randn(500, 7).softmax(1).to(dtype).double()
    found = simplest_rows(numbers, dtype)
    torch.testing.assert_close(found.sum(1), torch.ones(500, dtype=torch.float64))
    assert (found / (numbers / numbers.sum(1, keepdim=True)) - 1).abs().max() < torch.finfo(
        dtype
    ).eps


@pytest.mark.parametrize(
    ("members", "dtype"), [(40, torch.float16), (64, torch.float16), (64, torch.bfloat16)]
)
def test_many_members_have_one_calibration_error_for_as_many_bins(members, dtype):
    votes = torch.randint(members // 2, members + 1, (400,))
    shares = torch.stack([votes, members - votes], 1).double() / members
    labels = (torch.rand(400) > shares[:, 0]).long()
    for bins in (members, members // 2):
        found = expected_calibration_error(shares.to(dtype), labels, num_bins=bins)
        expected = expected_calibration_error(shares, labels, num_bins=bins)
        assert found == pytest.approx(expected, abs=1e-9)
