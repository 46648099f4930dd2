import math

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.special
import scipy.stats
import torch

import bayesdrop as bd
from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.ops.stable import inverse_softplus
from bayesdrop.testing import assert_mean_close


def gaussian(mode, **options):
    likelihood = bd.Gaussian(mode, **options)
    return likelihood, (4 if mode == "heteroscedastic" else 2)


@pytest.mark.parametrize(
    ("likelihood", "output", "y"),
    [
        (bd.Gaussian("learned", num_outputs=2), (6, 2), (6, 2)),
        (bd.Gaussian("heteroscedastic"), (6, 4, 3), (6, 2, 3)),
        (bd.Gaussian(1.0), (6, 1), (6,)),
        (bd.Bernoulli(), (6, 2, 3), (6, 2, 3)),
    ],
)
def test_log_prob_is_the_likelihood_of_each_example(likelihood, output, y):
    output, y = torch.randn(output), torch.randint(2, y).double()
    each = likelihood.log_prob(output, y)
    assert each.shape == (6,)
    one_by_one = [-likelihood.nll(output[n : n + 1], y[n : n + 1]) for n in range(6)]
    torch.testing.assert_close(each, torch.stack(one_by_one))


# -- values ---------------------------------------------------------------------------------------


def test_categorical_equals_scipy():
    output, y = torch.randn(6, 3), torch.randint(3, (6,))
    log_probs = scipy.special.log_softmax(output.numpy(), axis=1)
    expected = -log_probs[np.arange(6), y.numpy()].sum()
    np.testing.assert_allclose(float(bd.Categorical().nll(output, y)), expected, rtol=1e-12)
    probs, variance = bd.Categorical().moments(output)
    np.testing.assert_allclose(probs.numpy(), np.exp(log_probs), rtol=1e-12)
    assert variance is None


@pytest.mark.parametrize("shape", [(6, 1), (6, 3), (6, 2, 3)])
def test_bernoulli_equals_scipy(shape):
    output, y = torch.randn(shape), torch.randint(2, shape)
    expected = -scipy.stats.bernoulli.logpmf(y.numpy(), scipy.special.expit(output.numpy())).sum()
    np.testing.assert_allclose(float(bd.Bernoulli().nll(output, y)), expected, rtol=1e-10)
    probs, variance = bd.Bernoulli().moments(output)
    np.testing.assert_allclose(probs.numpy(), scipy.special.expit(output.numpy()), rtol=1e-12)
    assert variance is None


@pytest.mark.parametrize("mode", [0.7, 2, "learned", "heteroscedastic"])
def test_gaussian_equals_scipy(mode):
    options = {"num_outputs": 2, "init_scale": 1.3} if mode == "learned" else {}
    likelihood, width = gaussian(mode, **options)
    output, y = torch.randn(6, width), torch.randn(6, 2)
    mean = output[:, :2].numpy()
    if mode == "heteroscedastic":
        scale = np.logaddexp(0.0, output[:, 2:].numpy()) + 1e-4
    else:
        scale = np.full((6, 2), 1.3 if mode == "learned" else float(mode))
    expected = -scipy.stats.norm.logpdf(y.numpy(), mean, scale).sum()
    nll = likelihood.nll(output, y)
    np.testing.assert_allclose(float(nll.detach()), expected, rtol=1e-10)
    moments = likelihood.moments(output)
    np.testing.assert_allclose(moments[0].numpy(), mean)
    np.testing.assert_allclose(moments[1].detach().numpy(), scale**2, rtol=1e-10)


