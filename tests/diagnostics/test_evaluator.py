import json
import pickle

import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesdrop as bd
from bayesdrop.errors import ConfigError, DataError, ShapeError
from bayesdrop.metrics import (
    adaptive_calibration_error,
    brier_score,
    classwise_calibration_error,
    error_percent,
    expected_calibration_error,
    maximum_calibration_error,
    negative_log_likelihood,
    ood_metrics,
    pit_values,
    regression_calibration,
)


def bayesian(likelihood, num_outputs):
    net = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, num_outputs))
    return bd.BayesianNetwork(net, likelihood, num_data=100)


def test_set(rows=40):
    return torch.randn(rows, 4), torch.randint(0, 3, (rows,))


test_set.__test__ = False


def test_classifier_figures_are_those_of_the_averaged_probabilities():
    bnn, (x, y) = bayesian(bd.Categorical(), 3), test_set()
    result = bd.evaluate(bnn, (x, y), num_samples=7, seed=1)
    mean = bd.predict(bnn, x, num_samples=7, seed=1).samples.mean(0)
    assert result.error == error_percent(mean, y)
    assert result.nll == pytest.approx(negative_log_likelihood(mean, y))
    assert result.brier == pytest.approx(brier_score(mean, y))
    assert result.ece == pytest.approx(expected_calibration_error(mean, y))
    assert result.adaptive_ece == pytest.approx(adaptive_calibration_error(mean, y))
    assert result.mce == pytest.approx(maximum_calibration_error(mean, y))
    assert result.classwise_ece == pytest.approx(classwise_calibration_error(mean, y))
    assert result.aurc == pytest.approx(bd.metrics.risk_coverage(mean, y).aurc)
    assert result.excess_aurc == pytest.approx(bd.metrics.risk_coverage(mean, y).excess_aurc)
    assert result.coverage is None and result.crps is None
    assert result.num_samples == 7
    assert result.rmse is None
    assert result.prediction.samples is None


def test_result_as_a_dictionary_is_plain_json():
    bnn, data = bayesian(bd.Categorical(), 3), test_set()
    result = bd.evaluate(bnn, data, ood={"noise": torch.randn(9, 4)}, num_samples=5)
    figures = json.loads(json.dumps(result.to_dict()))
    numbers = {"error", "nll", "brier", "ece", "adaptive_ece", "mce", "classwise_ece"}
    numbers |= {"aurc", "excess_aurc"}
    assert numbers | {"brier_parts", "num_samples", "ood", "num_examples"} <= set(figures)
    assert "rmse" not in figures
    assert all(isinstance(figures[name], float) for name in numbers)
    assert figures["brier_parts"]["brier"] == pytest.approx(figures["brier"])
    assert {"entropy", "max_probability", "mutual_information"} <= set(figures["ood"]["noise"])
    for metrics in figures["ood"]["noise"].values():
        assert {"aupr", "auroc", "fpr95"} <= set(metrics)


def test_ood_compares_the_scores_of_both_sets_under_the_same_posterior_samples():
    bnn, data = bayesian(bd.Categorical(), 3), test_set()
    other = 3 * torch.randn(25, 4)
    result = bd.evaluate(bnn, data, ood={"other": other}, num_samples=6, seed=2)
    outside = bd.predict(bnn, other, num_samples=6, seed=2)
    expected = ood_metrics(result.prediction.mutual_information, outside.mutual_information)
    assert result.ood["other"]["mutual_information"] == expected
    expected = ood_metrics(1 - result.prediction.confidence, 1 - outside.confidence)
    assert result.ood["other"]["max_probability"] == expected


def test_targets_of_ood_sets_are_not_looked_at():
    bnn, (x, y) = bayesian(bd.Categorical(), 3), test_set()
    ood = {"classes 7 to 9": DataLoader(TensorDataset(x, y + 7), batch_size=16)}
    assert bd.evaluate(bnn, (x, y), ood=ood, num_samples=3).ood.keys() == ood.keys()


def test_mean_mask_has_no_mutual_information():
    bnn, (x, y) = bayesian(bd.Categorical(), 3), test_set()
    result = bd.evaluate(bnn, (x, y), ood={"same": x}, sample=False)
    assert result.num_samples == 1
    assert {"entropy", "max_probability"} <= set(result.ood["same"])
    assert "mutual_information" not in result.ood["same"]
    assert result.ood["same"]["entropy"]["auroc"] == pytest.approx(0.5)


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_bernoulli_outputs_are_binary_problems(num_outputs):
    bnn = bayesian(bd.Bernoulli(), num_outputs)
    x, y = torch.randn(30, 4), torch.randint(0, 2, (30, num_outputs))
    result = bd.evaluate(bnn, (x, y), ood={"other": torch.randn(9, 4)}, num_samples=5, seed=0)
    p = result.prediction.mean
    target = y.to(p.dtype)
    nll = nn.functional.binary_cross_entropy(p, target, reduction="sum") / 30
    assert result.nll == pytest.approx(float(nll))
    assert result.brier == pytest.approx(float(2 * (p - target).square().sum() / 30))
    assert result.error == pytest.approx(100 * float(((p > 0.5) != y).double().mean()))
    assert set(result.ood["other"]) == {"entropy", "max_probability", "mutual_information"}


