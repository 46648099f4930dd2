import json
import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import binomtest, norm

from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.metrics import (
    continuous_ranked_probability_score,
    pit_values,
    predictive_interval,
    regression_calibration,
)
from bayesdrop.metrics.coverage import calibration_of_pit
from bayesdrop.testing import assert_follows_cdf, assert_mean_close


def mixture(samples=5, rows=400):
    means, variances = torch.randn(samples, rows), 0.2 + torch.rand(samples, rows)
    chosen = torch.randint(samples, (rows,))
    pick = chosen[None]
    noise = torch.randn(rows)
    y = means.gather(0, pick)[0] + variances.gather(0, pick)[0].sqrt() * noise
    return means, variances, y


def test_pit_values_of_a_calibrated_prediction_are_uniform():
    means, variances, y = mixture(rows=4000)
    assert_follows_cdf(pit_values(means, y, variances), lambda u: u)


def test_pit_values_are_the_mixtures_distribution_function():
    means, variances, y = mixture()
    expected = norm.cdf(y, means, variances.sqrt()).mean(0)
    np.testing.assert_allclose(pit_values(means, y, variances), expected)
    both = pit_values(means[..., None], y[:, None], variances[..., None])
    assert both.shape == (400, 1)


def test_pit_values_of_samples_count_those_below_and_half_the_equal():
    samples = torch.tensor([[1.0], [2.0], [2.0], [3.0]])
    for y, expected in [(0.0, 0.0), (1.5, 0.25), (2.0, 0.5), (3.0, 0.875), (9.0, 1.0)]:
        assert float(pit_values(samples, torch.tensor([y]))) == expected


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_interval_ends_are_the_mixtures_quantiles(level):
    means, variances, _ = mixture(rows=5)
    lower, upper = predictive_interval(means, level, variances)
    for n in range(5):
        mu, sd = means[:, n].numpy(), variances[:, n].sqrt().numpy()
        for end, q in ((lower, (1 - level) / 2), (upper, (1 + level) / 2)):
            root = brentq(lambda x: norm.cdf(x, mu, sd).mean() - q, -20, 20, xtol=1e-13)  # noqa: B023
            assert float(end[n]) == pytest.approx(root, abs=1e-10)


def test_one_gaussians_interval_is_exact_and_samples_are_numpys():
    lower, upper = predictive_interval(torch.ones(1, 3), 0.95, 4.0)
    expected = norm.ppf([0.025, 0.975], 1.0, 2.0)
    np.testing.assert_allclose([lower[0], upper[0]], expected)
    samples = torch.randn(7, 10)
    lower, upper = predictive_interval(samples, 0.8)
    np.testing.assert_allclose(
        torch.stack([lower, upper]), np.quantile(samples.numpy(), [0.1, 0.9], axis=0)
    )


def test_coverage_of_a_calibrated_prediction_is_nominal():
    means, variances, y = mixture(rows=4000)
    lower, upper = predictive_interval(means, 0.8, variances)
    inside = ((lower <= y) & (y <= upper)).double()
    assert_mean_close(inside, 0.8)
    result = regression_calibration(means, y, variances, levels=(0.8,))
    assert float(result.coverage) == pytest.approx(float(inside.mean()))
    assert float(result.width) == pytest.approx(float((upper - lower).mean()))
    assert float(result.lower) <= 0.8 <= float(result.upper)


def test_pit_values_and_intervals_agree():
    means, variances, y = mixture()
    result = regression_calibration(means, y, variances)
    pit = pit_values(means, y, variances)
    torch.testing.assert_close(calibration_of_pit(pit).coverage, result.coverage)
    assert calibration_of_pit(pit).pit_count.tolist() == result.pit_count.tolist()
    expected = np.histogram(pit, bins=10, range=(0, 1))[0]
    assert result.pit_count.tolist() == expected.tolist()
    assert result.crps == continuous_ranked_probability_score(means, y, variances)
    band = binomtest(round(float(result.coverage[0]) * 400), 400).proportion_ci(method="wilson")
    assert (float(result.lower[0]), float(result.upper[0])) == pytest.approx(tuple(band))


def test_shares_of_samples_on_an_edge_are_in_the_bin_above_it():
    # 29 of 100 samples: 0.29 * 100 is 28.999999999999996 in float64.
    samples, y = torch.arange(100.0)[:, None].expand(100, 99), torch.arange(99) + 0.5
    once = torch.tensor([0, *[1] * 99])
    assert torch.equal(regression_calibration(samples, y, num_bins=100).pit_count, once)
    pit = pit_values(samples, y).float()
    assert torch.equal(calibration_of_pit(pit, num_bins=100).pit_count, once)


def test_too_narrow_and_too_wide_predictions_show():
    means, variances, y = mixture(rows=2000)
    narrow = regression_calibration(means.mean(0)[None], y, 0.1)
    wide = regression_calibration(means, y, 20 * variances)
    assert (narrow.coverage < narrow.level).all() and (wide.coverage > wide.level).all()
    assert narrow.pit_count[0] > 400 > 100 > wide.pit_count[0]
    right = regression_calibration(means, y, variances)
    assert right.calibration_error < min(narrow.calibration_error, wide.calibration_error) / 3
    assert right.crps < min(narrow.crps, wide.crps)


def test_too_many_at_one_level_do_not_make_up_for_too_few_at_another():
    pit = torch.tensor([0.5] * 6 + [0.1, 0.9, 0.0, 1.0])
    result = calibration_of_pit(pit, levels=(0.5, 0.9))
    torch.testing.assert_close(result.coverage, torch.tensor([0.6, 0.8]))
    assert result.calibration_error == pytest.approx(0.1)


def test_wider_levels_hold_more_and_nest():
    result = regression_calibration(*(lambda m, v, y: (m, y, v))(*mixture()))
    assert (result.coverage.diff() >= 0).all() and (result.width.diff() > 0).all()


def test_result_as_a_dictionary_is_plain_json():
    means, variances, y = mixture(rows=20)
    values = json.loads(json.dumps(regression_calibration(means, y, variances).to_dict()))
    assert values["num_targets"] == 20 and sum(values["pit_count"]) == 20
    assert values["level"][-1] == 0.99


def test_one_level_is_a_list_of_one():
    means, variances, y = mixture(rows=20)
    one = regression_calibration(means, y, variances, levels=0.9)
    assert one.to_dict() == regression_calibration(means, y, variances, levels=[0.9]).to_dict()


def test_bad_input_is_refused():
    means, variances, y = mixture(rows=4)
    with pytest.raises(ConfigError, match="regression_calibration: expected 0 < level < 1, got"):
        regression_calibration(means, y, variances, levels=(0.5, 1.0))
    with pytest.raises(ConfigError, match="expected 0 < level < 1, got level=None"):
        regression_calibration(means, y, variances, levels=())
    with pytest.raises(ConfigError, match="regression_calibration: expected num_bins >= 1"):
        regression_calibration(means, y, variances, num_bins=0)
    with pytest.raises(
        ConfigError, match="predictive_interval: expected 0 < level < 1, got level=95"
    ):
        predictive_interval(means, 95, variances)
    with pytest.raises(ShapeError, match=r"pit_values: expected targets of shape \(4,\)"):
        pit_values(means, y[:2], variances)
    with pytest.raises(DataError, match="pit_values: expected finite samples"):
        pit_values(means * math.nan, y)
