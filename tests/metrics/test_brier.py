import pytest
import torch

from bayesdrop.errors import ConfigError, DataError
from bayesdrop.metrics import brier_decomposition, brier_score


def example(rows=1000, classes=5):
    return (2 * torch.randn(rows, classes)).softmax(-1), torch.randint(0, classes, (rows,))


@pytest.mark.parametrize("num_bins", [1, 4, 15, 200])
@pytest.mark.parametrize("classes", [2, 5])
def test_five_parts_sum_to_the_score_for_any_bins(num_bins, classes):
    probabilities, labels = example(classes=classes)
    parts = brier_decomposition(probabilities, labels, num_bins=num_bins)
    assert parts.brier == pytest.approx(brier_score(probabilities, labels), rel=1e-12)
    assert parts.brier == pytest.approx(
        parts.reliability
        - parts.resolution
        + parts.uncertainty
        + parts.within_bin_variance
        - parts.within_bin_covariance
    )
    assert all(
        part >= 0
        for part in (parts.reliability, parts.resolution, parts.uncertainty)
        + (parts.within_bin_variance,)
    )
    assert parts.to_dict()["brier"] == parts.brier


def test_murphys_three_parts_suffice_where_bins_hold_one_value():
    # Forecasts of 0.15, 0.45 and 0.75 for a binary event, by hand.
    p = torch.tensor([0.15] * 20 + [0.45] * 20 + [0.75] * 10)
    hits, sizes = [4, 9, 6], (20, 20, 10)
    labels = torch.cat([(torch.arange(n) < k).long() for k, n in zip(hits, sizes, strict=True)])
    base = 19 / 50
    groups = list(zip((0.15, 0.45, 0.75), hits, sizes, strict=True))
    reliability = sum(n * (f - k / n) ** 2 for f, k, n in groups) / 50
    resolution = sum(n * (k / n - base) ** 2 for _, k, n in groups) / 50
    parts = brier_decomposition(p, labels, num_bins=10)
    # Both classes count.
    assert parts.reliability == pytest.approx(2 * reliability)
    assert parts.resolution == pytest.approx(2 * resolution)
    assert parts.uncertainty == pytest.approx(2 * base * (1 - base))
    assert parts.within_bin_variance == pytest.approx(0.0, abs=1e-15)
    assert parts.within_bin_covariance == pytest.approx(0.0, abs=1e-15)


def test_forecasts_of_the_base_rate_are_reliable_and_resolve_nothing():
    labels = torch.tensor([0, 0, 0, 1])
    parts = brier_decomposition(torch.full((4,), 0.25), labels)
    assert parts.reliability == parts.resolution == 0.0
    assert parts.brier == parts.uncertainty == 2 * 0.25 * 0.75


def test_one_bin_has_no_resolution():
    parts = brier_decomposition(*example(), num_bins=1)
    assert parts.resolution == pytest.approx(0.0, abs=1e-15)
    assert parts.generalised_resolution != pytest.approx(0.0, abs=1e-3)


def test_bad_input_is_refused():
    p, labels = example(4)
    with pytest.raises(DataError, match="brier_decomposition: expected labels of at least two cl"):
        brier_decomposition(p, torch.ones(4))
    with pytest.raises(ConfigError, match="brier_decomposition: expected num_bins >= 1"):
        brier_decomposition(p, labels, num_bins=0)
    with pytest.raises(DataError, match="brier_decomposition: .*sum to one"):
        brier_decomposition(0.5 * p, labels)