@pytest.mark.parametrize("scale", [0.5, "learned", "heteroscedastic"])
def test_regression_figures(scale):
    bnn = bayesian(bd.Gaussian(scale), 2 if scale == "heteroscedastic" else 1)
    x, y = torch.randn(30, 4), torch.randn(30)
    result = bd.evaluate(bnn, (x, y), sample=False)
    mean, variance = result.prediction.mean[:, 0], result.prediction.variance[:, 0]
    expected = -torch.distributions.Normal(mean, variance.sqrt()).log_prob(y).mean()
    assert result.nll == pytest.approx(float(expected))
    assert result.rmse == pytest.approx(float((mean - y).square().mean().sqrt()))
    known = ["calibration", "coverage", "monte_carlo_error", "nll", "num_samples", "ood", "rmse"]
    assert sorted(result.to_dict()) == known and result.error is None


@pytest.mark.parametrize("scale", [0.5, "heteroscedastic"])
def test_regression_calibration_is_that_of_the_mixture(scale):
    bnn = bayesian(bd.Gaussian(scale), 2 if scale == "heteroscedastic" else 1)
    x, y = torch.randn(60, 4), torch.randn(60)
    result = bd.evaluate(bnn, (x, y), num_samples=6, keep_samples=True, seed=1, batch_size=13)
    prediction = result.prediction
    parts = prediction.samples, y[:, None], prediction.sample_variances
    expected = regression_calibration(*parts, levels=(0.5, 0.9, 0.95))
    assert list(result.coverage.values()) == pytest.approx(expected.coverage.tolist())
    assert result.crps == pytest.approx(expected.crps)
    assert list(result.width.values()) == pytest.approx(expected.width.tolist())
    torch.testing.assert_close(prediction.pit, pit_values(*parts))
    torch.testing.assert_close(prediction.sample_variances.mean(0), prediction.aleatoric_variance)
    figures = json.loads(json.dumps(result.to_dict()))
    assert sorted(figures["coverage"]) == ["0.5", "0.9", "0.95"]
    # Pairs of samples are compared only where they are kept; coverage needs no more than PIT.
    small = bd.evaluate(bnn, (x, y), num_samples=6, seed=1)
    assert small.crps is None and small.prediction.sample_variances is None
    assert small.coverage == result.coverage and small.width is None
    torch.testing.assert_close(
        small.figures.calibration.pit_count, regression_calibration(*parts).pit_count
    )


def test_one_class_alone_leaves_out_what_needs_two():
    bnn = bayesian(bd.Categorical(), 3)
    result = bd.evaluate(bnn, (torch.randn(9, 4), torch.zeros(9).long()), num_samples=3)
    assert result.classwise_ece is None and result.brier_parts is None
    assert {"classwise_ece", "brier_parts"}.isdisjoint(result.to_dict())


def test_regression_has_no_ood_figures():
    with pytest.raises(ConfigError, match="expected a classifier for ood.*Gaussian"):
        bd.evaluate(
            bayesian(bd.Gaussian(), 1),
            (torch.zeros(2, 4), torch.zeros(2)),
            ood={"a": torch.ones(2, 4)},
        )


def test_a_network_that_is_not_wrapped_is_told_by_evaluate():
    with pytest.raises(ConfigError, match="^evaluate: expected a BayesianNetwork .* got Linear"):
        bd.evaluate(nn.Linear(4, 3), (torch.zeros(2, 4), torch.zeros(2)))


def test_data_without_targets_is_refused():
    with pytest.raises(DataError, match="evaluate: expected data with targets, got inputs alone"):
        bd.evaluate(bayesian(bd.Categorical(), 3), torch.zeros(2, 4))


def test_bad_targets_and_empty_ood_sets_are_refused():
    bnn, (x, y) = bayesian(bd.Categorical(), 3), test_set()
    with pytest.raises(DataError, match="expected labels in 0..2, got labels from"):
        bd.evaluate(bnn, (x, y + 5), num_samples=2)
    with pytest.raises(DataError, match="expected at least one example"):
        bd.evaluate(bnn, (x, y), ood={"empty": x[:0]}, num_samples=2)
    with pytest.raises(ShapeError, match="Bernoulli: expected targets of shape"):
        bd.evaluate(bayesian(bd.Bernoulli(), 3), (x, y), num_samples=2)


def test_figures_are_read_off_the_evaluation_and_nothing_else_is():
    bnn, data = bayesian(bd.Categorical(), 3), test_set()
    result = pickle.loads(pickle.dumps(bd.evaluate(bnn, data, num_samples=3)))
    assert result.ece == result.figures.ece and "ece" in dir(result)
    with pytest.raises(AttributeError, match="'Evaluation' object has no attribute 'accuracy'"):
        _ = result.accuracy