def test_learned_scale_is_found():
    likelihood = bd.Gaussian(num_outputs=2)
    residuals = torch.randn(500, 2) * torch.tensor([0.3, 2.0])
    optimiser = torch.optim.LBFGS(likelihood.parameters(), line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = likelihood.nll(torch.zeros(500, 2), residuals) / 500
        loss.backward()
        return loss

    for _ in range(5):
        optimiser.step(closure)
    _, variance = likelihood.moments(torch.zeros(1, 2))
    torch.testing.assert_close(variance[0], residuals.square().mean(0), rtol=1e-4, atol=0)


def test_scale_does_not_fall_below_its_minimum():
    likelihood = bd.Gaussian("heteroscedastic", min_scale=0.2)
    _, variance = likelihood.moments(torch.full((3, 2), -50.0))
    torch.testing.assert_close(variance, torch.full((3, 1), 0.04))


def test_learned_scale_starts_where_asked():
    likelihood = bd.Gaussian(init_scale=0.5, min_scale=0.1)
    assert math.isclose(float(likelihood.raw_scale.detach()), inverse_softplus(0.4))
    _, variance = likelihood.moments(torch.zeros(1, 1))
    torch.testing.assert_close(variance, torch.full((1, 1), 0.25))
    _, variance = likelihood.moments(torch.zeros(4, 3))  # one scale for all outputs
    torch.testing.assert_close(variance, torch.full((4, 3), 0.25))


# -- shapes ---------------------------------------------------------------------------------------

CASES = [
    (bd.Categorical(), (6, 3), ()),
    (bd.Categorical(), (6, 3, 4), (4,)),
    (bd.Categorical(), (6, 3, 4, 5), (4, 5)),
    (bd.Bernoulli(), (6, 3), (3,)),
    (bd.Bernoulli(), (6, 2, 3), (2, 3)),
    (bd.Gaussian(1.0), (6, 3), (3,)),
    (bd.Gaussian("heteroscedastic"), (6, 4), (2,)),
    (bd.Gaussian("heteroscedastic"), (6, 4, 5), (2, 5)),
    (bd.Gaussian(num_outputs=2), (6, 2, 5, 3), (2, 5, 3)),
]


@pytest.mark.parametrize(("likelihood", "shape", "event"), CASES)
def test_batch_shape_is_the_data_plates(likelihood, shape, event):
    fn = likelihood.distribution(torch.randn(shape))
    assert fn.batch_shape == (6,)
    assert fn.event_shape == event
    particles = likelihood.distribution(torch.randn(5, *shape), batch_ndim=2)
    assert particles.batch_shape == (5, 6)
    assert particles.event_shape == event


@pytest.mark.parametrize(("likelihood", "shape", "event"), CASES)
def test_nll_is_minus_the_log_probability_of_the_distribution(likelihood, shape, event):
    output = torch.randn(shape)
    y = likelihood.distribution(output).sample()
    expected = -likelihood.distribution(output).log_prob(y).sum()
    torch.testing.assert_close(likelihood.nll(output, y), expected)


@pytest.mark.parametrize("likelihood", [bd.Gaussian(1.0), bd.Gaussian(), bd.Bernoulli()])
def test_flat_targets_match_a_column_of_outputs(likelihood):
    output, y = torch.randn(6, 1), torch.randint(2, (6,))
    assert likelihood.target(output, y).shape == (6, 1)
    torch.testing.assert_close(likelihood.nll(output, y), likelihood.nll(output, y[:, None]))


@pytest.mark.parametrize("likelihood", [bd.Gaussian(1.0), bd.Bernoulli()])
def test_flat_outputs_do_not_broadcast_against_a_column_of_targets(likelihood):
    with pytest.raises(ShapeError, match=r"targets of shape \(6,\), got \(6, 1\)"):
        likelihood.nll(torch.randn(6), torch.ones(6, 1))


def test_targets_get_the_outputs_dtype():
    output = torch.zeros(2, 1, dtype=torch.float32)
    assert (
        bd.Gaussian(1.0).target(output, torch.ones(2, dtype=torch.float64)).dtype == output.dtype
    )
    assert bd.Bernoulli().target(output, torch.tensor([True, False])).dtype == output.dtype
    labels = torch.tensor([0, 1], dtype=torch.uint8)
    assert bd.Categorical().target(torch.zeros(2, 3), labels).dtype == torch.int64


# -- errors ---------------------------------------------------------------------------------------

OUTPUT = torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("likelihood", "output", "y", "error", "message"),
    [
        (
            bd.Categorical(),
            OUTPUT,
            [0, 1, 2, 3],
            DataError,
            r"labels in 0\.\.2, got lab",
        ),
        (
            bd.Categorical(),
            OUTPUT,
            [0, 1, 2, -1],
            DataError,
            "labels from -1 to 2. Does",
        ),
        (bd.Categorical(), OUTPUT, [0, 1, 2], ShapeError, r"one target for each of 4 outputs"),
        (
            bd.Categorical(),
            OUTPUT,
            [[0], [1], [2], [0]],
            DataError,
            r"A column of labels\? Use",
        ),
        (
            bd.Categorical(),
            OUTPUT[..., None],
            [[[0]], [[1]], [[2]], [[0]]],
            DataError,
            r"A channel\? Use y.squeeze\(1\)",
        ),
        (
            bd.Categorical(),
            OUTPUT,
            [0.0, 1.0, 2.0, 0.0],
            DataError,
            "integer labels of shape",
        ),
        (
            bd.Categorical(),
            OUTPUT[0],
            [0],
            ShapeError,
            r"output of shape \(N, classes\) or",
        ),
        (
            bd.Bernoulli(),
            OUTPUT,
            [[0.5] * 3] * 4,
            DataError,
            "targets of 0 and 1, got 0.5 in row 0",
        ),
        (bd.Bernoulli(), OUTPUT, [0, 1, 0, 1], ShapeError, r"shape \(4, 3\), got \(4,\)"),
        (
            bd.Gaussian(1.0),
            OUTPUT,
            [0.0] * 4,
            ShapeError,
            r"Gaussian: expected targets of shape",
        ),
        (bd.Gaussian(1.0), OUTPUT, [0.0] * 2, ShapeError, "one target for each of 4 outputs"),
        (
            bd.Gaussian("heteroscedastic"),
            OUTPUT,
            [[0.0]] * 4,
            ShapeError,
            "an even number",
        ),
        (
            bd.Gaussian(num_outputs=2),
            OUTPUT,
            [[0.0] * 3] * 4,
            ShapeError,
            "expected 2 outputs",
        ),
    ],
)
def test_bad_targets_raise(likelihood, output, y, error, message):
    with pytest.raises(error, match=message):
        likelihood.nll(output, torch.tensor(y))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan, "learnt", None, True])
