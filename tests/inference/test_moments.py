"""Laws of what is kept of the samples: averages, and uncertainty taken apart exactly."""

import math

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.inference.moments import ClassMoments
from tests.inference.test_predict import LIKELIHOODS, bayesian, inputs


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
def test_probabilities_are_averaged_and_entropy_splits(likelihood):
    prediction = bd.predict(bayesian(likelihood), inputs(), num_samples=9)
    samples = prediction.samples
    assert samples.shape == (9, 7, LIKELIHOODS[likelihood][2])
    torch.testing.assert_close(prediction.mean, samples.mean(0))

    def entropy(p):
        fn = torch.distributions.Categorical if likelihood == "categorical" else None
        fn = fn or torch.distributions.Bernoulli
        value = fn(probs=p).entropy()
        return value if likelihood == "categorical" else value.sum(-1)

    torch.testing.assert_close(prediction.predictive_entropy, entropy(samples.mean(0)))
    torch.testing.assert_close(prediction.expected_entropy, entropy(samples).mean(0))
    gap = prediction.predictive_entropy - prediction.expected_entropy
    torch.testing.assert_close(prediction.mutual_information, gap)
    assert (prediction.mutual_information > 0).all()
    assert prediction.variance is None


def test_confidence_is_the_largest_probability():
    prediction = bd.predict(bayesian(), inputs(), num_samples=5)
    assert torch.equal(prediction.confidence, prediction.mean.max(1).values)
    binary = bd.predict(bayesian("bernoulli"), inputs(), num_samples=5)
    sure = torch.maximum(binary.mean, 1 - binary.mean).mean(1)
    torch.testing.assert_close(binary.confidence, sure)


@pytest.mark.parametrize("likelihood", ["fixed", "learned", "heteroscedastic"])
def test_total_variance_is_aleatoric_plus_epistemic_exactly(likelihood):
    bnn = bayesian(likelihood)
    prediction = bd.predict(bnn, inputs(), num_samples=9)
    assert prediction.samples.shape == (9, 7, 2)
    torch.testing.assert_close(prediction.mean, prediction.samples.mean(0))
    between = prediction.samples.var(0, correction=0)
    torch.testing.assert_close(prediction.epistemic_variance, between)
    both = prediction.aleatoric_variance + prediction.epistemic_variance
    assert torch.equal(prediction.variance, both)
    assert (prediction.aleatoric_variance > 0).all()
    if likelihood == "fixed":
        expected = torch.full((7, 2), 0.3).square()
        torch.testing.assert_close(prediction.aleatoric_variance, expected)
    assert prediction.mutual_information is None
    assert prediction.log_likelihood is None


def test_epistemic_variance_survives_a_large_offset():
    bnn = bayesian("fixed").float()
    with torch.no_grad():
        bnn.network[-1].bias.fill_(1e4)
    prediction = bd.predict(bnn, inputs().float(), num_samples=50)
    exact = prediction.samples.double().var(0, correction=0)
    torch.testing.assert_close(prediction.epistemic_variance.double(), exact, rtol=1e-2, atol=1e-6)


def test_log_likelihood_is_that_of_the_mixture():
    bnn, y = bayesian("fixed"), torch.randn(7, 2)
    prediction = bd.predict(bnn, (inputs(), y), num_samples=9)
    terms = torch.distributions.Normal(prediction.samples, 0.3).log_prob(y).sum(-1)
    expected = terms.logsumexp(0) - math.log(9)
    torch.testing.assert_close(prediction.log_likelihood, expected)


# -- log-probabilities, not logs of probabilities -------------------------------------------------


class Given(nn.Module):
    """A network that returns its input."""

    def forward(self, x):
        return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [1.0, 100.0, 103.0, 105.0, 120.0, 900.0])
def test_nll_is_exact_where_the_probability_is_zero_in_its_dtype(gap, dtype):
    expected = gap + math.log1p(math.exp(-gap))
    logits, y = torch.tensor([[0.0, gap]], dtype=dtype), torch.zeros(1).long()
    for likelihood, output, target in (
        (bd.Categorical(), logits, y),
        (bd.Bernoulli(), logits[:, 1:], y),
    ):
        bnn = bd.BayesianNetwork(Given(), likelihood, num_data=10)
        assert bd.evaluate(bnn, (output, target)).nll == pytest.approx(expected, rel=2e-7)


def test_log_likelihood_of_samples_is_the_log_of_their_average():
    """Two samples, of which one gives the label e^-200: the mixture's NLL is that of the other."""
    moments = ClassMoments(bd.Categorical(), torch.zeros(1).long())
    for gap in (200.0, 120.0):
        moments.add(torch.tensor([[0.0, gap]], dtype=torch.float32))
    found = moments.result()["log_likelihood"]
    assert float(found) == pytest.approx(-120.0 - math.log(2.0), rel=1e-12)


def test_a_missing_label_has_a_log_likelihood_of_zero():
    output, y = torch.randn(3, 4, 2), torch.tensor([[0, -100], [1, 2], [-100, 3]])
    moments = ClassMoments(bd.Categorical(), y)
    moments.add(output)
    found = moments.result()["log_likelihood"]
    expected = output.log_softmax(1).gather(1, y.clamp(min=0)[:, None])[:, 0] * (y >= 0)
    torch.testing.assert_close(found, expected)


def test_labels_of_other_classes_are_kept_without_a_likelihood():
    bnn = bd.BayesianNetwork(Given(), bd.Categorical(), num_data=10)
    prediction = bd.predict(bnn, (torch.zeros(4, 3), torch.arange(4)), batch_size=2)
    assert prediction.log_likelihood is None
    assert torch.equal(prediction.y, torch.arange(4))