def dense(likelihood, num_outputs, convolution=nn.Conv2d):
    unit_dim = {nn.Conv1d: -2, nn.Conv2d: -3}[convolution]
    dropout = bd.BetaBernoulliDropout(4, unit_dim=unit_dim)
    network = nn.Sequential(convolution(2, 4, 1), dropout, convolution(4, num_outputs, 1))
    return bd.BayesianNetwork(network, likelihood, num_data=60)


@pytest.mark.parametrize(("shape", "convolution"), [((4, 5), nn.Conv2d), ((7,), nn.Conv1d)])
def test_every_labelled_position_of_a_dense_output_counts_once(shape, convolution):
    bnn = dense(bd.Categorical(ignore_index=255), 3, convolution)
    x, y = torch.randn(6, 2, *shape), torch.randint(0, 3, (6, *shape))
    y[torch.rand(y.shape) < 0.3] = 255
    result = bd.evaluate(bnn, (x, y), num_samples=5, seed=0)
    mean, seen = result.prediction.mean, y != 255
    wrong = (mean.argmax(1) != y)[seen]
    assert result.error == pytest.approx(100 * float(wrong.double().mean()))
    nll = nn.functional.nll_loss(mean.log(), y, ignore_index=255, reduction="sum") / 6
    assert result.nll == pytest.approx(float(nll))
    one_hot = nn.functional.one_hot(y.masked_fill(~seen, 0), 3).movedim(-1, 1)
    squares = (mean - one_hot).square().sum(1)
    assert result.brier == pytest.approx(float(squares[seen].sum() / 6))
    rows = mean.movedim(1, -1)[seen]
    assert result.ece == pytest.approx(expected_calibration_error(rows, y[seen]))
    assert result.num_examples == 6


def test_an_ood_score_of_an_image_is_the_average_over_its_pixels():
    bnn, x, far = dense(bd.Categorical(), 3), torch.randn(6, 2, 4, 5), 9 * torch.randn(8, 2, 4, 5)
    y = torch.randint(0, 3, (6, 4, 5))
    result = bd.evaluate(bnn, (x, y), ood={"far": far}, num_samples=5, seed=0)
    outside = bd.predict(bnn, far, num_samples=5, seed=0)
    for score in ("predictive_entropy", "energy"):
        inner, outer = (getattr(p, score).mean((1, 2)) for p in (result.prediction, outside))
        expected = ood_metrics(inner, outer)
        assert result.ood["far"][score.removeprefix("predictive_")] == expected
    assert set(result.ood["far"]) == {
        "energy",
        "entropy",
        "logit_norm",
        "max_probability",
        "mutual_information",
    }


def test_dense_regression_has_all_figures():
    bnn, x = dense(bd.Gaussian(0.5), 2), torch.randn(6, 2, 4, 5)
    y = torch.randn(6, 2, 4, 5)
    result = bd.evaluate(bnn, (x, y), num_samples=5, keep_samples=True)
    prediction = result.prediction
    assert result.rmse == pytest.approx(float((prediction.mean - y).square().mean().sqrt()))
    means, noise = (v.reshape(5, -1) for v in (prediction.samples, prediction.sample_variances))
    assert result.crps == pytest.approx(regression_calibration(means, y.flatten(), noise).crps)
    assert result.figures.calibration.num_targets == y.numel()


class Laplace(bd.Likelihood):
    """A likelihood from outside, with or without a distribution function."""

    is_classifier = False

    def __init__(self, known):
        super().__init__()
        self.known = known

    def distribution(self, output, batch_ndim=1):
        return dist.Laplace(output, 1.0).to_event(output.ndim - batch_ndim)

    def target(self, output, y):
        return y.reshape(output.shape)

    def moments(self, output):
        return output, torch.full_like(output, 2.0)

    def cdf(self, output, target):
        return dist.Laplace(output, 1.0).cdf(target) if self.known else None


def test_coverage_of_a_likelihood_from_outside_is_that_of_its_own_distribution_function():
    bnn, x, y = bayesian(Laplace(known=True), 1), torch.randn(80, 4), torch.randn(80)
    result = bd.evaluate(bnn, (x, y), num_samples=6, keep_samples=True, seed=0)
    samples = result.prediction.samples
    pit = dist.Laplace(samples, 1.0).cdf(y[:, None]).mean(0)
    for level, share in result.coverage.items():
        assert share == pytest.approx(float(((pit - 0.5).abs() <= level / 2).double().mean()))
    # Its samples are no mixture of normals.
    assert result.crps is None and result.width is None


def test_without_a_distribution_function_there_is_no_coverage():
    bnn, x, y = bayesian(Laplace(known=False), 1), torch.randn(20, 4), torch.randn(20)
    result = bd.evaluate(bnn, (x, y), num_samples=6, keep_samples=True)
    assert result.prediction.pit is None and result.coverage is None
    assert sorted(result.to_dict()) == ["monte_carlo_error", "nll", "num_samples", "ood", "rmse"]
