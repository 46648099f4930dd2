import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from bayesdrop.errors import DataError, ShapeError
from bayesdrop.metrics import continuous_ranked_probability_score as crps
from bayesdrop.metrics import crps as module


def integral(cdf, y, breaks):
    """The definition: the integral of (F(x) - [x >= y])^2."""
    points = sorted({*breaks, y})
    pieces = zip(points, points[1:], strict=False)
    return sum(quad(lambda x: (cdf(x) - (x >= y)) ** 2, a, b)[0] for a, b in pieces)


@pytest.mark.parametrize("num_samples", [1, 2, 5])
@pytest.mark.parametrize("y", [-1.3, 0.2, 4.0])
def test_the_mixture_formula_is_the_integral(num_samples, y):
    means, scales = torch.randn(num_samples, 1), 0.3 + torch.rand(num_samples, 1)

    def cdf(x):
        return norm.cdf(x, means.numpy(), scales.numpy()).mean()

    expected = integral(cdf, y, np.linspace(-12, 12, 9))
    value = crps(means, torch.tensor([y]), scales.square())
    assert value == pytest.approx(expected, rel=1e-7)


def test_one_gaussian_has_the_closed_form():
    mean, scale, y = torch.randn(40), 0.5 + torch.rand(40), torch.randn(40)
    z = ((y - mean) / scale).numpy()
    closed = scale.numpy() * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / math.sqrt(math.pi))
    assert crps(mean[None], y, scale.square()) == pytest.approx(closed.mean(), rel=1e-12)


def test_plain_samples_are_their_empirical_distribution():
    samples, y = torch.randn(9, 30), torch.randn(30)
    x = samples.numpy()
    pairs = np.abs(x[:, None] - x[None]).mean((0, 1))
    expected = (np.abs(x - y.numpy()).mean(0) - 0.5 * pairs).mean()
    assert crps(samples, y) == pytest.approx(expected, rel=1e-12)
    # By the definition.
    one = samples[:, 0].numpy()
    value = integral(lambda v: (one <= v).mean(), float(y[0]), [*one, -9.0, 9.0])
    assert crps(samples[:, :1], y[:1]) == pytest.approx(value, rel=1e-6)


def test_no_noise_is_the_limit_of_little():
    samples, y = torch.randn(6, 20), torch.randn(20)
    assert crps(samples, y, 0.0) == pytest.approx(crps(samples, y), rel=1e-12)
    assert crps(samples, y, 1e-20) == pytest.approx(crps(samples, y), rel=1e-8)


def test_a_point_forecast_scores_its_absolute_error():
    mean, y = torch.randn(30), torch.randn(30)
    assert crps(mean[None], y) == pytest.approx(float((mean - y).abs().mean()))


def test_it_scales_with_the_units_and_not_with_the_place():
    means, variances, y = torch.randn(4, 30, 2), torch.rand(4, 30, 2), torch.randn(30, 2)
    value = crps(means, y, variances)
    assert crps(3 * means + 7, 3 * y + 7, 9 * variances) == pytest.approx(3 * value)


def test_the_true_distribution_scores_best():
    y = torch.randn(4000)
    zero = torch.zeros(1, 4000)
    best = crps(zero, y, 1.0)
    assert best < min(crps(zero, y, v) for v in (0.25, 4.0)) and best < crps(zero + 0.5, y, 1.0)


def test_chunks_do_not_matter(monkeypatch):
    means, variances, y = torch.randn(4, 30, 2), torch.rand(4, 30, 2), torch.randn(30, 2)
    whole = crps(means, y, variances)
    monkeypatch.setattr(module, "_CHUNK", 28)
    assert crps(means.numpy(), y.numpy(), variances.numpy()) == pytest.approx(whole, rel=1e-14)


def test_bad_input_is_refused():
    with pytest.raises(
        ShapeError, match=r"targets of shape \(5,\), got \(4,\). Samples come first"
    ):
        crps(torch.zeros(3, 5), torch.zeros(4))
    with pytest.raises(ShapeError, match=r"targets of shape \(1,\), got \(\)"):
        crps(torch.zeros(3, 1), 2.5)
    with pytest.raises(ShapeError, match=r"targets of shape \(5, 2\), got \(5,\)"):
        crps(torch.zeros(3, 5, 2), torch.zeros(5))
    with pytest.raises(DataError, match="expected finite targets, got nan or infinity in row 1"):
        crps(torch.zeros(3, 2), torch.tensor([0, math.nan]))
    with pytest.raises(
        DataError, match="expected variances >= 0, got -2. Are these log-variances"
    ):
        crps(torch.zeros(3, 2), torch.zeros(2), -2.0)