def test_bad_scales_raise(scale):
    with pytest.raises(ConfigError, match="a positive noise scale, 'learned' or 'hetero"):
        bd.Gaussian(scale)


@pytest.mark.parametrize("options", [{"init_scale": 1e-5}, {"min_scale": -1.0}])
def test_bad_initial_scales_raise(options):
    with pytest.raises(ConfigError, match="init_scale > min_scale >= 0, got init_scale="):
        bd.Gaussian(**options)


# -- a third party's likelihood -------------------------------------------------------------------


class Poisson(bd.Likelihood):
    is_classifier = False

    def distribution(self, output, batch_ndim=1):
        return dist.Poisson(output.exp()).to_event(output.ndim - batch_ndim)

    def target(self, output, y):
        return y.reshape(output.shape).to(output.dtype)

    def moments(self, output):
        return output.exp(), output.exp()


class PoissonWithCdf(Poisson):
    def cdf(self, output, target):
        rate = output.exp()
        below = torch.where(target > 0, torch.special.gammaincc(target.clamp(min=1), rate), 0.0)
        return below + 0.5 * dist.Poisson(rate).log_prob(target).exp()


def counts(likelihood, log_rate):
    """A network that knows the true rates, and targets drawn from them."""
    network = torch.nn.Linear(1, 1)
    with torch.no_grad():
        network.weight.fill_(0.0)
        network.bias.fill_(log_rate)
    y = torch.poisson(torch.full((20_000, 1), math.exp(log_rate)))
    return bd.BayesianNetwork(network, likelihood, num_data=20_000), (torch.zeros(20_000, 1), y)


def mid_coverage(rate, level):
    """The probability that the mid-distribution function lies in the central interval."""
    values = np.arange(0, 1000)
    law = scipy.stats.poisson(rate)
    middle = law.cdf(values) - 0.5 * law.pmf(values)
    return float(law.pmf(values)[np.abs(middle - 0.5) <= level / 2].sum())


@pytest.mark.parametrize("rate", [0.3, 3.0, 200.0])
def test_a_likelihood_of_ones_own_has_its_own_coverage(rate):
    """In particular not that of a normal of the same mean and variance."""
    bnn, data = counts(PoissonWithCdf(), math.log(rate))
    result = bd.evaluate(bnn, data, keep_samples=True)
    for level, share in result.coverage.items():
        expected = mid_coverage(rate, level)
        inside = ((result.prediction.pit - 0.5).abs() <= level / 2).double()
        assert_mean_close(inside.reshape(-1, 1), torch.tensor([expected]))
        assert share == pytest.approx(float(inside.mean()))
        largest = scipy.stats.poisson.pmf(math.floor(rate), rate)
        assert abs(expected - level) <= largest  # right up to one atom
    expected = scipy.stats.poisson.logpmf(data[1].numpy(), rate).mean()
    assert result.nll == pytest.approx(-expected)
    assert result.crps is None and result.prediction.sample_variances is None


def test_a_likelihood_without_a_cdf_has_no_coverage():
    bnn, data = counts(Poisson(), 0.0)
    result = bd.evaluate(bnn, data, keep_samples=True)
    assert result.coverage is None and result.prediction.pit is None and result.crps is None
    assert result.rmse == pytest.approx(1.0, rel=0.05)


class Ordinal(bd.Likelihood):
    """Three ordered classes from one output; probabilities, but no logits of a softmax."""

    is_classifier = True

    def distribution(self, output, batch_ndim=1):
        low, high = (output.squeeze(-1) + 1).sigmoid(), (output.squeeze(-1) - 1).sigmoid()
        return dist.Categorical(torch.stack([1 - low, low - high, high], dim=-1))

    def target(self, output, y):
        return y

    def moments(self, output):
        return self.distribution(output).probs, None


def test_a_classifier_of_ones_own_has_entropies_and_no_energy():
    network = torch.nn.Sequential(bd.BetaBernoulliDropout(2), torch.nn.Linear(2, 1))
    bnn = bd.BayesianNetwork(network, Ordinal(), num_data=9)
    result = bd.evaluate(bnn, (torch.randn(9, 2), torch.arange(9) % 3), num_samples=4)
    prediction = result.prediction
    assert prediction.mean.shape == (9, 3) and prediction.energy is None
    torch.testing.assert_close(
        prediction.predictive_entropy, torch.special.entr(prediction.mean).sum(1)
    )
    assert 0 <= result.error <= 100 and result.nll > 0
